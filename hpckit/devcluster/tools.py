"""Asking a development cluster: Slurm's own tools, sockets, and what logs say at their end."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from hpckit.devcluster.machine import find_program

LAST_LINES = 12


class Tools:
    """Slurm's and MariaDB's programs, called with the environment of one cluster."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self.refusal = ""
        """What the last tool that had to succeed said instead."""

    def run(
        self, name: str, *arguments: str, limit_s: float = 10
    ) -> subprocess.CompletedProcess[str]:
        """Run a tool; one that is not there or does not answer in time has failed."""
        command = [find_program(name) or name, *arguments]
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=self._environment,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"no answer in {limit_s:.0f} s")
        except FileNotFoundError:
            return subprocess.CompletedProcess(command, 127, "", f"{name} is not installed")

    def succeed(self, name: str, *arguments: str) -> bool:
        """Whether a tool ends well."""
        done = self.run(name, *arguments)
        self.refusal = done.stderr if done.returncode != 0 else ""
        return done.returncode == 0


def accepts(path: Path) -> bool:
    """Whether somebody listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def last_lines(text: str) -> str:
    """The end of a log, indented to stand under a message."""
    lines = text.splitlines()[-LAST_LINES:]
    return "\n".join(f"    {line}" for line in lines) or "    (it printed nothing)"

"""The demos' scripts as tests start them: the same commands over a training of a few steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
# Some sounds, once through: no incident, but all that a demo shows.
SHORT = ("-s", "params.epochs=1", "-s", "params.data.clips=30")


@pytest.fixture
def environ(tmp_path):
    """Where `hpckit` is what is tested, and Slurm is what a test says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "hpckit"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m hpckit "$@"\n')
    program.chmod(0o755)
    known = {name: value for name, value in os.environ.items() if name != "SLURM_CONF"}
    paths = os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")])
    return {**known, "PATH": f"{folder}:{known['PATH']}", "PYTHONPATH": paths}


def started(script: str, folder: Path, environ: dict[str, str], *changes: str):
    """A demo with a group of its own, for Ctrl-C reaches all of a terminal's."""
    return subprocess.Popen(
        ["bash", str(DOCS / script), str(folder), *changes],
        cwd=folder.parent,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes_naming(text: str) -> list[str]:
    """Commands that run just now and speak of it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command:
            found.append(command)
    return found

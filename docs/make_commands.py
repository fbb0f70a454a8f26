"""Writes docs/commands.md: what `--help` says of every command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from hpckit.cli import COMMANDS

TARGET = Path(__file__).with_name("commands.md")


def text() -> str:
    parts = ["# Commands\n"]
    for command in ["", *COMMANDS]:
        parts.append(_section(command.split()))
        if command in ("checkpoint", "data", "cluster"):
            parts += [_section([command, name]) for name in _subcommands(command)]
    return "\n".join(parts)


def _section(words: list[str]) -> str:
    title = " ".join(["hpckit", *words])
    return f"## {title}\n\n```console\n$ {title} --help\n{_help(words)}```\n"


def _help(words: list[str]) -> str:
    command = [sys.executable, "-m", "hpckit", *words, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.replace("python -m hpckit", "hpckit")


def _subcommands(command: str) -> list[str]:
    _, _, listed = _help([command]).partition("Commands:\n")
    return re.findall(r"^  (\S+)", listed, re.MULTILINE)


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")

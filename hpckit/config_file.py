"""The project's and the user's configuration files: defaults for what flags would say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpckit import yamlio
from hpckit.errors import Problem, SpecError
from hpckit.model.fields import build, setting


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a configuration file may hold."""

    root: str | None = setting(default=None, help="Where runs live, relative to this file.")
    cluster: str | None = setting(default=None, help="A cluster profile, or slurm or local.")


def read_config(file: Path) -> Config:
    """The configuration in a file; SpecError tells all that is wrong with it."""
    problems: list[Problem] = []
    node = yamlio.read(file)
    if yamlio.is_null(node):
        return Config()
    config = build(Config, node, problems)
    if config is None or problems:
        raise SpecError(problems)
    return config

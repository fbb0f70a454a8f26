"""Where runs live and which cluster is meant: flag, HPCKIT_*, spec, project, then user."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from hpckit.errors import UsageError

if TYPE_CHECKING:
    from hpckit.scheduler.base import Scheduler

PROJECT = ".hpckit.yaml"
SCHEDULERS = ("local", "slurm")


def setting(key: str, flag: str | None = None, spec: str | None = None) -> str | None:
    """The value in force for a key, None where nobody has said anything."""
    for value in (flag, os.environ.get(f"HPCKIT_{key.upper()}"), spec):
        if value:
            return value
    for file in filter(Path.is_file, config_files()):
        # yaml costs 19 ms, and most people have no configuration file.
        from hpckit.config_file import read_config

        found: str | None = getattr(read_config(file), key)
        if found:
            return _beside(file, found) if key == "root" else found
    return None


def cache_folder() -> Path:
    """Where this user's caches live; losing them costs a question, nothing else."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "hpckit"


def config_files() -> list[Path]:
    """The project's file, here or above, then the user's."""
    here = Path.cwd()
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    projects = [folder / PROJECT for folder in (here, *here.parents)]
    return [*projects, Path(base) / "hpckit" / "config.yaml"]


def _beside(file: Path, value: str) -> str:
    return str(file.parent / at_home(value))


def at_home(value: str) -> Path:
    """A path whose `~` is a home folder, where there is one."""
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{value}: there is no such home folder") from error


def root(flag: str | None = None, scratch: str | None = None) -> Path:
    """The folder that holds the runs."""
    found = setting("root", flag, scratch) or "runs"
    return at_home(found).absolute()


def typed(run_id: str, folder: str | Path) -> str:
    """What names a run in a command without --root: its id, or its folder under another root."""
    return run_id if root() / run_id == Path(folder) else shlex.quote(str(folder))


def profile_name(flag: str | None = None) -> str | None:
    """The cluster profile that is meant, None for no profile."""
    name = setting("cluster", flag)
    return None if name in (None, *SCHEDULERS) else name


def scheduler(flag: str | None = None) -> Scheduler:
    """The scheduler that is meant: Slurm for a profile, else by name, else what answers."""
    from hpckit.scheduler import choose

    name = setting("cluster", flag)
    if name in SCHEDULERS:
        return choose(name)
    return choose("slurm" if name else None)

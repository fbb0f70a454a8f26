"""Moving what a program must not find any more out of its working folder, so that it can be
brought back."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from hpckit.clock import now_iso
from hpckit.files import fsync_folder, told_apart, write_json

FOLDER = "set-aside"
# Says why and when, and what was to be moved from where.
ABOUT = "why.json"


def put_aside(
    work: Path, groups: Sequence[Sequence[str]], moved_to: Path, about: Mapping[str, Any]
) -> list[str]:
    """Move each path to the same place in a folder of its own time, in the order given.

    What was moved, from the working folder. Nothing is there already to be overwritten, and what
    another process has moved before us is passed over.
    """
    if not groups:
        return []
    with told_apart(moved_to, "it must be moved before the program may start again"):
        folder = _new_folder(moved_to)
        # First, so that a death in the midst leaves nothing unexplained.
        write_json(folder / ABOUT, {"time": now_iso(), "from": str(work), **about})
        moved = [path for group in groups for path in group if _move(work / path, folder / path)]
        for each in sorted({*_parents(work, moved), *_parents(folder, moved)}):
            fsync_folder(each)
    return moved


def _new_folder(moved_to: Path) -> Path:
    moved_to.mkdir(exist_ok=True)
    when = now_iso()[:19].replace(":", "-")
    for number in itertools.count(1):
        folder = moved_to / (when if number == 1 else f"{when}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        fsync_folder(moved_to)
        return folder
    raise AssertionError


def _move(source: Path, target: Path) -> bool:
    """Whether it was there: on a shared filesystem another process may do the same."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(source, target)
    except FileNotFoundError:
        if os.path.lexists(source):
            raise
        return False
    return True


def _parents(folder: Path, paths: Sequence[str]) -> Iterator[Path]:
    """The folders that lie between, and the folder itself."""
    for path in paths:
        for parent in PurePath(path).parents:
            yield folder / parent

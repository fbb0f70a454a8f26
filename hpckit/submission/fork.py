"""A new run that begins where another one stood: its checkpoint becomes part of the new one."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit import run as runs
from hpckit.errors import UsageError

if TYPE_CHECKING:
    from hpckit.checkpoint.manifest import Checkpoint

FOLDER = "fork"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fork:
    """The run and the checkpoint that a new run begins with."""

    run_id: str
    checkpoint: Checkpoint

    def bring(self, run_folder: Path) -> dict[str, Any]:
        """Put the checkpoint beside the new run; what its identity says of it.

        By links where that can be: it lives on when the other run deletes its own.
        """
        target = run_folder / FOLDER / self.checkpoint.name
        shutil.copytree(self.checkpoint.path, target, copy_function=_linked)
        return {"run": self.run_id, "step": self.checkpoint.step, "checkpoint": str(target)}


def _linked(source: str, target: str) -> None:
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)


def find_fork(root: Path, wanted: str) -> Fork:
    """`RUN`, `RUN@1200`, `RUN@good` or `RUN@best`: what to begin with."""
    from hpckit.checkpoint.choosing import choose

    name, _, which = wanted.partition("@")
    run = runs.find(root, name or None)
    if run.is_sweep:
        raise UsageError(f"{run.id} is a sweep", f"name one of its runs: {run.id}/000")
    if which and which not in ("good", "best") and not which.isdigit():
        raise UsageError(
            f"--from {wanted}: {which!r} is no step",
            f"write {name}@12000, {name}@good or {name}@best",
        )
    found = choose(
        run,
        step=int(which) if which.isdigit() else None,
        good=which == "good",
        best=which == "best",
    )
    return Fork(run_id=run.id, checkpoint=found)

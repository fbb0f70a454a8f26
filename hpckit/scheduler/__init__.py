"""The one seam to Slurm, and its local twin."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpckit.scheduler.base import Scheduler

KINDS = ("slurm", "local")


def choose(kind: str | None = None) -> Scheduler:
    """The scheduler asked for; unasked, HPCKIT_SCHEDULER's, else Slurm where it answers."""
    kind = kind or os.environ.get("HPCKIT_SCHEDULER") or _what_is_here()
    # Each kind loads only when it is the one: reading commands start fast.
    if kind == "slurm":
        from hpckit.scheduler.slurm import Slurm

        return Slurm()
    if kind == "local":
        from hpckit.scheduler.local import Local

        return Local()
    from hpckit.errors import UsageError

    raise UsageError(f"no scheduler {kind!r}", f"there are {' and '.join(KINDS)}")


def _what_is_here() -> str:
    from hpckit.scheduler.slurm import is_here

    return "slurm" if is_here() else "local"

"""What `show` and `checkpoint ls` tell of a run's checkpoints, as plain data for --json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpckit.checkpoint.manifest import MANIFEST, Checkpoint
from hpckit.checkpoint.names import Segment, nth, parse, parse_damaged
from hpckit.checkpoint.store import Store

# What is wrong with one of which only the folder's name tells anything.
NO_SENSE = f"{MANIFEST} makes no sense"


def listing(store: Store) -> list[dict[str, Any]]:
    """Those that count and those that are damaged or were set aside, newest last.

    Nothing but the manifests is read.
    """
    found = store.on_branch()
    best = best_of(found)
    told = [(one.order, describe(one, is_best=one is best)) for one in found]
    for path in store.damaged():
        if (named := parse_damaged(path.name)) is not None:
            told.append(((*named, 1), _damaged(path, named[0])))
    for order, path in senseless(store):
        told.append((order, {**_damaged(path, order[0]), "problem": NO_SENSE}))
    return [about for _, about in sorted(told, key=lambda each: each[0])]


def senseless(store: Store) -> list[tuple[tuple[int, Segment, int], Path]]:
    """Those whose manifest is damaged, with their place in the order of checkpoints."""
    found = [(parse(path.name), path) for path in store.unreadable()]
    return [((*order, nth(path.name)), path) for order, path in found if order is not None]


def best_of(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """The one with the best metric: each was the best when it was saved, so the newest."""
    return next((found for found in reversed(checkpoints) if found.best), None)


def describe(checkpoint: Checkpoint, *, is_best: bool) -> dict[str, Any]:
    return {
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "batch": checkpoint.batch,
        "name": checkpoint.name,
        "good": checkpoint.is_good,
        "best": is_best,
        "why": checkpoint.why,
        "created": checkpoint.created,
        "bytes": checkpoint.bytes,
        "finite": checkpoint.finite,
        "metrics": checkpoint.metrics,
        "dir": str(checkpoint.path),
        "damaged": False,
    }


def _damaged(path: Path, step: int) -> dict[str, Any]:
    return {"step": step, "name": path.name, "dir": str(path), "damaged": True}

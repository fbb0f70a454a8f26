"""Which checkpoints may go: what could still be needed to go back to never does."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpckit.checkpoint import names
from hpckit.checkpoint.manifest import ABANDONED, GOOD, MANIFEST, Checkpoint
from hpckit.checkpoint.names import Segment
from hpckit.checkpoint.store import Store

GOOD_ONES = 2


@dataclass(frozen=True, slots=True)
class Rules:
    """The last so many stay, and for good one in every so many steps."""

    keep: int = 3
    keep_every: int | None = None


def to_delete(
    on_branch: Sequence[Checkpoint],
    off_branch: Sequence[Checkpoint],
    rules: Rules,
    newest_step: int,
) -> list[Checkpoint]:
    """What may go, oldest first.

    What was left behind goes once the run has come as far again: until then a run that took up
    too early by somebody's mistake has lost nothing.
    """
    kept = {found.path for found in needed(on_branch, rules)}
    passed = [found for found in off_branch if found.step <= newest_step]
    going = {found.path: found for found in [*passed, *on_branch] if found.path not in kept}
    return sorted(going.values(), key=lambda found: found.order)


def needed(on_branch: Sequence[Checkpoint], rules: Rules) -> list[Checkpoint]:
    """What stays of the checkpoints that count."""
    ordered = _newest_of_each(sorted(on_branch, key=lambda found: found.order))
    good = [found for found in ordered if found.is_good]
    undecided = [
        found
        for found in ordered
        if not found.is_good
        and found.finite is not False
        and (not good or found.order > good[-1].order)
    ]
    best = [found for found in ordered if found.best]
    last = ordered[-max(1, rules.keep) :]
    # The newest best one may be of a branch that is left yet; the one that is good stays.
    good_best = [found for found in best if found.is_good]
    both = [*best[-1:], *good_best[-1:]]
    return [*good[-GOOD_ONES:], *undecided, *both, *last, *_spread(ordered, rules.keep_every)]


def _newest_of_each(ordered: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Of several of one step the newest, which what came after the step is in; and the best."""
    newest = {(found.step, found.segment): found for found in ordered if found.finite is not False}

    def is_needed(found: Checkpoint) -> bool:
        last = newest.get((found.step, found.segment), found)
        return found is last or found.best or (found.is_good and not last.is_good)

    return [found for found in ordered if is_needed(found)]


def _spread(ordered: Sequence[Checkpoint], every: int | None) -> list[Checkpoint]:
    """The first of each stretch of so many steps: it stays the first, whatever is deleted."""
    if not every:
        return []
    first: dict[int, Checkpoint] = {}
    for found in ordered:
        first.setdefault(found.step // every, found)
    return list(first.values())


def delete(checkpoint: Checkpoint) -> bool:
    """Delete one, its manifest first: what a cut-off deletion leaves is no checkpoint."""
    try:
        for name in (MANIFEST, ABANDONED, GOOD):
            (checkpoint.path / name).unlink(missing_ok=True)
    except OSError:
        return False
    shutil.rmtree(checkpoint.path, ignore_errors=True)
    return not checkpoint.path.exists()


def clean(store: Store, present: Segment) -> list[Path]:
    """Delete what earlier segments did not finish; the present one may be writing its own."""
    try:
        going = [path for path in store.incomplete() if _is_earlier(path, present)]
    except OSError:
        # The next attempt cleans up, too.
        return []
    for path in going:
        shutil.rmtree(path, ignore_errors=True)
    return going


def _is_earlier(path: Path, present: Segment) -> bool:
    found = names.parse(path.name)
    return found is not None and found[1] < present

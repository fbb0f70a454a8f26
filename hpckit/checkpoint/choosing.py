"""The checkpoint that a person means: of a step, the best, the newest that is good or intact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpckit.checkpoint.listing import best_of
from hpckit.checkpoint.manifest import Checkpoint, problem
from hpckit.checkpoint.store import Store
from hpckit.errors import HpckitError, NotFound, UsageError
from hpckit.paint import note

if TYPE_CHECKING:
    from hpckit.run import Run


def choose(
    run: Run, *, step: int | None = None, good: bool = False, best: bool = False
) -> Checkpoint:
    """The first one that is meant and whose files are whole.

    Unlike the run itself, a reader renames nothing.
    """
    for found in _meant(run, step, good, best):
        wrong = problem(found)
        if wrong is None:
            return found
        note(f"{found.name} is damaged: {wrong}")
    raise HpckitError(
        f"{run.id} has no such checkpoint that is intact",
        f"hpckit checkpoint ls --verify {run.id} looks at all of them",
    )


def _meant(run: Run, step: int | None, good: bool, best: bool) -> list[Checkpoint]:
    """What comes into question, the newest first; never nothing."""
    if (step is not None) + good + best > 1:
        raise UsageError("--step, --good and --best each mean a checkpoint", "give one of them")
    store = Store.of_run(run.dir)
    found = store.on_branch()
    if step is not None:
        off = [each for each in store.all() if each not in found]
        chosen = [each for each in [*found, *off] if each.step == step][:1]
        what = f"of step {step}"
    elif good:
        chosen, what = [each for each in reversed(found) if each.is_good], "that is good"
    elif best:
        best_one = best_of(found)
        chosen, what = [best_one] if best_one else [], "with a best metric"
    else:
        chosen, what = found[::-1], "yet"
    if not chosen:
        steps = ", ".join(str(each.step) for each in found[-8:])
        there = f"there are those of steps {steps}" if steps else "it has saved nothing"
        raise NotFound(f"{run.id} has no checkpoint {what}", there)
    return chosen

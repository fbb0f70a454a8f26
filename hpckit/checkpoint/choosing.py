"""The checkpoint that a person means: of a step, the best, the newest that is good or intact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpckit.checkpoint.listing import NO_SENSE, best_of, senseless
from hpckit.checkpoint.manifest import Checkpoint, problem
from hpckit.checkpoint.store import Store
from hpckit.errors import HpckitError, NotFound, UsageError
from hpckit.paint import note
from hpckit.settings import typed

if TYPE_CHECKING:
    from hpckit.run import Run


def choose(
    run: Run, *, step: int | None = None, good: bool = False, best: bool = False
) -> Checkpoint:
    """The first one that is meant and whose files are whole.

    Unlike the run itself, a reader renames nothing. What is passed over is told.
    """
    store = Store.of_run(run.dir)
    meant = _meant(store, step, good, best)
    whole = next((found for found in meant if _is_whole(found)), None)
    passed_over = _passed_over(store, step, whole)
    for name in passed_over:
        note(f"{name} is damaged: {NO_SENSE}")
    if whole is not None:
        return whole
    if not meant and not passed_over:
        raise NotFound(f"{run.id} has no checkpoint {_words(step, good, best)}", _there(store))
    raise HpckitError(
        f"{run.id} has no such checkpoint that is intact",
        f"hpckit checkpoint ls --verify {typed(run.id, run.dir)} looks at all of them",
    )


def _meant(store: Store, step: int | None, good: bool, best: bool) -> list[Checkpoint]:
    """What comes into question, the newest first."""
    if (step is not None) + good + best > 1:
        raise UsageError("--step, --good and --best each mean a checkpoint", "give one of them")
    found = store.on_branch()
    if step is not None:
        off = [each for each in store.all() if each not in found]
        return [each for each in [*reversed(found), *reversed(off)] if each.step == step][:1]
    if good:
        return [each for each in reversed(found) if each.is_good]
    if best:
        best_one = best_of(found)
        return [best_one] if best_one else []
    return found[::-1]


def _is_whole(found: Checkpoint) -> bool:
    wrong = problem(found)
    if wrong is not None:
        note(f"{found.name} is damaged: {wrong}")
    return wrong is None


def _passed_over(store: Store, step: int | None, chosen: Checkpoint | None) -> list[str]:
    """Those with a damaged manifest that might have been taken instead: of the step, or newer."""
    return [
        path.name
        for order, path in senseless(store)
        if (order[0] == step if step is not None else chosen is None or order > chosen.order)
    ]


def _words(step: int | None, good: bool, best: bool) -> str:
    if step is not None:
        return f"of step {step}"
    return "that is good" if good else "with a best metric" if best else "yet"


def _there(store: Store) -> str:
    steps = ", ".join(str(each.step) for each in store.on_branch()[-8:])
    return f"there are those of steps {steps}" if steps else "it has saved nothing"

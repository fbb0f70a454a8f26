"""Starting the next attempt of runs that have none: from a terminal, cron, or a tiny job.

It does what a worker does where it can: it submits a chain with the attempts that are left. It
acts only on what the scheduler says for certain, and whoever announces a chain first has it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpckit.errors import ChainTaken, HpckitError
from hpckit.run import Run, chain_numbers
from hpckit.status.state import CUT_OFF_S, FOREGROUND, State, states_of

if TYPE_CHECKING:
    from hpckit.status.index import CacheOf
    from hpckit.status.queue_cache import QueueCache


@dataclass(frozen=True, kw_only=True, slots=True)
class Guarded:
    """A run that has not ended, how it stands, and what was done for it."""

    run: Run
    state: State
    job_id: str | None = None
    said: str = ""
    # The scheduler did not say how it stands, or did not take what it needs.
    failed: bool = False


def guard(runs: Sequence[Run], cache_of: CacheOf) -> list[Guarded]:
    """Look once, and start what has no next attempt; those that have ended are left out."""
    found: list[Guarded] = []
    for kind in sorted({run.scheduler for run in runs}):
        mine = [run for run in runs if run.scheduler == kind]
        # Before anybody is asked: who announces a chain after this look is seen by its number.
        numbers = {run.id: max(chain_numbers(run), default=0) for run in mine}
        cache = cache_of(kind)
        for facts, state in states_of(mine, cache):
            if not state.is_final:
                found.append(_served(facts.run, state, numbers[facts.run.id], cache))
    return found


def to_guard(runs: Sequence[Run]) -> list[Run]:
    """The single runs among these; of a sweep its points."""
    single = [each for run in runs for each in (run.point_runs() if run.is_sweep else [run])]
    return [run for run in single if run.scheduler != FOREGROUND]


def _served(run: Run, state: State, newest: int, cache: QueueCache | None) -> Guarded:
    if state.state != "healing" or cache is None:
        return Guarded(run=run, state=state, failed=state.is_unheard)
    if _is_announced(run, newest):
        return Guarded(run=run, state=state, said="somebody has just gone on with it")
    from hpckit.submission.continuing import continue_run

    try:
        job_id = continue_run(run, cache.scheduler, number=newest + 1, after=None)
    except ChainTaken as error:
        return Guarded(run=run, state=state, said=error.message)
    except (HpckitError, OSError) as error:
        return Guarded(run=run, state=state, said=f"not submitted: {error}", failed=True)
    finally:
        cache.forget()
    return Guarded(run=run, state=state, job_id=job_id, said=f"goes on as job {job_id}")


def _is_announced(run: Run, newest: int) -> bool:
    """Whether its newest chain may be on its way just now: what the queue said may be older."""
    if any(attempt.about().get("chain") == newest for attempt in run.attempts()):
        return False
    if _is_withdrawn(run, newest):
        return False
    with contextlib.suppress(OSError):
        return time.time() - os.stat(run.chain_folder(newest)).st_mtime < CUT_OFF_S
    return False


def _is_withdrawn(run: Run, chain: int) -> bool:
    """Whether who announced it was refused: then what was before counts again."""
    said = [event.data["chains"] for event in run.ledger().events() if event.kind == "submit"]
    submission = run.submission()
    return (
        any(chain in chains for chains in said)
        and submission is not None
        and chain not in submission.data["chains"]
    )

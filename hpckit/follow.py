"""Following a run over its attempts, to its end."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from hpckit.logs import follow
from hpckit.paint import duration, note
from hpckit.run import Run
from hpckit.settings import typed
from hpckit.status.state import LOST, State, states_of

if TYPE_CHECKING:
    from hpckit.status.queue_cache import QueueCache

# The run directory is looked at often; whether the scheduler is asked, its cache decides.
LOOK_S = 1.0
# Accounting may come later than the end of a job, but not by this much.
LOST_S = 300.0


class Patience:
    """How long a run has been lost without a word; whoever follows it must not do so for ever."""

    def __init__(self) -> None:
        self._since: float | None = None

    def is_over(self, lost: bool) -> bool:
        if not lost:
            self._since = None
            return False
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since > LOST_S


def follow_run(
    run: Run, cache: QueueCache | None, *, rank: int = 0, last_lines: int | None = None
) -> int:
    """Print what a rank prints until the run ends; the run's outcome as an exit code."""
    try:
        return _follow(run, cache, rank, last_lines)
    except KeyboardInterrupt:
        note(f"-- no longer following; the run goes on: hpckit watch {typed(run.id, run.dir)}")
        raise


def _follow(run: Run, cache: QueueCache | None, rank: int, last_lines: int | None) -> int:
    shown, state_words, looked, is_open = 0, "", 0.0, False
    ended: State | None = None
    patience = Patience()
    for attempt, text in follow(run, rank, last_lines=last_lines):
        if attempt.number != shown and attempt.number:
            note(f"-- attempt {attempt.number}, job {attempt.about().get('job_id')}")
            shown = attempt.number
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
            is_open = sys.stdout.isatty() and not text.endswith("\n")
            continue
        if ended is not None:
            break
        if time.monotonic() - looked >= LOOK_S:
            looked = time.monotonic()
            state = states_of([run], cache)[0][1]
            words = state.words
            if words != state_words and state.state != "running":
                note(f"-- {words}")
            state_words = words
            ended = state if state.is_final else None
            if patience.is_over(state.state == "unknown" and state.reason == LOST):
                note(f"-- {words}: no longer followed")
                return 1
    assert ended is not None
    note("\n" * is_open + summary(run))
    return ended.exit_code or 0


def summary(run: Run) -> str:
    """One line for the end: how long, how many attempts, where everything is."""
    from hpckit.clock import now_iso, seconds_of

    attempts = run.attempts()
    took = seconds_of(now_iso()) - seconds_of(run.created)
    tries = f"{len(attempts)} attempt" + ("" if len(attempts) == 1 else "s")
    return f"-- {run.id}: {duration(took)} since it was submitted, {tries}; {run.dir}"

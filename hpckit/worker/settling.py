"""How the attempt before this one ended where it could not say so: by the scheduler's word."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpckit.clock import iso
from hpckit.errors import SchedulerSilent
from hpckit.ledger import is_by_hand
from hpckit.run import Attempt, Run
from hpckit.scheduler.base import Phase
from hpckit.worker.outcome import TERMINATED, Outcome, after_a_silent_end

if TYPE_CHECKING:
    from hpckit.scheduler.base import JobStatus, Scheduler

# As long as Slurm waits between SIGTERM and SIGKILL at most sites, and then some.
SETTLE_S = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """How an attempt ended, by the scheduler's word."""

    attempt: Attempt
    outcome: Outcome
    ended: str
    node: str | None = None
    # It may be alive, or what a person has ended, for all that is known: nobody takes its place.
    may_live: bool = False


@dataclass(kw_only=True)
class Settling:
    """Asks the scheduler about attempts of a run."""

    run: Run
    scheduler: Scheduler

    def last(self) -> Settled | None:
        """What the newest attempt leaves to be decided; None where it has said so itself."""
        attempts = self.run.attempts()
        if not attempts:
            return None
        previous = attempts[-1]
        ended = previous.ended()
        if ended is not None and ended["reason"] != TERMINATED:
            return None
        status = self.end_of(previous.job_id)
        when = ended["ended"] if ended else _end_time(status, previous)
        outcome = after_a_silent_end(status, is_ours=self._is_ours(previous))
        if self._is_restarted(previous):
            # However it ended: a person has looked at it, and goes on.
            outcome = Outcome(state=None, reason=outcome.reason)
        return Settled(
            attempt=previous,
            outcome=outcome,
            ended=when,
            node=only_node(status.node) if status is not None else None,
            may_live=status is not None and status.phase is not Phase.ENDED,
        )

    def _is_ours(self, attempt: Attempt) -> bool:
        """Whether hpckit was to end it."""
        job_id = attempt.job_id
        return any(
            event.kind == "scancel" and job_id in event.data.get("jobs", ())
            for event in self.run.ledger().events()
        )

    def _is_restarted(self, attempt: Attempt) -> bool:
        """Whether a person has started the run again since it began."""
        return any(
            is_by_hand(event) and event.data.get("after") == attempt.number
            for event in self.run.ledger().events()
        )

    def end_of(self, job_id: str) -> JobStatus | None:
        """How a job ended, by the scheduler's word, waited for if it is still ending.

        The next link may start while the one before is saving what scancel interrupted: whether
        a person ended it is not to be guessed.
        """
        pause_s, until = 0.5, time.monotonic() + SETTLE_S
        while True:
            found, answered = self.status_of(job_id)
            if found is not None and found.phase is Phase.ENDED:
                return found
            if answered and found is None:
                return self._in_history(job_id)
            if time.monotonic() > until:
                return found
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 10.0)

    def status_of(self, job_id: str) -> tuple[JobStatus | None, bool]:
        """A job as the queue has it, and whether the queue answered at all."""
        try:
            queue = self.scheduler.queue()
        except SchedulerSilent:
            return None, False
        return next((job for job in queue if job.job_id == job_id), None), True

    def _in_history(self, job_id: str) -> JobStatus | None:
        try:
            jobs = self.scheduler.history(self.run.job_names, self.run.created)
        except SchedulerSilent:
            return None
        return next((job for job in jobs if job.job_id == job_id), None)


def _end_time(status: JobStatus | None, attempt: Attempt) -> str:
    if status is not None and status.ended:
        return str(status.ended)
    return iso(attempt.last_seen() or time.time())


def only_node(listed: str) -> str | None:
    """The node of a job that had one: of several, nobody knows here which was to blame."""
    return listed if listed and not set(listed) & set("[,") else None

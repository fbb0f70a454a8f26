"""What comes after this link: the rest of its chain, changed where need be, or a new chain."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpckit.clock import seconds_of
from hpckit.errors import HpckitError, SchedulerSilent
from hpckit.heal import Plan
from hpckit.ledger import Event
from hpckit.run import Run, chain_numbers
from hpckit.scheduler.base import Changed, Phase
from hpckit.status.state import CUT_OFF_S
from hpckit.worker.outcome import NOBODY_NEXT, Outcome

if TYPE_CHECKING:
    from hpckit.scheduler.base import Scheduler

LOOK_AGAIN_S = 5.0


@dataclass(kw_only=True)
class NextLinks:
    """The links after one of a chain."""

    run: Run
    chain: Mapping[str, Any]
    task: int
    scheduler: Scheduler
    # Another chain goes on with the run.
    continued: bool = False

    @property
    def _has_rest(self) -> bool:
        # The other tasks of a sweep's array are other runs.
        return self._is_own and self.task < self.chain["size"]

    @property
    def _is_own(self) -> bool:
        return self.chain["home"] == str(self.run.dir) or self.run.point is None

    @property
    def _array_id(self) -> str:
        return os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ["SLURM_JOB_ID"]

    def is_newest(self) -> bool:
        """Whether no later submission serves the run; one that never reached a queue does not."""
        while True:
            newest = self.run.submission()
            if newest is None:
                return False
            if self.chain["number"] in newest.data["chains"] and self._is_of(newest):
                return True
            heard = self._is_heard_of(newest)
            if heard is not None:
                return not heard and self._take_back(newest)
            if time.time() - seconds_of(newest.time) > 2 * CUT_OFF_S:
                # Nobody answers: rather none than two; a guard may look again.
                return False
            time.sleep(LOOK_AGAIN_S)

    def _is_of(self, submission: Event) -> bool:
        """A point's own chains are numbered apart from those of its sweep."""
        return self._is_own or self.run.point is None or "point" not in submission.data

    def _is_heard_of(self, submission: Event) -> bool | None:
        """Whether a later submission has reached the queue; None where that is not known yet."""
        chains = submission.data["chains"]
        events = self.run.ledger().events()
        if any(e.kind == "submitted" and e.data.get("chain") in chains for e in events):
            return True
        with contextlib.suppress(SchedulerSilent):
            names = self.run.job_names
            jobs = [job for job in self.scheduler.queue() if job.name in names]
            if any(j.array_id != self._array_id and j.phase is not Phase.ENDED for j in jobs):
                return True
            if time.time() - seconds_of(submission.time) > CUT_OFF_S:
                return False
        return None

    def _take_back(self, submission: Event) -> bool:
        serial = submission.data.get("serial", 0) + 1
        self.run.ledger().write("submit", chains=[self.chain["number"]], serial=serial)
        return True

    def prepare(self, plan: Plan) -> None:
        """Have those that wait ask for what the plan changes."""
        if not (plan.exclude or plan.wait_s or _resources(plan)) or self.continued:
            return
        changed = self._asked(plan)
        if not (changed.resources or changed.exclude or changed.wait_s):
            # A node that must not be left out: there would be too few.
            return
        if self._has_rest:
            try:
                self.scheduler.update(self._array_id, self._rest, changed)
                return
            except HpckitError as error:
                print(f"hpckit: {error.message}: a new chain is submitted", flush=True)
        self._continue(plan)

    @property
    def _rest(self) -> range:
        return range(self.task + 1, self.chain["size"] + 1)

    def _asked(self, plan: Plan) -> Changed:
        """All that differs from the spec by now: an update of before may have been refused."""
        from hpckit.submission.continuing import spec_in_force, to_exclude

        before = self.run.spec().resources
        spec, excluded = spec_in_force(self.run)
        changed = {
            name: value
            for name, value in vars(spec.resources).items()
            if value != getattr(before, name)
        }
        exclude = to_exclude(self.scheduler, spec, excluded)
        return Changed(resources=changed, exclude=exclude, wait_s=plan.wait_s)

    def or_stop(self, outcome: Outcome, attempts_left: int) -> Outcome:
        """An attempt that would go on: whether there is something to go on in."""
        if outcome.state is not None or self._has_rest or self.continued or self._is_taken_over:
            return outcome
        if attempts_left <= 0:
            used = len(self.run.attempts())
            reason = f"{outcome.reason}; all {used} attempts are used"
            return dataclasses.replace(outcome, state="stopped", reason=reason)
        return outcome if self._continue(None) else _with(outcome, NOBODY_NEXT)

    @property
    def _is_taken_over(self) -> bool:
        newest = self.run.submission()
        return newest is not None and self.chain["number"] not in newest.data["chains"]

    def _continue(self, plan: Plan | None) -> bool:
        """Submit a chain that begins when this job has ended."""
        from hpckit.submission.continuing import continue_run
        from hpckit.worker.link import job_id_of

        rest = [f"{self._array_id}_{task}" for task in self._rest] if self._has_rest else []
        try:
            continue_run(
                self.run,
                self.scheduler,
                number=max(chain_numbers(self.run), default=0) + 1,
                after=job_id_of(os.environ),
                wait_s=plan.wait_s if plan is not None else 0,
                beside=[self.chain["number"]],
            )
        except (HpckitError, OSError) as error:
            print(f"hpckit: the next chain: {error}", flush=True)
            return False
        self.continued = True
        with contextlib.suppress(Exception):
            if rest:
                self.run.ledger().write("scancel", jobs=rest, why="another chain goes on")
                self.scheduler.cancel([self._array_id], pending_only=True)
        return True

    def cancel(self) -> None:
        """Spare the queue the links that are left."""
        if self._has_rest:
            with contextlib.suppress(Exception):
                # A node without scancel loses nothing: the next link ends in a second.
                self.scheduler.cancel([self._array_id], pending_only=True)


def _resources(plan: Plan) -> list[str]:
    return [name for name in plan.changes if name.startswith("resources.")]


def _with(outcome: Outcome, more: str) -> Outcome:
    return dataclasses.replace(outcome, reason=f"{outcome.reason}; {more}")

"""One attempt: the program is launched, and launched again while the policy says so."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpckit.checkpoint.lineage import believed
from hpckit.errors import HpckitError
from hpckit.heal.in_force import params_in_force, plans_in_force, resources_in_force
from hpckit.requests import END, waiting
from hpckit.run import Attempt, Run
from hpckit.worker.healing import Answer, Healing, Seen
from hpckit.worker.log_healing import LogHealing
from hpckit.worker.outcome import NOT_STARTED, Outcome
from hpckit.worker.own_returning import OwnReturning
from hpckit.worker.processes import end_leftovers
from hpckit.worker.settling import only_node
from hpckit.worker.signals import Signals
from hpckit.worker.watch import Watch

if TYPE_CHECKING:
    from hpckit.spec import JobSpec


@dataclass(kw_only=True)
class Attempting:
    """Serves a run until this attempt has nothing more to do for it."""

    run: Run
    attempt: Attempt
    signals: Signals
    started: str
    # The snapshot that this chain brings.
    code: str | None = None
    # A failure that may be the end of our own job is not ours to judge.
    checked: Callable[[Outcome], Outcome]
    # A person's commands; they are told when nothing is launched any more.
    before_launch: Callable[[Callable[[], bool]], None] = lambda is_over: None

    def serve(self) -> Answer:
        """Launch by launch; what becomes of the run."""
        without: tuple[str, ...] = ()
        for number in itertools.count(1):
            spec = spec_now(self.run)
            healing = Healing(run=self.run, spec=spec, attempt=self.attempt)
            own = OwnReturning(run=self.run, spec=spec, attempt=self.attempt)
            try:
                checkpoint = own.prepare(number)
            except (HpckitError, OSError) as error:
                # A filesystem's mood, maybe: twice in a row it is not.
                return Answer(outcome=Outcome(state=None, reason=f"{NOT_STARTED}: {error}"))
            watch = Watch(
                run=self.run,
                spec=spec,
                attempt=self.attempt,
                signals=self.signals,
                started=self.started,
                number=number,
                code=self.code,
                checkpoint=checkpoint,
                without=without,
                healing=self._of_log(healing, number),
                before_launch=lambda: self.before_launch(self._must_end),
            )
            outcome = watch.serve()
            if outcome.is_doubtful:
                outcome = self.checked(outcome)
            answer = healing.answer(outcome, number, self._seen(watch, spec))
            if not answer.starts_again or self._must_end():
                return answer
            print(f"hpckit: {answer.outcome.reason}; {answer.plan}", flush=True)
            end_leftovers(self.run.dir, self.attempt.number, number)
            if answer.plan is not None and answer.plan.exclude:
                without += answer.plan.exclude
                self._tell_left_out(answer.plan.exclude, number)
        raise AssertionError("an endless count has ended")

    def _must_end(self) -> bool:
        is_told = self.signals.time_limit or self.signals.terminated
        return is_told or waiting(self.run.dir, END, self.attempt.job_id) is not None

    def _tell_left_out(self, nodes: Sequence[str], launch: int) -> None:
        with contextlib.suppress(OSError):
            self.run.ledger(f"attempt-{self.attempt.number:03d}").write(
                "applied",
                attempt=self.attempt.number,
                launch=launch,
                changed=[f"{node} left out" for node in nodes],
            )

    @staticmethod
    def _of_log(healing: Healing, launch: int) -> LogHealing | None:
        """Who acts on what a log shows: where there is something that one can go back to."""
        spec = healing.spec
        if spec.monitor.log is None or not spec.checkpoint.files:
            return None
        return LogHealing(healing=healing, spec=spec, launch=launch)

    def _seen(self, watch: Watch, spec: JobSpec) -> Seen:
        from hpckit.status.steps import launch_steps, steps_done

        fewest = spec.resources.min_nodes
        # A sign of life is written once a second, and readings at an end that was not too sudden.
        told = [watch.stalls.step, launch_steps(self.attempt, watch.logs.name)]
        step = max((each for each in told if each is not None), default=None)
        if step is None:
            step = steps_done(self.attempt)
        return Seen(
            step=step,
            has_stepped=watch.stalls.has_stepped or steps_done(self.attempt) is not None,
            logs=watch.logs,
            node=only_node(os.environ.get("SLURM_JOB_NODELIST", "")),
            spare_nodes=max(0, watch.layout.nodes - fewest) if fewest is not None else 0,
        )


def spec_now(run: Run) -> JobSpec:
    """The run's spec, with all that was changed since it was submitted."""
    spec = run.spec()
    plans = plans_in_force(believed(run.ledger().events()))
    resources, _ = resources_in_force(spec.resources, plans, run.had)
    params = params_in_force(spec.params, plans)
    return dataclasses.replace(spec, params=params, resources=resources)

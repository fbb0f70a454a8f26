"""One rehearsal: a run is submitted, struck, watched until it is healed or is not, and cleared."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.heal import Rules, decide
from hpckit.rehearsal import faults
from hpckit.rehearsal.clearing import cancelled, gone, removed, unhurried
from hpckit.rehearsal.cost import cost_of, readings_of
from hpckit.rehearsal.course import Course, Struck, course_of
from hpckit.rehearsal.faults import Stage
from hpckit.rehearsal.place import Place
from hpckit.rehearsal.result import Ending, Result, result_of
from hpckit.rehearsal.saying import Saying
from hpckit.rehearsal.strikes import (
    STARTED_S,
    Act,
    ByLibrary,
    FromOutside,
    killed,
    near_the_limit,
    preempted,
    starts,
    without_its_node,
)
from hpckit.rehearsed import CORNER
from hpckit.run import Run
from hpckit.spec.parts import Hooks, Notify
from hpckit.status.queue_cache import QueueCache
from hpckit.status.state import State, states_of
from hpckit.submission.commit import commit, reserve

if TYPE_CHECKING:
    from hpckit.heal.plan import Do
    from hpckit.spec import JobSpec
    from hpckit.submission.plan import SubmissionPlan

LOOK_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a person wants rehearsed, and how."""

    spec: JobSpec
    source: Path
    text: str
    root: Path
    place: Place
    stage: Stage
    timeout_s: float
    to_end: bool = False
    say: Callable[[str], None]


def rehearse(wish: Wish, fault: str, step: int | None) -> Result:
    """Strike a run of the spec with one fault; what came of it."""
    return _Rehearsal(wish=wish, fault=fault, step=step).serve()


@dataclass(kw_only=True)
class _Rehearsal:
    wish: Wish
    fault: str
    # None where the program tells no steps.
    step: int | None
    struck: Struck | None = None
    course: Course = field(default_factory=Course)
    state: State = field(default_factory=lambda: State(state="pending"))

    def __post_init__(self) -> None:
        self.cache = QueueCache(self.wish.place.scheduler)
        self.saying = Saying(fault=self.fault, say=self.wish.say)
        self.needs = self._spec.checkpoint.confirm_steps if self.fault in faults.NUMERIC else 1

    def serve(self) -> Result:
        with contextlib.ExitStack() as undo:
            # Whoever is interrupted is told where it is; what is as it should be goes.
            kept = undo.enter_context(contextlib.ExitStack())
            plan = self._reserved()
            kept.callback(self.saying.kept, plan.dir)
            undo.callback(unhurried(lambda: cancelled(plan.dir, self.wish.place.scheduler)))
            run = commit(
                plan, self.wish.place.scheduler, source=self.wish.source, spec_text=self.wish.text
            ).run
            self.cache.forget()
            self.saying.submitted(run, self.wish.place.words, self.step)
            late_s = self._watch(run, undo)
            result = self._judged(run, late_s)
            self.saying.judged(result)
            if result.as_expected:
                kept.pop_all()
        if result.as_expected:
            self._clear(run)
        return result

    def _clear(self, run: Run) -> None:
        place = self.wish.place
        # A queue that others share is asked as seldom as ever.
        if gone(place.scheduler if place.is_here else self.cache, run.id):
            removed(run.dir)
        else:
            self.saying.left(run.dir)

    # Submitting.

    @property
    def _spec(self) -> JobSpec:
        """As it is rehearsed: nobody is woken, and a job that others displace is where they can."""
        # What is to be there before a launch must be there now, too.
        hooks = Hooks(before_launch=self.wish.spec.hooks.before_launch)
        spec = dataclasses.replace(self.wish.spec, notify=Notify(), hooks=hooks)
        if self.fault != "preempt":
            return spec
        return dataclasses.replace(
            spec, resources=dataclasses.replace(spec.resources, partition="low")
        )

    def _reserved(self) -> SubmissionPlan:
        place = self.wish.place
        plan = reserve(
            self._spec,
            root=self.wish.root / CORNER,
            scheduler=place.scheduler.kind,
            max_array_size=place.scheduler.max_array_size(),
        )
        fault: dict[str, Any] | None = None
        if faults.is_by_library(self.fault, self.wish.stage):
            fault = {"kind": self.fault, "step": self.step}
        return dataclasses.replace(plan, fault=fault)

    def _strike(self, run: Run, undo: contextlib.ExitStack) -> ByLibrary | FromOutside:
        if faults.is_by_library(self.fault, self.wish.stage):
            return ByLibrary()

        def later(act: Callable[[], object]) -> None:
            undo.callback(unhurried(act))

        scheduler, cluster = self.wish.place.scheduler, self.wish.place.cluster
        if self.fault == "timeout":
            act: Act = near_the_limit
        elif self.fault == "preempt":
            act = preempted(run.dir, scheduler, later)
        elif self.fault == "node":
            assert cluster is not None
            act = without_its_node(cluster, later)
        else:
            act = killed(run.dir)
        return FromOutside(step=self.step, act=act)

    # Watching.

    def _watch(self, run: Run, undo: contextlib.ExitStack) -> float | None:
        """Until there is nothing more to see; the seconds after which nobody waited any longer."""
        strike = self._strike(run, undo)
        until = time.monotonic() + self.wish.timeout_s
        while True:
            self.state = states_of([run], self.cache)[0][1]
            self.struck = self.struck or strike.look(run)
            if self.struck is not None and not self._is_healed():
                self._follow(run, self.struck)
            self.saying.now(run, self.state, self.struck, self.course, self.needs)
            if self.state.is_final or (not self.wish.to_end and self._is_over()):
                return None
            if time.monotonic() > until:
                return self.wish.timeout_s
            time.sleep(LOOK_S)

    def _follow(self, run: Run, struck: Struck) -> None:
        attempts = run.attempts()
        kinds = faults.INCIDENTS[self.fault]
        events = run.ledger().events()
        # Readings are many: none is read before something was decided.
        self.course = course_of(struck, kinds, events, ())
        if self.course.plan is not None and self.course.plan.restarts:
            self.course = course_of(struck, kinds, events, readings_of(attempts), starts(attempts))

    def _is_healed(self) -> bool:
        """Whether the run is so far past the fault that nobody need look any longer."""
        course = self.course
        if not course.goes_on or self.struck is None:
            return False
        if self.state.state == "done":
            return True
        if self.struck.step is None:
            assert course.applied is not None
            return time.time() - course.applied >= STARTED_S and self.state.state == "running"
        return course.past >= self.needs

    def _is_over(self) -> bool:
        return self._is_healed() or self._expected == "tell"

    # Judging.

    @property
    def _expected(self) -> Do | None:
        """What the policy answers to the first incident of its kind."""
        incident = self.course.incident
        if incident is None:
            return None
        return decide(incident, (), Rules.of(self._spec)).do

    def _judged(self, run: Run, late_s: float | None) -> Result:
        ending = Ending(
            fault=self.fault,
            wanted_step=self.step,
            struck=self.struck,
            course=self.course,
            expected=self._expected,
            is_healed=self._is_healed(),
            state=self.state,
            late_s=late_s,
        )
        cost = cost_of(run, self.struck, self.course)
        return result_of(ending, cost, run=run.id, folder=run.dir)

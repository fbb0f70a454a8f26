"""Lets a detector live through a trace and says how it did.

Open loop: the trace was recorded (or made) without the detector, and goes on as if nothing had been
done about what it said. In a live run a gate that closes leaves the weights as they are, so what
follows would look better, and after an act the run would go on from an older checkpoint. So only
the first act of a trace that goes wrong counts for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from benchmarks.detection.outcome import Ending, finite, outcome
from benchmarks.detection.rivals import Judged
from benchmarks.detection.trace import Trace

# Acts so soon after the first of an event belong to it.
REARM = 200
# A checkpoint is taken for damaged if it is saved this long after the first bad step.
ONSET_TOLERANCE = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing a detector said."""

    step: int
    kind: str
    said: str
    onset: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How a detector did on one trace."""

    name: str
    family: str
    kind: str
    ending: Ending
    steps: int
    begin: int | None
    deadline: int | None
    # The first act at or after the fault, with which it is caught or not.
    act: Event | None
    first_told: int | None
    first_skip: int | None
    healthy_steps: int
    false_acts: list[Event] = field(default_factory=list)
    false_skips: int = 0

    @property
    def bad(self) -> bool:
        return self.deadline is not None

    @property
    def caught(self) -> bool:
        return self.bad and self.act is not None and self.act.step <= (self.deadline or 0)

    @property
    def lead(self) -> int | None:
        """How many steps before the deadline it acted."""
        return None if self.act is None or self.deadline is None else self.deadline - self.act.step

    @property
    def onset_right(self) -> bool | None:
        """Whether a checkpoint older than the onset is good; None where that is not known."""
        if self.begin is None or not self.caught or self.act is None:
            return None
        at = self.act.step if self.act.onset is None else self.act.onset
        return at <= self.begin + ONSET_TOLERANCE


def judge(trace: Trace, detector: Judged) -> Verdict:
    """Feed a whole trace to a detector."""
    ended = outcome(trace)
    healthy_until = _healthy_until(trace)
    whole = finite(trace).tolist()
    acts: list[Event] = []
    told = skip = None
    false_skips = 0
    losses = trace.loss.astype(np.float64).tolist()
    for step, norm in enumerate(trace.norm.astype(np.float64).tolist()):
        incident = detector.observe(step=step, loss=losses[step], norm=norm)
        if incident is None:
            continue
        told = step if told is None and step >= healthy_until else told
        if incident.answer == "skip":
            skip = step if skip is None else skip
            false_skips += step < healthy_until and whole[step]
        elif incident.answer == "act" and _is_new(acts, step, healthy_until):
            acts.append(
                Event(step=step, kind=incident.kind, said=incident.said, onset=incident.onset)
            )
    late = [event for event in acts if event.step >= healthy_until]
    return Verdict(
        name=trace.name,
        family=trace.family,
        kind=trace.kind,
        ending=ended.ending,
        steps=len(losses),
        begin=trace.begin,
        deadline=ended.deadline,
        act=late[0] if late else None,
        first_told=told,
        first_skip=skip,
        healthy_steps=healthy_until,
        false_acts=[event for event in acts if event.step < healthy_until],
        false_skips=false_skips,
    )


def _healthy_until(trace: Trace) -> int:
    """The steps in which an act is false: all of a healthy run, else those before the fault."""
    if trace.healthy:
        return len(trace.norm)
    return trace.begin if trace.begin is not None else int(trace.notes.get("fault_at") or 0)


def _is_new(acts: list[Event], step: int, healthy_until: int) -> bool:
    """Whether an act begins another event; the fault itself always does."""
    if not acts or (acts[-1].step < healthy_until <= step):
        return True
    return step - acts[-1].step > REARM

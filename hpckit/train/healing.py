"""What is done about an incident inside the training: the plan, and its changes carried out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hpckit.checkpoint.lineage import believed
from hpckit.errors import UsageError
from hpckit.heal import Past, Plan, Rules, decide
from hpckit.heal.changes import apply, get_path, told
from hpckit.heal.history import carried_out, closed, history_of
from hpckit.heal.in_force import change_params
from hpckit.ledger import Event
from hpckit.monitor.incident import Incident
from hpckit.spec.parts import INFRASTRUCTURE, NUMERIC, Change
from hpckit.train.clip import Clip
from hpckit.train.params import Params
from hpckit.train.stepper import Stepper

# An optimizer that was never clipped is, when it is to be clipped tighter: to this times its
# usual norm, and then by the plan's factor.
FIRST_CLIP = 2.0
STOPPED = 3


class Stopped(SystemExit):
    """The run is stopped by policy; the process ends with exit code 3."""

    def __init__(self, reason: str) -> None:
        super().__init__(STOPPED)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Healer:
    """Remembers what was done, asks what to do, and carries changes out."""

    def __init__(self, rules: Rules, params: Params) -> None:
        self.rules = rules
        self.params = params
        self.history: list[Past] = []

    @property
    def in_force(self) -> list[Past]:
        """Those whose changes are in force, the oldest first."""
        return [
            past
            for past in self.history
            if past.plan.restarts and past.incident.kind not in INFRASTRUCTURE
        ]

    def expects_more(self, step: int) -> bool:
        """Whether a step is not yet past numbers that were gone back from: they may come again."""
        return any(
            past.incident.kind in NUMERIC and step <= past.incident.step + self.rules.confirm_steps
            for past in self.history
            if past.plan.restarts
        )

    def know(self, optimizers: Sequence[str]) -> None:
        self.rules = dataclasses.replace(self.rules, optimizers=tuple(optimizers))

    def remember(self, events: Sequence[Event]) -> None:
        """What attempts and launches before this one did, by the ledger."""
        self.history = history_of(believed(events))

    def recall(self, events: Sequence[Event]) -> None:
        """The same once more, by what rank 0 has read."""
        self.remember(events)

    def plan(self, incident: Incident) -> Plan:
        self.history = closed(self.history, incident.step)
        return decide(incident, self.history, self.rules)

    def done(self, incident: Incident, plan: Plan, step: int, usual: Mapping[str, float]) -> None:
        made = Past(incident=incident, plan=plan, step=step, healthy=0, usual=usual)
        self.history = carried_out(self.history, made)

    def change_params(self, plan: Plan) -> list[str]:
        """Carry out a plan's changes of parameters, in place; what was changed."""
        said = change_params(self.params, plan)
        for path in said:
            self.params.forget(path)
        return list(said.values())

    def params_of(self, plan: Plan) -> list[str]:
        """What the parameters that a plan changes are by now."""
        paths = [name for name in plan.changes if name.startswith("params.")]
        return [f"{path} is {get_path(self.params, path.partition('.')[2])}" for path in paths]

    def change_steps(
        self,
        past: Past,
        stepper: Stepper,
        rates: Mapping[str, float] | None = None,
        *,
        only: str | None = None,
    ) -> list[str]:
        """Carry out a plan's changes of clips and learning rates; what was changed.

        Once more at a restart, by what was usual then: an older checkpoint's detectors know less.
        `rates` are those of the state that is gone back to, if it is not loaded yet. `only`: of
        this optimizer alone.
        """
        said, plan = [], past.plan
        for name, watched in stepper.watched.items():
            if (plan.of is not None and name not in plan.of) or only not in (None, name):
                continue
            of = f" of {name}" if len(stepper.watched) > 1 else ""
            if "clip" in plan.changes:
                old, new = _change_clip(watched.clip, plan.changes["clip"], past.usual.get(name))
                none = "no clip" + of + ": no norm is usual yet"
                said.append(none if new is None else told("clip" + of, old, new))
            if "lr" in plan.changes:
                before, rate = watched.rate, (rates or {}).get(name, _rate(watched.optimizer))
                watched.rate = _factor(plan.changes["lr"], before, rate)
                if rate is not None:
                    said.append(told("lr" + of, before * rate, watched.rate * rate))
        return said

    def unread(self) -> list[str]:
        """Parameters that were changed, and that nobody has read since."""
        paths = [
            name.partition(".")[2]
            for past in self.in_force
            for name in past.plan.changes
            if name.startswith("params.")
        ]
        return [path for path in dict.fromkeys(paths) if not self.params.was_read(path)]


def usual_norms(stepper: Stepper) -> dict[str, float]:
    """The gradient norm that is usual for each optimizer; of those that are not known yet, none."""
    return {
        name: math.exp(detector.norms.usual.level)
        for name, detector in stepper.lookout.detectors.items()
        if detector.norms.usual.ready
    }


def _change_clip(clip: Clip, change: Change, usual: float | None) -> tuple[Any, Any]:
    """Clip otherwise; what the limit was, and what it is."""
    old = clip.limit()
    if change.times is None:
        if not isinstance(change.to, (int, float)) or not change.to > 0:
            raise UsageError(f"heal: clip must be set to a number above 0, not {change.to!r}")
        clip.norm, clip.percentile, clip.value = float(change.to), None, None
        return old, clip.norm
    if (
        clip.norm is None
        and clip.value is None
        and clip.percentile is None
        and clip.at_most is None
    ):
        if usual is not None:
            clip.norm = float(apply(change, FIRST_CLIP * usual))
        return old, clip.norm
    clip.tighten(change.times, least=float(change.min or 0.0))
    return old, clip.limit()


def _factor(change: Change, before: float, rate: float | None) -> float:
    """What goes on top of the schedule's own rate; set to a rate, what makes that of it now."""
    if change.times is not None:
        return float(apply(change, before))
    return float(apply(change, None)) / rate if rate else before


def _rate(optimizer: Any) -> float | None:
    """Some optimizers have none."""
    rate = optimizer.param_groups[0].get("lr")
    return None if rate is None else float(rate)

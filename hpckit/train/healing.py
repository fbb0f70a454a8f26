"""What is done about an incident inside the training: the plan, and its changes carried out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hpckit.checkpoint.lineage import believed
from hpckit.errors import UsageError
from hpckit.heal import Past, Plan, Rules, decide
from hpckit.heal.changes import apply, set_path, told
from hpckit.ledger import Event
from hpckit.monitor.incident import Incident
from hpckit.spec.parts import Change
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
        return [past for past in self.history if past.plan.restarts]

    def know(self, optimizers: Sequence[str]) -> None:
        self.rules = dataclasses.replace(self.rules, optimizers=tuple(optimizers))

    def remember(self, events: Sequence[Event]) -> None:
        """What attempts and launches before this one did, by the ledger."""
        for event in believed(events):
            if event.kind == "rollback" and "plan" in event.data:
                incident = Incident.from_json(event.data["incident"])
                self._close(incident.step)
                plan = Plan.from_json(event.data["plan"])
                self.done(incident, plan, int(event.data["step"]), event.data.get("usual", {}))
            elif event.kind == "stopped" and self.history:
                # Whoever started it again after that has looked at it: the budget is full.
                last = self.history[-1]
                plan = Plan(do="stop", reason=str(event.data.get("reason", "")))
                self.history.append(dataclasses.replace(last, plan=plan, healthy=0))

    def recall(self, events: Sequence[Event]) -> None:
        """The same once more, by what rank 0 has read."""
        self.history.clear()
        self.remember(events)

    def _close(self, step: int) -> None:
        """The last restart has come as far as this; what is done again is no progress."""
        if self.history:
            last = self.history[-1]
            healthy = max(0, step - max(last.step, last.incident.step))
            self.history[-1] = dataclasses.replace(last, healthy=healthy)

    def plan(self, incident: Incident) -> Plan:
        self._close(incident.step)
        return decide(incident, self.history, self.rules)

    def done(self, incident: Incident, plan: Plan, step: int, usual: Mapping[str, float]) -> None:
        made = Past(incident=incident, plan=plan, step=step, healthy=0, usual=usual)
        self.history.append(made)

    def change_params(self, plan: Plan) -> list[str]:
        """Carry out a plan's changes of parameters, in place; what was changed."""
        said = []
        for name, change in plan.changes.items():
            section, _, path = name.partition(".")
            if section == "params":
                old, new = set_path(self.params, path, change)
                self.params.forget(path)
                said.append(told(name, old, new))
        return said

    def change_steps(
        self, past: Past, stepper: Stepper, rates: Mapping[str, float] | None = None
    ) -> list[str]:
        """Carry out a plan's changes of clips and learning rates; what was changed.

        Once more at a restart, by what was usual then: an older checkpoint's detectors know less.
        `rates` are those of the state that is gone back to, if it is not loaded yet.
        """
        said, plan = [], past.plan
        for name, watched in stepper.watched.items():
            if plan.of is not None and name not in plan.of:
                continue
            of = f" of {name}" if len(stepper.watched) > 1 else ""
            if "clip" in plan.changes:
                old, new = _change_clip(watched.clip, plan.changes["clip"], past.usual.get(name))
                none = "no clip" + of + ": no norm is usual yet"
                said.append(none if new is None else told("clip" + of, old, new))
            if "lr" in plan.changes:
                before = watched.rate
                watched.rate = float(apply(plan.changes["lr"], watched.rate))
                rate = (rates or {}).get(name, _rate(watched.optimizer))
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


def _rate(optimizer: Any) -> float | None:
    """Some optimizers have none."""
    rate = optimizer.param_groups[0].get("lr")
    return None if rate is None else float(rate)

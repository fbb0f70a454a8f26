"""What is done about trouble that a program's log shows: the worker acts for it."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpckit.heal import Plan
from hpckit.heal.changes import OF_OPTIMIZERS, get_path
from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.spec.parts import Change
from hpckit.spec.rules import placeholders
from hpckit.worker.own_returning import LATE_S

if TYPE_CHECKING:
    from hpckit.spec import JobSpec
    from hpckit.worker.healing import Healing

# So many readings are known by the time at which they were read.
KNOWN = 4096
# What programs call what hpckit changes by itself.
CALLED: Mapping[str, tuple[str, ...]] = {
    "clip": (
        "clip",
        "grad_clip",
        "clip_grad_norm",
        "max_grad_norm",
        "max_norm",
        "gradient_clip_val",
    ),
    "lr": ("lr", "learning_rate"),
}


@dataclass(kw_only=True)
class LogHealing:
    """Asks the policy for one launch of a program that is watched by its log."""

    healing: Healing
    spec: JobSpec
    launch: int
    # What was decided, once it asks for more than to be told.
    plan: Plan | None = None
    _times: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=KNOWN))

    def note(self, reading: Reading, now: float) -> None:
        self._times.append((reading.step, now))

    def answer(self, incident: Incident) -> bool:
        """Decide about an incident, and write it down; whether the program is to be ended."""
        if not incident.acts or self.plan is not None:
            return False
        plan = adapted(self.healing.decide_now(incident), self.spec)
        if plan.do not in ("tell", "skip"):
            onset = incident.step if incident.onset is None else incident.onset
            since = next((when for step, when in self._times if step >= onset), None)
            is_written = self.healing.write(
                incident,
                plan,
                launch=self.launch,
                saved_before=None if since is None else since - LATE_S,
            )
            # Ended without a word, as on a full disk, it would only go on from where it exploded.
            self.plan = plan if is_written else None
        return self.plan is not None


def adapted(plan: Plan, spec: JobSpec) -> Plan:
    """A plan for a program of which hpckit changes nothing but its arguments.

    A clip and a learning rate are the parameters of the spec that are called so, if its command
    names them.
    """
    changes: dict[str, Change] = {}
    for name, change in plan.changes.items():
        found = argument(name, spec) if name in OF_OPTIMIZERS else name
        if found is not None:
            changes[found] = change
    return dataclasses.replace(plan, changes=changes, of=None, skip_batches=0)


def argument(name: str, spec: JobSpec) -> str | None:
    """The parameter that is the program's clip or learning rate, where its command names one."""
    line = spec.program.line or ""
    named = {each for each, _ in placeholders(line)}
    for called in CALLED[name]:
        path = f"params.{called}"
        if path in named and isinstance(get_path(spec.params, called), (int, float)):
            return path
    return None

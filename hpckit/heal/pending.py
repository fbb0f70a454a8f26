"""What was decided about a run, and that nobody has carried out yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpckit.heal.budget import BY_HAND
from hpckit.heal.plan import Plan
from hpckit.ledger import Event
from hpckit.monitor.incident import Incident
from hpckit.spec.parts import INFRASTRUCTURE

if TYPE_CHECKING:
    from hpckit.spec import JobSpec


@dataclass(frozen=True, kw_only=True)
class Pending:
    """An incident, or a person's word, after which nobody came back yet."""

    incident: Incident
    plan: Plan
    event: Event

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint that a person named."""
        return self.event.data.get("checkpoint")

    @property
    def is_by_hand(self) -> bool:
        return self.incident.kind == BY_HAND

    @property
    def is_of_numbers(self) -> bool:
        """Whether what was saved since the trouble began may be damaged by it."""
        return not self.is_by_hand and self.incident.kind not in INFRASTRUCTURE

    @property
    def before(self) -> int:
        """The step of which a later state must not be gone on from."""
        onset = self.incident.step if self.incident.onset is None else self.incident.onset
        return onset if self.plan.before is None else self.plan.before


def pending(events: Sequence[Event]) -> Pending | None:
    """What the training is to come back from, unless it has, or has stopped the run.

    Who goes on from it says so first, and may die before it has.
    """
    for found in _open(events, "rollback", "stopped"):
        plan = found.plan
        if found.event.kind == "incident" and plan.restarts:
            return found
        if found.is_by_hand and (plan.changes or found.checkpoint or not plan.intact):
            return found
    return None


def trouble(events: Sequence[Event], answer: str) -> Pending | None:
    """The numbers that went wrong and that nobody came back from, though the run ended for them.

    `answer`: what is written by who comes back. Another end after it, a lost node say, changes
    nothing about it.
    """
    for found in _open(events, answer):
        if found.is_of_numbers and (found.plan.restarts or found.plan.do == "stop"):
            return found
    return None


def named(events: Sequence[Event], answer: str) -> str | None:
    """The checkpoint that a person wants to be gone on from, unless somebody has."""
    return next((each.checkpoint for each in _open(events, answer) if each.is_by_hand), None)


def wishes(events: Sequence[Event]) -> list[Pending]:
    """What persons asked for and no training has told of: one may overtake another."""
    return [each for each in _open(events, "rollback", "stopped") if each.is_by_hand]


def is_a_session(spec: JobSpec, events: Sequence[Event]) -> bool:
    """Whether the training itself goes on, goes back and changes; of a command its past says so."""
    if spec.program.trainer is not None:
        return True
    return spec.program.attach is None and any(
        event.kind == "resumed" and "rollbacks" in event.data for event in events
    )


def _open(events: Sequence[Event], *answers: str) -> Iterator[Pending]:
    """What was decided since the newest answer, the newest first."""
    for event in reversed(events):
        if event.kind in answers:
            return
        if event.kind in ("incident", "restart", "stopped") and event.data.get("plan"):
            incident = Incident.from_json(event.data["incident"])
            plan = Plan.from_json(event.data["plan"])
            yield Pending(incident=incident, plan=plan, event=event)

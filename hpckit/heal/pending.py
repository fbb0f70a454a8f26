"""What was decided about a run, and that no training has carried out yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpckit.heal.budget import BY_HAND
from hpckit.heal.plan import Plan
from hpckit.ledger import Event
from hpckit.monitor.incident import Incident


@dataclass(frozen=True, kw_only=True)
class Pending:
    """An incident, or a person's word, after which nobody came back yet."""

    incident: Incident
    plan: Plan
    event: Event
    # The checkpoint that a person named.
    checkpoint: str | None = None

    @property
    def is_by_hand(self) -> bool:
        return self.incident.kind == BY_HAND


def pending(events: Sequence[Event]) -> Pending | None:
    """The newest plan that leads back, unless somebody came back from it, or stopped the run.

    Who goes on from it says so first, and may die before it has.
    """
    for event in reversed(events):
        if event.kind in ("rollback", "stopped"):
            return None
        if not event.data.get("plan") or event.kind not in ("incident", "restart"):
            continue
        plan = Plan.from_json(event.data["plan"])
        incident = Incident.from_json(event.data["incident"])
        found = Pending(
            incident=incident, plan=plan, event=event, checkpoint=event.data.get("checkpoint")
        )
        if event.kind == "incident" and plan.restarts:
            return found
        if found.is_by_hand and (plan.changes or found.checkpoint or not plan.intact):
            return found
    return None

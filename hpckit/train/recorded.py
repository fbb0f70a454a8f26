"""What the ledger says of incidents and rollbacks, for whoever goes on after them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hpckit.heal import Plan
from hpckit.heal.pending import pending, wishes
from hpckit.ledger import Event
from hpckit.monitor.incident import Incident
from hpckit.train.place import Window

# The program's loop, and batches of it.
LeftOut = tuple[int, Window]


def told(skipped: list[LeftOut]) -> dict[str, Any]:
    """As an event has them: all are of the loop that was going on."""
    loop = {"loop": skipped[0][0]} if skipped else {}
    return {**loop, "skipped": [list(window) for _, window in skipped]}


def _skipped(event: Event) -> list[LeftOut]:
    """What an event says was left out, or is to be."""
    loop = event.data.get("loop", 0)
    return [(loop, (epoch, first, last)) for epoch, first, last in event.data.get("skipped", ())]


def left_out(events: list[Event]) -> list[LeftOut]:
    """The batches that rollbacks left out."""
    return [each for event in events if event.kind == "rollback" for each in _skipped(event)]


def batches(left_out: list[LeftOut]) -> set[tuple[int, int, int]]:
    """Each once, though windows may overlap."""
    return {
        (loop, epoch, batch)
        for loop, (epoch, first, last) in left_out
        for batch in range(first, last)
    }


def doubted(incident: Incident) -> tuple[int, int]:
    """From when on something was wrong, and when it was seen."""
    return incident.step if incident.onset is None else incident.onset, incident.step


def doubts(events: list[Event]) -> list[tuple[int, int]]:
    """Of what was only told: no state from between onset and sight is good."""
    return [
        doubted(Incident.from_json(event.data["incident"]))
        for event in events
        if event.kind == "incident"
        and event.data.get("plan")
        and not Plan.from_json(event.data["plan"]).restarts
    ]


class Begun(NamedTuple):
    """What is to be gone back for, and was not yet: an incident, or a person's word."""

    incident: Incident
    plan: Plan
    left_out: list[LeftOut]
    # What was usual, where the process that comes after knows nothing of it.
    usual: Mapping[str, float]
    checkpoint: str | None
    # All whose changes are told with it: persons' words that it overtook, too.
    incidents: list[Incident]


def unfinished(events: list[Event]) -> Begun | None:
    """The rollback that was begun, or asked for, and did not come to its end."""
    found = pending(events)
    if found is None:
        return None
    usual = found.event.data.get("usual", {})
    incidents = [found.incident, *(each.incident for each in wishes(events))]
    return Begun(
        found.incident, found.plan, _skipped(found.event), usual, found.checkpoint, incidents
    )

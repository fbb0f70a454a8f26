"""What was done about a run's incidents, as its ledger tells it.

The training writes of numbers that went wrong (`rollback`), the worker of what ended the program,
or the link after it, and a person of a restart by hand (`restart`); `stopped` writes whoever
stopped it. Where the run went on from says the training that did (`resumed`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hpckit.heal.budget import BY_HAND
from hpckit.heal.past import Past
from hpckit.heal.plan import Plan
from hpckit.ledger import Event
from hpckit.monitor.incident import Incident


def history_of(events: Iterable[Event]) -> list[Past]:
    """Every plan that was carried out, the oldest first; `events` are those that are believed."""
    history: list[Past] = []
    goes_on = False
    for event in events:
        data = event.data
        if event.kind in ("rollback", "restart") and "plan" in data:
            past = _past(data)
            history = closed(history, past.incident.step, data.get("saved"))
            is_done = event.kind == "rollback"
            history = carried_out(history, past) if is_done else [*history, past]
            goes_on = event.kind == "restart"
        elif event.kind == "resumed" and goes_on and history:
            history[-1] = dataclasses.replace(history[-1], step=int(data["step"]))
            goes_on = False
        elif event.kind == "stopped" and history:
            # Whoever started it again after that has looked at it: the budget is full.
            plan = Plan(do="stop", reason=str(data.get("reason", "")))
            history.append(dataclasses.replace(history[-1], plan=plan, healthy=0))
    return history


def tells_incident(event: Event) -> bool:
    """Whether an event tells of what went wrong: no person's wish, and no plain time limit."""
    about = event.data.get("incident")
    if not isinstance(about, dict) or event.kind not in ("incident", "restart", "stopped"):
        return False
    return event.kind == "incident" or about.get("kind") not in (None, BY_HAND, "time_limit")


def _past(data: Mapping[str, Any]) -> Past:
    incident = Incident.from_json(data["incident"])
    # Of a restart it is not known yet: from what is saved, or where nothing is known from there.
    step = data.get("step", data.get("saved"))
    return Past(
        incident=incident,
        plan=Plan.from_json(data["plan"]),
        step=incident.step if step is None else int(step),
        healthy=0,
        usual=data.get("usual", {}),
    )


def carried_out(history: Sequence[Past], past: Past) -> list[Past]:
    """With what was done. What persons asked for stands in it already, and is done with it."""
    found: list[Past] = []
    is_there = False
    for each in history:
        if each.incident.kind == BY_HAND:
            each = dataclasses.replace(each, usual=each.usual or past.usual)
            if each.incident == past.incident:
                is_there, each = True, dataclasses.replace(each, step=past.step)
        found.append(each)
    return found if is_there else [*found, past]


def closed(history: list[Past], step: int, saved: int | None = None) -> list[Past]:
    """With what came of the last restart: the run has come to a step, and so far is saved.

    What is done again is no progress.
    """
    if not history:
        return []
    last = history[-1]
    healthy = max(0, step - max(last.step, last.incident.step))
    gained = None if saved is None else saved - last.step
    return [*history[:-1], dataclasses.replace(last, healthy=healthy, gained=gained)]

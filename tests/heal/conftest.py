"""Incidents as the detector tells them, and what was done about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpckit.heal import Past, Plan, Rules, decide
from hpckit.monitor import Incident

WORST = "cascade_stages.2.output_proj.weight"


def explosion(step: int = 8123, **more: Any) -> Incident:
    """The founding incident: usually 6.9, then 1,557,911."""
    fields = {
        "kind": "explosion",
        "step": step,
        "answer": "act",
        "said": "gradient norm 1.6e6, 230000 times its usual 6.9",
        "optimizer": "main",
        "value": 1_557_911.0,
        "usual": 6.9,
        "onset": step - 26,
        "parameter": WORST,
        "share": 0.94,
    }
    return Incident(**{**fields, **more})


def other(kind: str, step: int = 8123, **more: Any) -> Incident:
    """An acting incident of which nothing is known but its kind."""
    return Incident(**{"kind": kind, "step": step, "answer": "act", "said": "so", **more})


def answered(
    incidents: Sequence[Incident], rules: Rules, *, healthy: int = 50, step: int = 8000
) -> tuple[list[Plan], list[Past]]:
    """The plans for incidents that came one after the other."""
    plans: list[Plan] = []
    history: list[Past] = []
    for incident in incidents:
        plans.append(decide(incident, history, rules))
        past = Past(incident=incident, plan=plans[-1], step=step, healthy=healthy)
        history.append(past)
    return plans, history

"""What was done about an incident of before, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hpckit.heal.plan import Plan
from hpckit.monitor.incident import Incident


@dataclass(frozen=True, kw_only=True)
class Past:
    """An incident, its plan, and how far the run has come since."""

    incident: Incident
    plan: Plan
    # Where the run went on from.
    step: int
    # Healthy steps past that and the incident, up to the next one that was acted on, or to now.
    healthy: int
    # Steps by which what is saved has grown since; None where nobody knows.
    gained: int | None = None
    # By optimizer: the gradient norm that was usual then.
    usual: Mapping[str, float] = field(default_factory=dict)

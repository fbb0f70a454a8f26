"""What came of a fault, by the run's ledger and readings: pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpckit.clock import seconds_of
from hpckit.heal.plan import Plan
from hpckit.ledger import Event
from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import GATED, Reading

# Machines' clocks differ by a little.
CLOCKS_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Struck:
    """When a fault struck, and after how many steps; None where nobody counts them."""

    at: float
    step: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """What came of it, as far as that can be told by now."""

    incident: Incident | None = None
    plan: Plan | None = None
    # The state that was gone on from.
    resumed: int | None = None
    # When the next step was applied; of a program that tells none, when it began again.
    applied: float | None = None
    # Healthy steps past the fault.
    past: int = 0

    @property
    def goes_on(self) -> bool:
        return self.plan is not None and self.plan.restarts and self.applied is not None


def course_of(
    struck: Struck,
    kinds: Sequence[str],
    events: Sequence[Event],
    readings: Iterable[Reading],
    starts: Iterable[float] = (),
) -> Course:
    """Follow a fault; `kinds` are what it may be to the policy, `starts` when launches began."""
    place = next((i for i, event in enumerate(events) if _decides(event, struck, kinds)), None)
    if place is None:
        return Course()
    decision = events[place]
    incident = Incident.from_json(decision.data["incident"])
    since = seconds_of(decision.time)
    resumed = next((event for event in events[place:] if _goes_on(event)), None)
    furthest = max(incident.step, struck.step or 0)
    applied = [each for each in readings if (each.time or 0.0) > since and _is_applied(each)]
    first = applied[0].time if applied else None
    if struck.step is None:
        first = min((start for start in starts if start > since), default=None)
    return Course(
        incident=incident,
        plan=Plan.from_json(decision.data["plan"]),
        resumed=int(resumed.data["step"]) if resumed is not None else None,
        applied=first,
        past=sum(each.step >= furthest for each in applied),
    )


def _decides(event: Event, struck: Struck, kinds: Sequence[str]) -> bool:
    about = event.data.get("incident")
    is_so = isinstance(about, dict) and about.get("kind") in kinds and "plan" in event.data
    return is_so and seconds_of(event.time) >= struck.at - CLOCKS_S


def _goes_on(event: Event) -> bool:
    return event.kind in ("resumed", "rollback") and "step" in event.data


def _is_applied(reading: Reading) -> bool:
    return not any(reading.group(GATED).values())


def held_s(spans: Iterable[tuple[float, float]], since: float, until: float) -> float:
    """How long of a time allocations were held: `spans` are the attempts'."""
    return sum(max(0.0, min(end, until) - max(begin, since)) for begin, end in spans)

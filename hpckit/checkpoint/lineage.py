"""Which checkpoints belong to the run as it goes now, and which to what was left behind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hpckit.checkpoint.names import Segment
from hpckit.ledger import Event

# The events that tell what became of a training.
TRAINED = ("resumed", "incident", "rollback", "restart", "applied", "stopped")
# An event of an attempt that no launch of it has written comes after all of them.
LAST = 1 << 30


@dataclass(frozen=True, slots=True)
class Start:
    """Where a segment took up: at this number of steps done."""

    segment: Segment
    step: int


def starts(events: Iterable[Event]) -> list[Start]:
    """Where the segments of a run took up, by its ledger."""
    found = []
    for event in events:
        if event.kind in ("resumed", "rollback"):
            about = event.data
            try:
                segment = Segment(
                    int(about["attempt"]), int(about["launch"]), int(about.get("rollbacks", 0))
                )
                found.append(Start(segment, int(about["step"])))
            except (KeyError, TypeError, ValueError):
                continue
    return found


def believed(events: Iterable[Event]) -> list[Event]:
    """What was written by who served the run, attempt by attempt.

    On a node that was given up for lost a training may live on, and so may a process that refused
    to die: what it writes when a later attempt or launch has begun is no part of the run. A worker
    looks for that itself before it writes a restart, and a person's stands: the next attempt may
    begin within a second, by a clock that is behind.
    """
    trained = [event for event in events if event.kind in TRAINED and _place(event)[0]]
    began: dict[tuple[int, int], str] = {}
    for event in trained:
        if event.kind == "resumed":
            place = _place(event)
            began[place] = min(began.get(place, event.time), event.time)
    found = [
        event
        for event in trained
        if event.kind == "restart"
        or all(event.time <= time for place, time in began.items() if place > _place(event))
    ]
    # Clocks of two machines may differ; the order of attempts is sure.
    return sorted(found, key=lambda event: _place(event)[0])


def _place(event: Event) -> tuple[int, int]:
    """The attempt and the launch that an event speaks of."""
    attempt, launch = event.data.get("attempt"), event.data.get("launch", LAST)
    return (attempt, launch) if isinstance(attempt, int) and isinstance(launch, int) else (0, 0)


def counts(step: int, segment: Segment, starts: Iterable[Start]) -> bool:
    """Whether no later segment has taken up before this step.

    So what a program of an old attempt still writes after a new one has begun is not believed.
    """
    return all(step <= start.step for start in starts if start.segment > segment)

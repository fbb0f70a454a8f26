"""Which checkpoints belong to the run as it goes now, and which to what was left behind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hpckit.checkpoint.names import Segment
from hpckit.ledger import Event


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


def counts(step: int, segment: Segment, starts: Iterable[Start]) -> bool:
    """Whether no later segment has taken up before this step.

    So what a program of an old attempt still writes after a new one has begun is not believed.
    """
    return all(step <= start.step for start in starts if start.segment > segment)

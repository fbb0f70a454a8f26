"""What a fault took of a run's work and of its allocation, by the run's folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hpckit.clock import seconds_of
from hpckit.limits import unit_name, units
from hpckit.rehearsal.course import Course, Struck, held_s
from hpckit.rehearsal.result import Cost
from hpckit.run import Attempt, Run, launches_in
from hpckit.status.steps import stretches

if TYPE_CHECKING:
    from hpckit.monitor.reading import Reading


def readings_of(attempts: Sequence[Attempt]) -> list[Reading]:
    """All steps of a run as it goes now, one curve over its launches."""
    from hpckit.monitor.readings.reader import merged

    return list(merged(path for each in attempts for path in launches_in(each.dir / "readings")))


def cost_of(run: Run, struck: Struck | None, course: Course) -> Cost:
    """Steps that were done again; the hours from the state gone on from to the next new step."""
    spec, attempts = run.spec(), run.attempts()
    if struck is None or struck.step is None or course.applied is None:
        return Cost(unit=unit_name(spec))
    lost = sum(each.lost for each in stretches(attempts, run.ledger().events()).values())
    # What was done in a process's last second it may have told nobody.
    lost = max(lost, struck.step - (course.resumed or 0))
    kept = [each for each in readings_of(attempts) if each.step < (course.resumed or 0)]
    spans = list(_spans(attempts))
    since = kept[-1].time if kept and kept[-1].time is not None else spans[0][0]
    held = held_s(spans, since, course.applied)
    return Cost(steps=lost, hours=round(held / 3600 * units(spec), 6), unit=unit_name(spec))


def _spans(attempts: Sequence[Attempt]) -> Iterator[tuple[float, float]]:
    """When each attempt had its allocation."""
    for each in attempts:
        end = each.ended()
        until = seconds_of(end["ended"]) if end is not None else time.time()
        yield seconds_of(each.about()["started"]), until

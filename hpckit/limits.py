"""What a run may spend at most, and what it has spent."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hpckit.clock import seconds_of
from hpckit.run import Attempt, Run

if TYPE_CHECKING:
    from hpckit.spec import JobSpec, Limits

_Number = TypeVar("_Number", int, float)
SITE = Path("/etc/hpckit/site.yaml")


def units(spec: JobSpec) -> int:
    """What an hour of the job costs: its GPUs; a node without any counts as one."""
    return spec.resources.nodes * max(spec.resources.gpus, 1)


def unit_name(spec: JobSpec) -> str:
    return "GPU h" if spec.resources.gpus else "node h"


def resolve_limits(spec: JobSpec, site: Path = SITE) -> Limits:
    """The limits in force: the spec's, else twice what was asked for, under the site's ceilings."""
    asked_h = units(spec) * spec.resources.time / 3600
    limits = spec.limits
    if limits.gpu_hours is None:
        limits = dataclasses.replace(limits, gpu_hours=round(2 * asked_h, 3))
    ceiling = _site_limits(site)
    if ceiling is None:
        return limits
    return dataclasses.replace(
        limits,
        attempts=min(limits.attempts, ceiling.attempts),
        gpu_hours=_lower(limits.gpu_hours, ceiling.gpu_hours),
        total=_lower(limits.total, ceiling.total),
    )


def _site_limits(site: Path) -> Limits | None:
    if not site.exists():
        return None
    from hpckit.spec import load_limits

    return load_limits(site)


def _lower(one: _Number | None, other: _Number | None) -> _Number | None:
    given = [value for value in (one, other) if value is not None]
    return min(given) if given else None


def hours_used(attempts: Iterable[Attempt], units_an_hour: int, alive: int | None = None) -> float:
    """GPU hours (or node hours) that the attempts of a run have had; `alive` is one's number."""
    return sum(attempt_hours(each, units_an_hour, each.number == alive) for each in attempts)


def spent(run: Run, spec: JobSpec, hours: float, now: float) -> str | None:
    """Which of the limits of hours and time a run has reached, if any."""
    limits = spec.limits
    if limits.gpu_hours is not None and hours >= limits.gpu_hours:
        return f"limits.gpu_hours: {limits.gpu_hours:g} {unit_name(spec)} are used"
    age_s = now - seconds_of(run.created)
    if limits.total is not None and age_s >= limits.total:
        return f"limits.total: {age_s / 3600:.1f} h have passed since it was submitted"
    return None


def left_s(run: Run, spec: JobSpec, hours: float, now: float) -> float:
    """How long one attempt may yet run before it reaches a limit of hours or time."""
    limits, left = spec.limits, math.inf
    if limits.gpu_hours is not None:
        left = (limits.gpu_hours - hours) / units(spec) * 3600
    if limits.total is not None:
        left = min(left, seconds_of(run.created) + limits.total - now)
    return max(left, 0.0)


def no_more(run: Run) -> str | None:
    """Which of its limits leaves a run no other attempt, if any."""
    spec, attempts = run.spec(), run.attempts()
    if len(attempts) >= spec.limits.attempts:
        return f"all {len(attempts)} attempts that its limits allow are used"
    return spent(run, spec, hours_used(attempts, units(spec)), time.time())


def attempt_hours(attempt: Attempt, units_an_hour: int, is_alive: bool) -> float:
    """What one attempt has had; one that was cut off counts to its last sign of life."""
    started = attempt.about().get("started")
    if not started:
        return 0.0
    end = attempt.ended()
    if end is not None:
        until = seconds_of(end["ended"])
    else:
        until = time.time() if is_alive else attempt.last_seen() or 0.0
    return max(0.0, until - seconds_of(started)) / 3600 * units_an_hour

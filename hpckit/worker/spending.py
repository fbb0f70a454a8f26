"""What a run has spent of its hard limits while an attempt of it runs."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from hpckit.clock import seconds_of
from hpckit.limits import hours_used, unit_name, units
from hpckit.run import Attempt, Run
from hpckit.spec import JobSpec


@dataclass(kw_only=True)
class Spending:
    """Asked once a second."""

    run: Run
    spec: JobSpec
    attempt: Attempt
    started: str

    @functools.cached_property
    def _hours_before(self) -> float:
        """What the attempts before this one have used; it does not change any more."""
        before = [each for each in self.run.attempts() if each.number != self.attempt.number]
        return hours_used(before, units(self.spec))

    def spent(self, now: float) -> str | None:
        """Which of the run's hard limits is reached, if any."""
        limits = self.spec.limits
        ours_s = now - seconds_of(self.started)
        used = self._hours_before + ours_s / 3600 * units(self.spec)
        if limits.gpu_hours is not None and used >= limits.gpu_hours:
            return f"limits.gpu_hours: {limits.gpu_hours:g} {unit_name(self.spec)} are used"
        age_s = now - seconds_of(self.run.created)
        if limits.total is not None and age_s >= limits.total:
            return f"limits.total: {age_s / 3600:.1f} h have passed since it was submitted"
        return None

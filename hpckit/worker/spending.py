"""What a run has spent of its hard limits while an attempt of it runs."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from hpckit.clock import seconds_of
from hpckit.limits import hours_used, spent, units
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
        ours_s = now - seconds_of(self.started)
        used = self._hours_before + ours_s / 3600 * units(self.spec)
        return spent(self.run, self.spec, used, now)

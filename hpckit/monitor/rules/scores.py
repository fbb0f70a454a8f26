"""Rules about scores that a training is taught by, such as PESQ: failed, or NaN."""

from __future__ import annotations

import math

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.rules.base import Rule, Watch


class ScoresFailed(Watch):
    """Many items could not be scored; told at `warn`, and once more at `fail`."""

    value = "scores/failed"
    warn = 0.05
    fail = 0.2
    # One failure in a batch of four is 25%: a share needs many batches.
    batches = 50

    def __init__(self) -> None:
        self.reasons: dict[str, float] = {}

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        if value > 0:
            self._count(reading)
        share = self.mean(value, self.batches)
        if share is None:
            return None
        reasons, self.reasons = self.reasons, {}
        fails = self.lasting(share > self.fail, of="fail", calm=2)
        if not self.lasting(share > self.warn, of="warn", calm=2) and not fails:
            return None
        said = f"{share:.0%} of the scores failed"
        if reasons:
            said += f", most often because of {max(reasons, key=lambda each: reasons[each])}"
        return self.tell(reading, said, value=share)

    def _count(self, reading: Reading) -> None:
        for reason, share in reading.group("scores/failed").items():
            if math.isfinite(share):
                self.reasons[reason] = self.reasons.get(reason, 0.0) + share


class ScoresNan(Rule):
    """The mean of the scores in use is NaN or infinite.

    It acts: the score is a target, so the next update makes every weight NaN.
    """

    needs = ("scores/mean",)
    answer = "act"

    def observe(self, reading: Reading) -> Incident | None:
        mean = reading.values.get("scores/mean")
        if mean is None or not self.lasting(not math.isfinite(mean)):
            return None
        return self.tell(reading, f"the mean of the scores is {mean}", onset=reading.step)

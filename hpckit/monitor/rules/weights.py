"""Rules about the weights: they do not move."""

from __future__ import annotations

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.rules.base import Watch

# Of the highest rate: below it a decay has come to its end.
FADED = 0.01


class WeightsStill(Watch):
    """The weights do not move, though the learning rate says that they should."""

    value = "weights/update/"
    below = 1e-7
    steps = 50

    def __init__(self) -> None:
        self.highest: dict[str, float] = {}
        # The rate at the last look: one that still rises is a warm-up's.
        self.rates: dict[str, float] = {}
        # The optimizer's updates at the last still look: steps that only accumulate make none.
        self.updates: dict[str, float] = {}

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        rate = reading.values.get("lr/" + of)
        waits = rate is not None and rate - rate == 0 and self._waits(rate, of)
        if value >= self.below:
            self.lasting(False, of=of)
            return None
        if waits or self._made_none(reading, of) or not self.lasting(True, self.steps, of=of):
            return None
        said = f"the weights did not move for {self.steps:g} steps (by {value:.1g} of their size)"
        return self.tell(reading, said, value=value, optimizer=of)

    def _waits(self, rate: float, of: str) -> bool:
        """Whether so low a rate lets weights stand still: none, a warm-up's, or a decay's last."""
        before, self.rates[of] = self.rates.get(of, rate), rate
        highest = self.highest.get(of, 0.0)
        if rate > highest:
            self.highest[of] = highest = rate
        return rate <= 0 or rate > before or rate < FADED * highest

    def _made_none(self, reading: Reading, of: str) -> bool:
        """Whether no update was made in this step: that is no news of the weights."""
        if reading.values.get("grad/gated/" + of, 0) > 0:
            return True
        count = reading.values.get("updates/" + of)
        if count is None:
            return False
        before, self.updates[of] = self.updates.get(of), count
        return before is not None and count == before

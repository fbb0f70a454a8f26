"""Which readings are drawn, of a training whose steps are too many for a curve on a screen.

The first 1,000 steps all; later one step of every `step / 1000`, so that ten million steps are
some 10,000 points: a screen shows fewer, and each takes a tenth of a millisecond. Between two of
them also the one with the largest gradient norm, where that is more than twice the second's, and
up to 20 that are gated, not finite, or a validation.
"""

from __future__ import annotations

import math

from hpckit.monitor.reading import GATED, LOSS, NORM, Reading

DENSE = 1000
SPIKE = 2.0
MOST_ODD = 20


class Chosen:
    """Passes on a part of the readings, in their order."""

    def __init__(self, every: int = 1) -> None:
        """`every`: the smallest distance of two ordinary steps."""
        self.every = every
        self._last = -1
        self._seen = -1
        self._odd = 0
        # By name: what was drawn last, and the largest reading since.
        self._usual: dict[str, float] = {}
        self._largest: dict[str, Reading] = {}

    def take(self, reading: Reading) -> list[Reading]:
        """What is to be drawn now that this reading has come."""
        if reading.step < self._seen:
            self._last = -1
            self._largest.clear()
        self._seen = reading.step
        odd = is_odd(reading)
        if self._is_due(reading.step):
            self._last, self._odd = reading.step, 0
            self._usual.update(sizes(reading))
        elif odd and self._odd < MOST_ODD:
            self._odd += 1
        else:
            self._hold(reading)
            return []
        return [*self._spikes(), reading]

    def _is_due(self, step: int) -> bool:
        return self._last < 0 or step - self._last >= max(self.every, step // DENSE)

    def _hold(self, reading: Reading) -> None:
        for name, value in sizes(reading).items():
            held = self._largest.get(name)
            if held is None or value > sizes(held)[name]:
                self._largest[name] = reading

    def _spikes(self) -> list[Reading]:
        found = {
            held.step: held
            for name, held in self._largest.items()
            if sizes(held)[name] > SPIKE * self._usual.get(name, 0.0)
        }
        self._largest.clear()
        return [found[step] for step in sorted(found)]


def is_odd(reading: Reading) -> bool:
    """Whether a reading is out of the ordinary."""
    for name, value in reading.values.items():
        if not math.isfinite(value) or name.startswith("val/"):
            return True
        if value and name.startswith(GATED):
            return True
    return False


def sizes(reading: Reading) -> dict[str, float]:
    """The finite gradient norms, or the loss where there are none."""
    found = {name: value for name, value in reading.values.items() if name.startswith(NORM)}
    found = found or {LOSS: abs(reading.values.get(LOSS, 0.0))}
    return {name: value for name, value in found.items() if math.isfinite(value)}

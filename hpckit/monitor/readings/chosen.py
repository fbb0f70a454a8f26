"""Which readings are drawn, of a training whose steps are too many for a curve on a screen.

The first 1,000 steps all; later one step of every `step / 500`, so that ten million steps are
some 5,700 points: a screen shows fewer, and each takes a tenth of a millisecond. Between two of
them also the one with the largest gradient norm, where that is more than twice the second's, and
up to 20 that are gated, not finite, or a validation.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from hpckit.monitor.reading import GATED, LOSS, NORM, Reading

DENSE = 500
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
        self._largest: dict[str, tuple[float, Reading]] = {}

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
            if held is None or value > held[0]:
                self._largest[name] = value, reading

    def _spikes(self) -> list[Reading]:
        found = {
            held.step: held
            for name, (value, held) in self._largest.items()
            if value > SPIKE * self._usual.get(name, 0.0)
        }
        self._largest.clear()
        return [found[step] for step in sorted(found)]


def is_odd(reading: Reading) -> bool:
    """Whether a reading is out of the ordinary."""
    values = reading.values
    total = sum(values.values())
    # True for infinities and NaN, and for numbers whose sum alone is too large.
    if total - total != 0 and not all(map(math.isfinite, values.values())):
        return True
    looks = _looks(tuple(values))
    return looks.validates or any(values[name] for name in looks.gates)


def sizes(reading: Reading) -> dict[str, float]:
    """The finite gradient norms, or the loss where there are none."""
    values = reading.values
    found = {name: values[name] for name in _looks(tuple(values)).norms}
    found = found or {LOSS: abs(values.get(LOSS, 0.0))}
    return {name: value for name, value in found.items() if math.isfinite(value)}


class Looks(NamedTuple):
    """What is looked at in readings with the same names."""

    validates: bool
    gates: list[str]
    norms: list[str]


@functools.lru_cache(maxsize=1000)
def _looks(names: tuple[str, ...]) -> Looks:
    return Looks(
        any(name.startswith("val/") for name in names),
        [name for name in names if name.startswith(GATED)],
        [name for name in names if name.startswith(NORM)],
    )

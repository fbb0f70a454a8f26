"""What is usual: a median and a spread of the last accepted values, a little behind.

Medians, because an outlier must move nothing. Behind, because a growth must not become its own
measure. The spread is taken around the line through the two halves of the window: around the
median alone a steady ramp would look like noise, and six sigmas of it would hide the ramp.
"""

from __future__ import annotations

from collections import deque

from hpckit.monitor.memory import Memory

# Turns a median of absolute deviations into the sigma of a normal distribution.
SIGMA = 1.4826


class Baseline(Memory):
    """The usual level of a series, and how far it strays from it."""

    settings = frozenset({"window", "lag", "warm", "floor", "every"})

    def __init__(
        self,
        *,
        window: int = 256,
        lag: int = 16,
        warm: int = 64,
        floor: float = 0.1,
        every: int = 16,
    ) -> None:
        if window < 16 or warm < 1 or lag < 0 or every < 1:
            raise ValueError(
                f"a baseline needs a window of at least 16 and a warm-up of at least 1, "
                f"not {window} and {warm}"
            )
        self.window, self.lag, self.warm, self.floor, self.every = window, lag, warm, floor, every
        self.values: deque[float] = deque(maxlen=window + lag)
        self.count = 0
        self.level = 0.0
        self.spread = 0.0
        self.ready = False

    def add(self, value: float) -> bool:
        """Take in an accepted, finite value; whether what is usual was looked at anew."""
        self.values.append(value)
        self.count += 1
        if self.count >= self.warm and (not self.ready or self.count % self.every == 0):
            self._refresh()
            return True
        return False

    def restart(self) -> None:
        """Forget: the series has a new level for good."""
        self.values.clear()
        self.count = 0
        self.ready = False

    def learn_anew(self, values: list[float]) -> bool:
        """These were the last values, and no others; not done where they are too few to tell."""
        if len(values) < self.warm:
            return False
        self.values.clear()
        self.values.extend(values)
        self.count = max(self.warm, self.count)
        self._refresh()
        return True

    def recent(self, number: int) -> float:
        """The median of the newest values, which nothing lags."""
        return median(list(self.values)[-number:])

    def _refresh(self) -> None:
        # Every second value: half the cost, and neighbours say nearly the same.
        values = list(self.values)
        old = values[: -self.lag : 2] if len(values) > self.lag + 16 else values
        half = len(old) // 2
        first, second = median(old[:half] or old), median(old[half:])
        slope = (second - first) / (len(old) - half)
        self.level = median(old)
        start = self.level - slope * (len(old) - 1) / 2
        apart = median([abs(value - start - slope * i) for i, value in enumerate(old)])
        self.spread = max(SIGMA * apart, self.floor)
        self.ready = True


def median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2

"""Rules about the loss at the start of a training: flat, wrong in size, not falling."""

from __future__ import annotations

import math

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.rules.base import Watch

# So many losses make a mean: one alone says little.
FEW = 10
# A reading later than this is not a training's first.
FIRST = 10


class LossFlat(Watch):
    """From the start every single loss is within a few percent of the first ones.

    A healthy loss leaves that band, by learning or by the noise of its batches, and a training is
    not judged again once it has.
    """

    value = "train/loss"
    within = 0.05
    steps = 200

    def __init__(self) -> None:
        self.is_over = False
        self.start = 0.0
        self.count = 0
        self.rate = 0.0

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        if self.is_over:
            return None
        if self.count == 0 and reading.step > self.steps:
            # Taken up in the midst of a training.
            self.is_over = True
            return None
        self.count += 1
        if self.count <= FEW:
            self.start += (value - self.start) / self.count
            return None
        if abs(value - self.start) > self.within * abs(self.start):
            self.is_over = True
            return None
        return self._still_flat(reading, value)

    def _still_flat(self, reading: Reading, value: float) -> Incident | None:
        if self.count == self.steps // 2:
            self.rate = _rate(reading)
        if self.count < self.steps:
            return None
        if _rate(reading) > self.rate:
            # The warm-up has not even ended: the same again from here.
            self.count = FEW
            return None
        self.is_over = True
        said = f"the loss stayed within {self.within:.0%} of {self.start:.3g}, where it began"
        return self.tell(reading, f"{said}, for {self.steps:g} steps", value=value)


class FirstLoss(Watch):
    """A fresh model's cross-entropy is not that of a guess: the logarithm of the classes."""

    value = "train/cross_entropy"
    facts = ("data/classes",)
    within = 0.15

    def __init__(self) -> None:
        self.is_over = False

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        classes = self.known.get("data/classes", 0)
        if self.is_over or (classes <= 1 and reading.step <= FIRST):
            return None
        self.is_over = True
        if reading.step > FIRST:
            return None
        guess = math.log(classes)
        if abs(value - guess) <= self.within * guess:
            return None
        said = f"the first cross-entropy is {value:.3g}, a guess among {classes:g} has {guess:.3g}"
        return self.tell(reading, said, value=value, usual=guess)


class LossNotFalling(Watch):
    """A component that must fall early did not; a warm-up has its own time first."""

    value = "early/"
    fall = 0.2
    steps = 2000

    def __init__(self) -> None:
        # By component: how many means, the first, the lowest, and the learning rate half-way;
        # empty once it is judged.
        self.means: dict[str, list[float]] = {}

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        seen = self.means.get(of)
        if seen is None:
            seen = self.means[of] = [0, 0.0, 0.0, 0.0] if reading.step <= self.steps else []
        mean = self.mean(value, FEW, of) if seen else None
        if mean is None:
            return None
        seen[0] += 1
        seen[1:3] = [mean, mean] if seen[0] == 1 else [seen[1], min(seen[2], mean)]
        if seen[2] <= (1 - self.fall) * seen[1] or seen[1] <= 0:
            self.means[of] = []
            return None
        return self._still_high(reading, seen, of)

    def _still_high(self, reading: Reading, seen: list[float], of: str) -> Incident | None:
        count, first, lowest, rate = seen
        if count == max(1, self.steps // FEW // 2):
            seen[3] = _rate(reading)
        if count * FEW < self.steps:
            return None
        if _rate(reading) > rate:
            seen[0] = 1
            return None
        self.means[of] = []
        said = f"{of} went from {first:.3g} to no less than {lowest:.3g} in {self.steps:g} steps"
        return self.tell(reading, said, value=lowest, usual=first)


def _rate(reading: Reading) -> float:
    """The highest learning rate in force, 0 where none is known."""
    return max((each for each in reading.group("lr").values() if each - each == 0), default=0.0)

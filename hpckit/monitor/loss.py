"""Whether the loss is where it was, worse, or gone: what a clipped run shows when its norm is fine.

A loss may be negative, near zero, or swing in waves, as a GAN's does: it is judged by its own
spread and by the range that its level has covered so far, never by a ratio.
"""

from __future__ import annotations

import math
from collections import deque

from hpckit.monitor.baseline import Baseline, median
from hpckit.monitor.memory import Memory
from hpckit.monitor.onset import onset

FIRST = 16
FAR = 8.0
LONG = 64
ABOVE = 3.0
# How far beyond all it ever covered a loss must be to be gone whatever it had learned.
BEYOND, RISING = 10.0, 3.0
# After so many steps far above the usual it is a new usual, not a loss that is gone.
SETTLED = 6 * LONG


class LossWatch(Memory):
    """The loss's usual level, how far it is from it now, and whether it is gone for good."""

    def __init__(self) -> None:
        self.usual = Baseline(window=256, warm=32, floor=0.0)
        self.steps: deque[int] = deque(maxlen=512)
        self.last: deque[float] = deque(maxlen=512)
        self.first: list[float] = []
        self.start = 0.0
        self.lowest = 0.0
        self.highest = 0.0
        self.far = 0
        # The highest that the newest losses came to while they were far out.
        self.peak = 0.0
        # How many spreads the newest loss is above its usual; None while nothing is usual yet.
        self.excess: float | None = None

    def observe(self, step: int, loss: float, *, accepted: bool) -> None:
        """Take in a finite loss; one that is far out does not become usual, for a while."""
        self.steps.append(step)
        self.last.append(loss)
        if not self.usual.ready:
            self._begin(loss)
            return
        usual = self.usual
        self.excess = (loss - usual.level) / self._spread()
        self.far = self.far + 1 if self.excess > FAR else max(0, self.far - 4)
        if self.far == 0:
            self.peak = usual.level
        elif self.far % 4 == 0:
            self.peak = max(self.peak, median(list(self.last)[-8:]))
        # A level that stays is a new level: a curriculum got harder, and that is no disaster.
        if accepted and (self.excess <= FAR or self.far > SETTLED):
            usual.add(loss)
            self.lowest = min(self.lowest, usual.level)
            self.highest = max(self.highest, usual.level)

    def _begin(self, loss: float) -> None:
        self.usual.add(loss)
        if len(self.first) < FIRST:
            self.first.append(loss)
            self.start = median(self.first)
        if self.usual.ready:
            self.lowest = min(self.usual.level, self.start)
            self.highest = max(self.usual.level, self.start)

    def went_back(self, step: int) -> None:
        """The run goes on from a step of before: what came after it is not what is usual."""
        before = [each for each in zip(self.steps, self.last, strict=True) if each[0] < step]
        self.steps.clear()
        self.last.clear()
        for when, loss in before:
            self.steps.append(when)
            self.last.append(loss)
        self.usual.learn_anew([loss for _, loss in before])
        self.far = 0

    def is_worse(self) -> bool:
        """Most of the last losses are far above the usual, and have not long settled there."""
        if self.far < LONG:
            return self.far >= 3
        losses = list(self.last)[-LONG:]
        newest, older = median(losses[-FIRST:]), median(losses[:FIRST])
        return newest > older + 0.2 * (older - self.usual.level)

    def is_above(self, loss: float) -> bool:
        """Whether a single loss is higher than usual."""
        return not self.usual.ready or loss > self.usual.level + ABOVE * self._spread()

    def is_forgotten(self) -> bool:
        """The newest losses are where half and more of what was learned is lost."""
        if not self.usual.ready or self.far < FIRST:
            return False
        learned = self.start - self.lowest
        newest = median(list(self.last)[-FIRST:])
        return learned > 10 * self._spread() and newest - self.lowest > 0.5 * learned

    def is_better(self) -> bool:
        """The newest losses are below the usual: what grows, grows in good health."""
        if not self.usual.ready or len(self.last) < 8:
            return False
        newest = median(list(self.last)[-8:])
        return newest < self.usual.level - 0.5 * max(self.usual.spread, 1e-12)

    def is_out_of_range(self) -> bool:
        """The newest losses are above all that the loss ever covered, and as much again."""
        if not self.usual.ready:
            return False
        reach = max(self.highest - self.lowest, 10 * self._spread())
        return median(list(self.last)[-8:]) > self.highest + reach

    def is_gone(self, *, saturated: bool) -> bool:
        """All that was learned is lost, for long, and it does not come back.

        Under a clip that is always at work less is enough: there the norm says nothing.
        """
        if not LONG <= self.far <= SETTLED or self.usual.count < self.usual.window:
            return False
        losses = list(self.last)[-LONG:]
        newest, older = median(losses[-FIRST:]), median(losses[:FIRST])
        if newest < older - 0.05 * abs(older - self.usual.level):
            return False
        learned = self.start - self.lowest
        back = newest - self.lowest
        if saturated and learned > 0:
            return back > 0.5 * learned
        reach = self.highest - self.lowest
        # One that goes on rising needs less than one that stays where it came to.
        rises = newest > older + 0.2 * (older - self.usual.level)
        beyond = (RISING if rises else BEYOND) * max(reach, 10 * self._spread())
        if newest > self.highest + beyond:
            return True
        # It overshot all it ever was, and settled where what was learned is mostly gone. A harder
        # curriculum brings a loss up too, but not above where it once began, and not for long.
        # One that is negative has no floor, and what of it was learned nobody can say: a critic's
        # score, a log-likelihood.
        return (
            self.lowest >= 0
            and learned > 10 * self.usual.spread
            and 0.5 * learned < back < 2.0 * learned
            and self.peak > self.highest + 0.25 * reach
        )

    def is_absurd(self, loss: float) -> bool:
        """Whether a single loss is far beyond all that it ever covered."""
        if not self.usual.ready:
            worst = max(self.first, default=math.inf)
            return loss > worst + BEYOND * max(worst - min(self.first, default=0.0), abs(worst))
        reach = max(self.highest - self.lowest, 10 * self._spread())
        return loss > self.highest + BEYOND * reach

    def onset(self, step: int) -> int:
        """When it began to rise."""
        return onset(list(self.steps), list(self.last), step, self.usual.level + self._spread())

    def _spread(self) -> float:
        # What is nothing beside all that was learned is no disaster: a loss near zero spikes.
        covered = 1e-3 * (self.highest - self.lowest)
        return max(self.usual.spread, 0.01 * abs(self.usual.level), covered, 1e-12)

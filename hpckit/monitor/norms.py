"""One optimizer's gradient norms: how wide the gate stands, and what a gate that is shut means."""

from __future__ import annotations

import math
from collections import deque
from itertools import islice, pairwise

from hpckit.monitor.baseline import Baseline, median
from hpckit.monitor.incident import Answer
from hpckit.monitor.loss import LossWatch
from hpckit.monitor.memory import Memory
from hpckit.monitor.onset import onset

# Step, logarithm of the norm, held back, excess over the usual.
Row = tuple[int, float, bool, float]
# Outliers that were seen in so many accepted steps make the gate wider.
MEMORY = 10_000
# For so many accepted steps a new level is held against the one before it.
STAYS = 512
RETURNED = 16
# A loss that so many spreads above its usual is worse, not noisy.
WORSE = 20.0
FOURFOLD = math.log(4.0)
# While nothing is usual yet, a norm so far above those before it is growing.
EARLY = math.log(10.0)
# A norm that is no accident so far above its usual, and gradients that have died below it.
ABSURD, DEAD = math.log(100.0), math.log(30.0)


class NormWatch(Memory):
    """Logarithms of norms against a robust baseline of those that were accepted."""

    settings = frozenset({"sigmas", "times", "explodes", "patience"})

    def __init__(
        self, *, window: int, warm: int, sigmas: float, times: float, explodes: float, patience: int
    ) -> None:
        self.sigmas = sigmas
        self.times = math.log(times)
        self.explodes = math.log(explodes)
        self.patience = patience
        self.usual = Baseline(window=window, warm=warm)
        # The last steps that were finite.
        self.recent: deque[Row] = deque(maxlen=512)
        self.accepted = 0
        # When single steps were far out while all else was well, and how far.
        self.outliers: deque[tuple[int, float]] = deque(maxlen=32)
        # Held back: how many running, and the excess of norm and loss in the present episode.
        self.running = 0
        self.episode: list[tuple[float, float | None]] = []
        # Where the norm was before its first new level, and when the last one was let through.
        self.anchor: float | None = None
        self.anchored = 0
        # Since then: absurd steps running, and steps at which it was where it had been before.
        self.beyond = 0
        self.returned = 0
        # The lowest level so far, and where and when a drift was told.
        self.lowest: float | None = None
        self.told_at: float | None = None
        self.told_when = 0
        # Above the usual by more than `width`, or above `limit`, an update is held back.
        self.width = self.times
        self.limit = math.inf

    def _set_gate(self) -> None:
        """How far above the usual a norm may be: as a logarithm, and as a norm."""
        width = max(self.times, self.sigmas * self.usual.spread)
        seen = [far for when, far in self.outliers if when > self.accepted - MEMORY]
        if len(seen) >= 2:
            # What came twice and did no harm is this training's nature.
            width = max(width, sorted(seen)[-2] + 0.5)
        self.width = width
        ready = self.usual.ready
        self.limit = math.exp(min(self.usual.level + width, 700.0)) if ready else math.inf

    def take(self, step: int, x: float, held: bool) -> bool:
        """Take in a step; whether it was held back for what it is, not for another's sake."""
        excess = x - self.usual.level if self.usual.ready else 0.0
        self.recent.append((step, x, held, excess))
        return held and self.usual.ready and excess > self.width

    def accept(self, x: float) -> None:
        """The update was applied: its norm is one of the usual ones."""
        if self.episode:
            if len(self.episode) <= 2 and self.recent[-1][3] < 0.5 * self.width:
                # Before and after all is usual; at the foot of a growth it would not be.
                self.outliers.append((self.accepted, max(each[0] for each in self.episode)))
                self._set_gate()
            self.episode.clear()
        if not self.is_young() or self.recent[-1][3] < 0.5 * self.width:
            # In a young run a gate that flaps is one that stays shut.
            self.running = 0
        self.accepted += 1
        if self.usual.add(x):
            self._set_gate()

    def weigh(self, loss: LossWatch) -> Answer:
        """One bad batch, an explosion, or a level that stays.

        A burst of bad data and a restart of the schedule shut the gate for some steps, too. What
        grows from step to step, in norm *and* loss, is neither.
        """
        self.running += 1
        self.episode.append((self.recent[-1][3], loss.excess))
        if self._is_absurd(loss) or (len(self.episode) >= 3 and self._grows()):
            return "act"
        if self.running < self.patience:
            return "skip"
        if loss.is_out_of_range() or (self._is_ramp() and not loss.is_better()):
            return "act"
        # What was taken for a new level was none, if it went away and now is here again.
        came_back = self.anchor is not None and self.returned >= RETURNED
        return "act" if came_back else "tell"

    def _is_absurd(self, loss: LossWatch) -> bool:
        """Twice in three steps is no accident; after a drift once is enough."""
        newest = islice(reversed(self.recent), 3)
        absurd = sum(row[3] > self.explodes for row in newest)
        drifted = self.told_at is not None and self.accepted < self.told_when + STAYS
        return absurd >= 2 or (absurd == 1 and drifted and (loss.excess is None or loss.is_worse()))

    def _grows(self) -> bool:
        """Whether the episode gets worse from step to step."""
        (first_norm, first_loss), (last_norm, last_loss) = self.episode[0], self.episode[-1]
        norm_grows = last_norm > first_norm + FOURFOLD
        if first_loss is None or last_loss is None:
            return norm_grows and len(self.episode) >= 4 and last_norm > math.log(50.0)
        if norm_grows:
            return last_loss > max(3 * first_loss, WORSE)
        if len(self.episode) < 5:
            return False
        before = max(each[1] or 0.0 for each in self.episode[:2])
        after = min(each[1] or 0.0 for each in self.episode[-2:])
        return after > max(3 * before, WORSE)

    def is_young(self) -> bool:
        """Networks leave their first plateau with norms that grow in health."""
        return self.accepted < self.usual.window

    def _is_ramp(self) -> bool:
        """The norm rose step by step to where it is, it did not jump there."""
        if self.is_young():
            return False
        newest_first = [row[1] for row in reversed(self.recent)]
        return any(_rises(newest_first[: 6 * block], block) for block in (8, 16, 32))

    def let_through(self) -> None:
        """The norm has a new level: learn it, and remember the old one for a while."""
        if self.anchor is None:
            self.anchor = self.usual.level
        self.anchored, self.returned = self.accepted, 0
        self.told_at, self.told_when = self.recent[-1][1], self.accepted
        self.usual.restart()
        self._set_gate()
        self.episode.clear()
        self.running = 0

    def has_left_for_good(self, loss: LossWatch) -> bool:
        """One new level after the other was let through, and now it is absurd."""
        if self.anchor is None:
            return False
        if self.accepted > self.anchored + STAYS:
            self.anchor = None
            return False
        above = self.recent[-1][1] - self.anchor
        self.beyond = self.beyond + 1 if above > self.explodes else 0
        self.returned += above < self.times / 2
        return self.beyond >= 3 and not loss.is_better()

    def drifted_from(self) -> float | None:
        """The level from which the norm has drifted, when that is news."""
        if self.accepted % 16 or not self.usual.ready:
            return None
        now = self.usual.recent(32)
        self.lowest = now if self.lowest is None else min(self.lowest, now)
        # Told once; after that only what is as much higher still is news.
        since = self.lowest if self.told_at is None else max(self.told_at, self.lowest)
        if now < since + max(FOURFOLD, 3 * self.usual.spread):
            return None
        self.told_at, self.told_when = now, self.accepted
        return since

    def was_unusual(self, loss: LossWatch) -> bool:
        """Whether the last steps were not usual: then a non-finite one is no accident.

        Far above is growth. Far below counts as well: weights that are too large saturate what
        follows them, and gradients die before the loss does.
        """
        if not self.usual.ready:
            # Nothing is usual yet, but norms at a start fall; after a new level they stay.
            values = list(self.usual.values)
            return len(values) >= 2 and values[-1] > median(values[:-1]) + EARLY
        rows = list(islice(reversed(self.recent), 8))
        far = max(math.log(3.0), 4 * self.usual.spread)
        above = sum(row[3] > far for row in rows)
        below = sum(row[3] < -max(DEAD, far) for row in rows)
        return (
            (above >= 3 and not loss.is_better())
            or below >= 3
            or (bool(rows) and rows[0][3] > ABSURD)
        )

    def onset(self, step: int) -> int:
        """When it began to rise."""
        usual = self.usual.level + self.usual.spread if self.usual.ready else -math.inf
        steps = [row[0] for row in self.recent]
        return onset(steps, [row[1] for row in self.recent], step, usual)

    def went_back(self, step: int) -> None:
        """The run goes on from a step of before: what came after it is not what is usual."""
        before = [row for row in self.recent if row[0] < step]
        self.recent.clear()
        self.recent.extend(before)
        if self.usual.learn_anew([x for _, x, held, _ in before if not held]):
            self._set_gate()
        self.episode.clear()
        self.running = 0


def _rises(newest_first: list[float], block: int) -> bool:
    """Whether values grew fourfold and more, over several blocks and not in one."""
    starts = range(0, len(newest_first), block)
    levels = [median(newest_first[start : start + block]) for start in starts]
    if len(levels) < 4:
        return False
    rises = [newer - older for newer, older in pairwise(levels)]
    total = levels[0] - levels[-1]
    return total > FOURFOLD and sum(rise > 0.15 for rise in rises) >= 3 and max(rises) < 0.7 * total

"""What others do about a gradient before it is applied, by their published descriptions.

Each answers with the factor for a step's gradients, or None where the step is left out.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from typing import Protocol

from benchmarks.detection import rivals

# As torch.nn.utils.clip_grad_norm_ has it.
EPSILON = 1e-6


class Guard(Protocol):
    """Owns one optimizer's clipping."""

    def factor(self, loss: float, norm: float) -> float | None: ...


def clipped(norm: float, limit: float | None) -> float:
    """What clipping to a limit multiplies by; a NaN stays one, as in PyTorch."""
    if limit is None:
        return 1.0
    factor = limit / (norm + EPSILON)
    return 1.0 if factor > 1.0 else factor


class Constant:
    """One limit for the whole training."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit

    def factor(self, loss: float, norm: float) -> float | None:
        return clipped(norm, self.limit)


class ZClip:
    """To mean + 2.5 sigma / (z / 2.5) where z is above 2.5, and to 1 in any case."""

    def __init__(self, at_most: float = 1.0) -> None:
        self.at_most = at_most
        self.rule = rivals.ZClip()

    def factor(self, loss: float, norm: float) -> float | None:
        mean, scatter = self.rule.mean, math.sqrt(self.rule.variance)
        limit = self.at_most
        if self.rule.observe(step=0, loss=loss, norm=norm) is not None:
            z = (norm - mean) / (scatter + EPSILON)
            limit = min(limit, mean + self.rule.z * scatter * self.rule.z / z)
        return clipped(norm, limit)


class AutoClip:
    """To the 10th percentile of all norms so far, this one included."""

    def __init__(self, percentile: float = 10) -> None:
        self.part = percentile / 100
        self.ordered: list[float] = []
        self.poisoned = False

    def factor(self, loss: float, norm: float) -> float | None:
        self.poisoned = self.poisoned or math.isnan(norm)
        if self.poisoned:
            return math.nan
        bisect.insort(self.ordered, norm)
        # Between two norms in a line, as numpy's percentile.
        whole, rest = divmod(self.part * (len(self.ordered) - 1), 1)
        below = self.ordered[int(whole)]
        above = self.ordered[min(int(whole) + 1, len(self.ordered) - 1)]
        return clipped(norm, below + rest * (above - below) if rest else below)


class SkipStep:
    """Leaves a step out whose loss or norm is beyond 6 sigma of 128; clips as the training does."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.rule = rivals.SkipStep()

    def factor(self, loss: float, norm: float) -> float | None:
        if self.rule.observe(step=0, loss=loss, norm=norm) is not None:
            return None
        return clipped(norm, self.limit)


# Each is made for one optimizer, with the training's own clip.
GUARDS: dict[str, Callable[[float | None], Guard]] = {
    "plain": Constant,
    "clip": lambda own: Constant(1.0),
    "zclip": lambda own: ZClip(),
    "autoclip": lambda own: AutoClip(),
    "skip": SkipStep,
}

"""How far each step moves the weights, from a sample that goes round over all of them.

To copy all weights before every step would cost more than the step. So every 16th step one
stretch of one parameter is looked at; the ratio that is told is that of the last stretches
together, each weighted by the parameter that it stands for. Of sharded weights a rank sees its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hpckit.monitor.gradients import values_in_place
from hpckit.monitor.memory import Memory

STRETCH = 1024
LAST = 32
EVERY = 16


class Sample(NamedTuple):
    """A stretch of weights: as they are, as they were, and how many numbers it stands for."""

    now: Tensor
    before: Tensor
    stands_for: float

    def taken(self) -> Sample:
        """After the step: the norms of the update and of the weights before it."""
        update, weight = torch._foreach_norm([self.now - self.before, self.before])
        return Sample(update, weight, self.stands_for)


class Updates(Memory):
    """The ratio of update to weight of one optimizer."""

    def __init__(self) -> None:
        self.steps = 0
        # The squares of update and weight of the last stretches, scaled to their parameters.
        self.last: deque[tuple[float, float]] = deque(maxlen=LAST)
        self.ratio: float | None = None

    def before(self, parameters: Sequence[Tensor]) -> Sample | None:
        """The stretch whose turn it is, if it is a step to look at."""
        self.steps += 1
        if self.steps % EVERY or not parameters:
            return None
        lap, turn = divmod(self.steps // EVERY, len(parameters))
        parameter = values_in_place(parameters[turn].detach())
        number = parameter.numel()
        if not number or not parameter.is_contiguous():
            return None
        begin = lap * STRETCH % number
        stretch = parameter.view(-1)[begin : begin + STRETCH]
        return Sample(stretch, stretch.clone(), number / stretch.numel())

    def add(self, update: float, weight: float, stands_for: float) -> None:
        """Take in what one stretch showed."""
        self.last.append((update * update * stands_for, weight * weight * stands_for))
        moved = sum(each[0] for each in self.last)
        size = sum(each[1] for each in self.last)
        self.ratio = (moved / max(size, 1e-30)) ** 0.5

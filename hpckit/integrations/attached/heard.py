"""What the program does around its optimizers' steps: its losses, and its own clipping."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hpckit.train.clipping import EPSILON

# A program may clip models that never step.
MOST_CLIPS = 16


class Clipped(NamedTuple):
    """One call of the program's: whose gradients, and by which factor."""

    parameters: frozenset[int]
    factor: float | Tensor


class Heard:
    """Since the last step of any optimizer."""

    def __init__(self) -> None:
        self._sum: float | Tensor = 0.0
        self._count = 0
        self._clips: deque[Clipped] = deque(maxlen=MOST_CLIPS)

    def backward(self, tensors: object, gradients: object) -> None:
        """Backward is called: on a single number it is on a loss."""
        # What was clipped is more than that by now, or its step was never taken.
        self._clips.clear()
        if not isinstance(tensors, Tensor) or gradients is not None or tensors.numel() != 1:
            return
        if tensors.is_cuda and torch.cuda.is_current_stream_capturing():
            # A graph's replay calls nobody, and what it leaves is no step's loss.
            return
        loss = tensors.detach().reshape(())
        # On a device it is not waited for.
        self._sum = self._sum + (loss.float() if loss.is_cuda else float(loss))
        self._count += 1

    def take_loss(self, scale: float | Tensor | None) -> float | Tensor | None:
        """The mean of the losses that led to a step, without the scale that they were given."""
        found, count = self._sum, self._count
        self._sum, self._count = 0.0, 0
        if not count:
            return None
        return found / count if scale is None else found / (count * scale)

    def clipped(self, parameters: Iterable[Tensor], most: float, total: object) -> None:
        """The program has clipped by norm: to `most`, from `total`."""
        # Of shards the whole is known to nobody without asking.
        if type(total) is not Tensor:
            return
        factor = (float(most) / (total.detach() + EPSILON)).clamp(max=1.0)
        known = factor if factor.is_cuda else float(factor)
        if isinstance(known, Tensor) or known != 1.0:
            self._clips.append(Clipped(frozenset(map(id, parameters)), known))

    def take_clip(self, parameters: Sequence[Tensor]) -> float | Tensor:
        """By which factor all of these were clipped; 1 where only some were."""
        if not self._clips:
            return 1.0
        mine = {id(each) for each in parameters}
        covering = [each for each in self._clips if each.parameters >= mine]
        for each in covering:
            self._clips.remove(each)
        return covering[-1].factor if covering else 1.0

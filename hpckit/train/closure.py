"""Steps that evaluate the loss themselves, several times, as LBFGS does."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Evaluations:
    """A closure that is measured at each call; the first call was made before the step."""

    def __init__(
        self,
        closure: Callable[[], Any],
        norm: Callable[[], float],
        parameters: Sequence[Tensor],
    ) -> None:
        self._closure, self._norm, self._parameters = closure, norm, parameters
        self.loss = closure()
        self.worst = norm()
        self._seen = self._marks()

    def _marks(self) -> list[tuple[int, int]]:
        return [(each._version, id(each.grad)) for each in self._parameters]

    def __call__(self) -> Any:
        seen, self._seen = self._seen, []
        if seen and seen == self._marks():
            # The optimizer begins where we have just been; some move the weights before.
            return self.loss
        value = self._closure()
        now = self._norm()
        self.worst = now if math.isnan(now) else max(self.worst, now)
        return value


class Backup:
    """An optimizer's weights and state as they are now."""

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        self._optimizer = optimizer
        self._parameters = parameters
        self._weights = [each.detach().clone() for each in parameters]
        self._state = {key: copy.deepcopy(each) for key, each in optimizer.state.items()}

    def put_back(self) -> None:
        with torch.no_grad():
            for parameter, weight in zip(self._parameters, self._weights, strict=True):
                parameter.copy_(weight)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)


def step_or_put_back(
    optimizer: Optimizer, parameters: Sequence[Tensor], evaluations: Evaluations
) -> bool:
    """Step; should an evaluation or a weight be non-finite, put all back. Whether it held."""
    backup = Backup(optimizer, parameters)
    optimizer.step(evaluations)
    if math.isfinite(evaluations.worst) and all_finite(parameters):
        return True
    backup.put_back()
    return False


def all_finite(parameters: Sequence[Tensor]) -> bool:
    return all(bool(torch.isfinite(each).all()) for each in parameters)

"""A step's numbers sent to the host: one vector a device, and one of its parameters' norms."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hpckit.train.lag import Pending, Ring

# How many steps' parameter norms are kept for an incident that is noticed late.
DETAILS = 8


class Sender:
    """Sends each step's numbers on their way, and keeps the last steps' details at hand."""

    def __init__(self, optimizers: Iterable[str], *, lag: int) -> None:
        # Details of parameters that were not here in time.
        self.dropped = 0
        # The last steps that were decided by.
        self.used: deque[Pending] = deque(maxlen=DETAILS)
        self._heads: dict[torch.device, Ring] = {}
        self._head_slots = lag + 1
        self.vectors = {name: Ring(lag + DETAILS) for name in optimizers}

    def send(
        self,
        step: int,
        values: dict[str, float | Tensor],
        details: Mapping[str, tuple[list[str], Tensor]],
        stands_for: Mapping[str, float],
    ) -> Pending:
        """Take over a step's values: those that are here, and those that are on a device."""
        known: dict[str, Any] = values
        far: dict[torch.device, list[str]] = {}
        for name, value in known.items():
            if isinstance(value, Tensor):
                far.setdefault(value.device, []).append(name)
        flights = []
        for device, listed in far.items():
            numbers = [known.pop(name).reshape(()).to(torch.float64) for name in listed]
            ring = self._heads.setdefault(device, Ring(self._head_slots))
            flights.append((tuple(listed), ring.send(torch.stack(numbers))))
        return Pending(
            step=step,
            known=known,
            flights=tuple(flights),
            details={
                name: (listed, self.vectors[name].send(each))
                for name, (listed, each) in details.items()
            },
            stands_for=stands_for,
            time=time.time(),
        )

    def detail(self, optimizer: str) -> Iterator[tuple[int, Mapping[str, float]]]:
        """An optimizer's parameter norms, newest first; what is not here yet is dropped."""
        for pending in reversed(self.used):
            norms = self.landed(pending, optimizer)
            if norms:
                yield pending.step, norms

    def landed(self, pending: Pending, optimizer: str) -> Mapping[str, float]:
        listed, flight = pending.details.get(optimizer, ((), None))
        if flight is None:
            return {}
        if not flight.is_here():
            self.dropped += 1
            return {}
        return dict(zip(listed, flight.land(), strict=True))

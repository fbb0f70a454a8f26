"""Numbers on their way from the device to the host, with a lag that is always the same.

A decision that used whatever had arrived would differ between ranks and between a run and its
resumed twin. So the reading of step t is used after step t + lag - 1, never earlier and never
later; if it is not there by then, that one event is waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Flight(Protocol):
    """Numbers that were sent to the host."""

    def is_here(self) -> bool:
        """Whether they can be read without waiting."""

    def land(self) -> list[float]:
        """The numbers, waited for if they must be."""


class Landed:
    """Numbers that are on the host already."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def is_here(self) -> bool:
        return True

    def land(self) -> list[float]:
        found: list[float] = self._values.tolist()
        return found


class CudaFlight:
    """A copy into pinned memory and the event that says that it is done."""

    def __init__(self, values: Tensor, slot: Tensor) -> None:
        self._slot = slot[: values.numel()]
        self._slot.copy_(values, non_blocking=True)
        self._event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record(torch.cuda.current_stream(values.device))

    def is_here(self) -> bool:
        return bool(self._event.query())

    def land(self) -> list[float]:
        self._event.synchronize()
        found: list[float] = self._slot.tolist()
        return found


class Ring:
    """Sends vectors to the host: as they are from a CPU, through pinned slots from a GPU.

    A slot is used again after `size` sends: whoever sends must have read it by then.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._slots: deque[Tensor] = deque()

    def send(self, values: Tensor) -> Flight:
        if not values.is_cuda:
            return Landed(values)
        return CudaFlight(values, self._slot(values))

    def _slot(self, values: Tensor) -> Tensor:
        slot = self._slots.popleft() if len(self._slots) == self._size else None
        if slot is None or slot.numel() < values.numel() or slot.dtype != values.dtype:
            slot = torch.empty(values.numel(), dtype=values.dtype, pin_memory=True)
        self._slots.append(slot)
        return slot


NOTHING: Mapping[str, Any] = MappingProxyType({})


class Pending(NamedTuple):
    """One step's numbers: some known at once, some on their way."""

    step: int
    time: float
    known: Mapping[str, float]
    # By device: names of numbers, and the numbers.
    flights: tuple[tuple[tuple[str, ...], Flight], ...] = ()
    # By optimizer: names of the parameters and their norms, which may be dropped.
    details: Mapping[str, tuple[list[str], Flight]] = NOTHING
    # By optimizer: how much of the weights the sampled update stands for.
    stands_for: Mapping[str, float] = NOTHING

    def values(self) -> dict[str, float]:
        found = dict(self.known)
        for names, flight in self.flights:
            found.update(zip(names, flight.land(), strict=True))
        return found

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "time": self.time,
            "values": self.values(),
            "stands_for": dict(self.stands_for),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Pending:
        return cls(
            step=state["step"],
            time=state["time"],
            known=state["values"],
            stands_for=state["stands_for"],
        )


class Lag:
    """The steps whose readings are not to be used yet."""

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"lag must be at least 1 step, not {steps}")
        self.steps = steps
        self._pending: deque[Pending] = deque()

    def push(self, pending: Pending) -> list[Pending]:
        """Take in a step; answer with those that are due, oldest first."""
        self._pending.append(pending)
        due = []
        while self._pending and self._pending[0].step <= pending.step + 1 - self.steps:
            due.append(self._pending.popleft())
        return due

    def drain(self) -> list[Pending]:
        """All that is left, at the end of a training."""
        due, self._pending = list(self._pending), deque()
        return due

    def state_dict(self) -> list[dict[str, Any]]:
        """The readings in flight, waited for: they are part of what decides the next steps."""
        return [pending.state() for pending in self._pending]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        self._pending = deque(Pending.restored(each) for each in state)

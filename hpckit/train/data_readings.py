"""What health rules want to know of the data: how much, which, and how long it took to come."""

from __future__ import annotations

import functools
from operator import mul
from typing import Any

import torch
from torch import Tensor

# Numbers of a batch that are looked at: a picture's border and a sentence's first word are the same
# in each, so they are many, and nowhere in particular.
LOOKED_AT = 32
GOLDEN = (5**0.5 - 1) / 2
# Distinct weights: the same numbers in another order are another batch.
WEIGHTS = range(1, LOOKED_AT + 1)


class DataReadings:
    """Collects the numbers of one pass; what has not changed is not said again."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._size: float | None = None
        self._print: float | None = None
        self._expected: int | None = None
        self._said: tuple[float | None, int | None] = (None, None)

    def note(self, batch: Any, waited_s: float, expected: int | None) -> None:
        """A batch was handed out."""
        self._waited += waited_s
        self._expected = expected
        first = first_tensor(batch)
        if first is not None and first.dim() and not first.numel():
            # Hints that this batch has none of: it is without data only if all of it is empty.
            full = first_tensor(batch, full=True)
            first = full if full is not None else first
        if first is None or first.is_nested:
            return
        self._size = (self._size or 0.0) + (len(first) if first.dim() else 1)
        self._print = fingerprint(first)

    def state_dict(self) -> dict[str, Any]:
        """What is collected of a pass that is not over."""
        return {"waited": self._waited, "size": self._size, "print": self._print}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._waited = state.get("waited", 0.0)
        self._size, self._print = state.get("size"), state.get("print")

    def take(self) -> dict[str, float]:
        values = {"time/data": self._waited}
        if self._print is not None:
            values["data/batch"] = self._print
        size, expected = self._size, self._expected
        # An empty batch, and one of a single item, rules must see each time.
        if (size, expected) != self._said or (size is not None and size < 2):
            self._said = (size, expected)
            if size is not None:
                values["data/size"] = float(size)
            if expected is not None:
                values["data/expected"] = float(expected)
        self._waited, self._size, self._print = 0.0, None, None
        return values


def first_tensor(batch: Any, *, full: bool = False) -> Tensor | None:
    """The first tensor of a batch, whatever it is packed in; `full`: the first that has items."""
    if isinstance(batch, Tensor):
        return batch if not full or (batch.dim() and batch.numel()) else None
    parts = batch.values() if isinstance(batch, dict) else batch
    if isinstance(parts, (str, bytes)) or not hasattr(parts, "__iter__"):
        return None
    if not isinstance(batch, (list, tuple, dict)):
        return None
    for part in parts:
        found = first_tensor(part, full=full)
        if found is not None:
            return found
    return None


def fingerprint(tensor: Tensor) -> float | None:
    """A number that other data would not have; None for what is on a device, or has no numbers."""
    number = tensor.numel()
    is_plain = tensor.layout is torch.strided and not tensor.is_complex()
    if not tensor.is_cpu or not is_plain or not number or not tensor.is_contiguous():
        return None
    try:
        picked = tensor.take(_places(number)).tolist()
        return float(sum(map(mul, picked, WEIGHTS)))
    except (RuntimeError, TypeError):
        # Quantized, masked, or whatever else is like a tensor.
        return None


@functools.lru_cache(maxsize=64)
def _places(number: int) -> Tensor:
    """Spread evenly over so many, at no fixed distance."""
    steps = torch.arange(min(number, LOOKED_AT), dtype=torch.float64)
    return (steps * GOLDEN % 1 * number).long()

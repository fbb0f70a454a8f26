"""What health rules want to know of the data: how much, which, and how long it took to come."""

from __future__ import annotations

from typing import Any

from torch import Tensor

# Numbers of a batch that are looked at.
LOOKED_AT = 16


class DataReadings:
    """Collects the numbers of one pass."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self._print: float | None = None

    def note(self, batch: Any, waited_s: float, expected: int | None) -> None:
        """A batch was handed out."""
        values = self.values
        values["time/data"] = values.get("time/data", 0.0) + waited_s
        first = first_tensor(batch)
        if first is None:
            return
        values["data/size"] = values.get("data/size", 0.0) + float(
            first.shape[0] if first.dim() else 1
        )
        found = fingerprint(first)
        if found is not None:
            values["data/batch"] = found
        if expected is not None:
            values["data/expected"] = float(expected)

    def take(self) -> dict[str, float]:
        values, self.values = self.values, {}
        return values


def first_tensor(batch: Any) -> Tensor | None:
    """The first tensor of a batch, whatever it is packed in."""
    if isinstance(batch, Tensor):
        return batch
    parts = batch.values() if isinstance(batch, dict) else batch
    if isinstance(parts, (str, bytes)) or not hasattr(parts, "__iter__"):
        return None
    if not isinstance(batch, (list, tuple, dict)):
        return None
    for part in parts:
        found = first_tensor(part)
        if found is not None:
            return found
    return None


def fingerprint(tensor: Tensor) -> float | None:
    """A number that other data would not have; None for what is on a device, or has no numbers."""
    if tensor.is_cuda or not tensor.numel() or tensor.is_sparse or not tensor.is_contiguous():
        return None
    flat = tensor.detach().view(-1)
    picked = flat[:: max(1, flat.numel() // LOOKED_AT)]
    # Distinct weights: the same numbers in another order are another batch.
    return float(sum(value * (1 + place) for place, value in enumerate(picked.tolist())))

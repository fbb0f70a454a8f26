"""The best value of a metric so far."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor

from hpckit.errors import UsageError

Mode = Literal["min", "max"]


def as_number(value: Any) -> float:
    """What a validation gives; torch warns of a loss that still wants gradients."""
    return float(value.detach() if isinstance(value, Tensor) else value)


class Best:
    """Remembers by name; what is not finite is never best."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.steps: dict[str, int] = {}

    def better(self, name: str, value: float, mode: Mode, step: int) -> bool:
        """Take in a value; whether there was no better one."""
        if mode not in ("min", "max"):
            raise UsageError(f"best: mode must be min or max, not {mode!r}")
        if not math.isfinite(value):
            return False
        old = self.values.get(name)
        if old is not None and (value >= old if mode == "min" else value <= old):
            return False
        self.values[name], self.steps[name] = value, step
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"values": dict(self.values), "steps": dict(self.steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values, self.steps = dict(state["values"]), dict(state["steps"])

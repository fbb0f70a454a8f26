"""An optimizer's learning rates, group by group; some have none, and find theirs themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.optim import Optimizer


def times(rate: Any, factor: float) -> Any:
    """The rate by a factor; none stays none."""
    return None if rate is None else rate * factor


@contextlib.contextmanager
def rate_times(optimizer: Optimizer, factor: float) -> Iterator[None]:
    """Step with another rate, and leave the schedule's own as it is."""
    if factor == 1.0:
        yield
        return
    rates = scale_rates(optimizer, factor)
    try:
        yield
    finally:
        set_rates(optimizer, rates)


def scale_rates(optimizer: Optimizer, factor: float) -> list[Any]:
    """Multiply the rates of those groups that have one; what they were."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    set_rates(optimizer, [times(rate, factor) for rate in rates])
    return rates


def set_rates(optimizer: Optimizer, rates: list[Any]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if rate is not None:
            group["lr"] = rate


def all_schedules(schedule: Any) -> Iterator[Any]:
    """A schedule, and those that it is made of."""
    yield schedule
    for each in getattr(schedule, "_schedulers", ()):
        yield from all_schedules(each)

"""What both integrations are made of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hpckit.integrations.hosted import Onward, Rates


def made(rate: float) -> tuple[Rates, torch.nn.Parameter, torch.optim.SGD]:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    watched = {"main": SimpleNamespace(rate=rate, optimizer=optimizer)}
    rates = Rates(SimpleNamespace(stepper=SimpleNamespace(watched=watched)))  # type: ignore[arg-type]
    rates.watch("main")
    return rates, weight, optimizer


def test_a_factor_on_the_rate_holds_for_the_step_alone() -> None:
    _, weight, optimizer = made(0.5)
    weight.grad = torch.ones(1)
    optimizer.step()
    assert float(weight) == pytest.approx(0.95)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_what_looks_from_within_the_step_sees_the_schedules_rate() -> None:
    rates, weight, optimizer = made(0.5)
    seen = []

    def closure() -> float:
        weight.grad = torch.ones(1)
        with rates.untouched():
            seen.append(optimizer.param_groups[0]["lr"])
        return 0.0

    optimizer.step(closure)
    assert seen == [0.1]
    assert float(weight) == pytest.approx(0.95)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_rollback_leaves_out_every_batch_since_then() -> None:
    trail = Onward()
    for step in range(10):
        trail.add(step, step // 5, step % 5, step % 5 + 1)
    assert trail.windows(3, 8, 2) == [(0, 3, 5), (1, 0, 4)]

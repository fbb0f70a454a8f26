"""On a GPU: nobody waits, and what the host reads is what the device measured."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from hpckit.train import Clip, Stepper
from hpckit.train.lag import Ring

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def model_on_gpu() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 8)
    ).cuda()


def one_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, stepper: Stepper, by: float
) -> list:
    optimizer.zero_grad()
    loss = model(torch.randn(32, 64, device="cuda")).square().mean() * by
    loss.backward()
    stepper.step(loss=loss)
    return stepper.end()


@pytest.fixture
def alarmed() -> Iterator[None]:
    """Any wait for the device is an error; the lagged event alone is not one to torch."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("clip", [None, 0.1, "percentile"])
def test_in_steady_state_nothing_is_waited_for(make: type, clip: object, alarmed: None) -> None:
    model = model_on_gpu()
    optimizer = make(model.parameters(), lr=1e-3)
    settings = Clip(percentile=50) if clip == "percentile" else clip
    stepper = Stepper(model=model, optimizers=optimizer, clip=settings, detail_every=5)
    assert stepper.watched["main"].gates_on_device
    for _ in range(20):
        one_step(model, optimizer, stepper, 1.0)
    torch.cuda.set_sync_debug_mode("error")
    for _ in range(50):
        one_step(model, optimizer, stepper, 1.0)
    torch.cuda.set_sync_debug_mode("default")
    assert stepper.latest.values()["grad/norm/main"] > 0


def test_a_nan_leaves_weights_state_and_buffers_bit_identical() -> None:
    model = model_on_gpu()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    stepper = Stepper(model=model, optimizers=optimizer, clip=1.0)
    for _ in range(5):
        one_step(model, optimizer, stepper, 1.0)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    moments = {key: {k: v.clone() for k, v in s.items()} for key, s in optimizer.state.items()}
    said = one_step(model, optimizer, stepper, math.nan)
    after = model.state_dict()
    # BatchNorm saw a finite batch: what it learned of that batch is undone with the step.
    assert all(torch.equal(after[name], before[name]) for name in before)
    for key, state in moments.items():
        assert all(torch.equal(optimizer.state[key][k], v) for k, v in state.items())
    for _ in range(8):
        said += one_step(model, optimizer, stepper, 1.0)
    assert [each.kind for each in said] == ["non_finite"]


def test_pinned_slots_are_not_overwritten_before_they_are_read() -> None:
    ring = Ring(4)
    flights = [ring.send(torch.full((3,), float(n), device="cuda")) for n in range(4)]
    assert [each.land() for each in flights] == [[float(n)] * 3 for n in range(4)]


def test_finite_gradients_whose_squares_overflow_are_not_held_back() -> None:
    parameter = nn.Parameter(torch.ones(4, device="cuda"))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    stepper = Stepper(model=nn.ParameterList([parameter]), optimizers=optimizer, clip=1.0, lag=1)
    for _ in range(2):
        # The first step asks the device, the second leaves it to the kernel.
        parameter.grad = torch.full((4,), 3e25, device="cuda")
        stepper.step(loss=1.0)
        stepper.end()
        assert stepper.latest.values()["grad/norm/main"] == pytest.approx(6e25, rel=1e-6)
    assert torch.allclose(parameter, torch.full((4,), 0.9, device="cuda"))


def test_a_float16_scaler_is_owned() -> None:
    model = model_on_gpu()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**30)
    stepper = Stepper(model=model, optimizers=optimizer, clip=1.0)
    said = []
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(torch.randn(32, 64, device="cuda")).float().square().mean()
        scaler.scale(loss).backward()
        stepper.step(loss=loss, scaler=scaler)
        said += stepper.end()
    assert said == []
    assert scaler.get_scale() < 2.0**30

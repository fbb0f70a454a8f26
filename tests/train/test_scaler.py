"""float16: the scaler's own gradients are measured at their true size, and its scale is let be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hpckit.train import Stepper
from tests.train.conftest import OPTIMIZERS, assert_same, everything


def scaled_backward(
    model: nn.Module, optimizer: torch.optim.Optimizer, scaler: object, by: float = 1.0
) -> torch.Tensor:
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.float16):
        loss = model(torch.randn(6, 4)).float().square().mean() * by
    scaler.scale(loss).backward()  # type: ignore[attr-defined]
    return loss


@pytest.mark.parametrize("name", ["adamw fused", "adamw", "sgd momentum", "rmsprop"])
def test_a_scaled_training_has_the_weights_that_torch_gives(name: str) -> None:
    def train(ours: bool) -> torch.Tensor:
        torch.manual_seed(7)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = OPTIMIZERS[name](model.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
        stepper = Stepper(model=model, optimizers=optimizer, clip=0.05) if ours else None
        for _ in range(12):
            loss = scaled_backward(model, optimizer, scaler)
            if stepper is not None:
                stepper.step(loss=loss, scaler=scaler)
                stepper.end()
            else:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 0.05)
                scaler.step(optimizer)
                scaler.update()
        assert scaler.get_scale() == 2.0**13
        return torch.cat([each.detach().reshape(-1) for each in model.parameters()])

    torch.testing.assert_close(train(True), train(False), rtol=1e-5, atol=1e-7)


def test_an_overflow_halves_the_scale_leaves_the_weights_and_is_no_incident() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    stepper = Stepper(model=model, optimizers=optimizer)
    before = everything(model, optimizer)
    incidents = []
    for halved in range(1, 5):
        # As a first step of a network whose activations are large.
        stepper.step(loss=scaled_backward(model, optimizer, scaler, 1e36), scaler=scaler)
        incidents += stepper.end()
        assert scaler.get_scale() == 2.0 ** (16 - halved)
    assert_same(everything(model, optimizer), before)
    assert incidents == []
    stepper.step(loss=scaled_backward(model, optimizer, scaler), scaler=scaler)
    stepper.end()
    with pytest.raises(AssertionError):
        assert_same(everything(model, optimizer), before)


def test_norms_are_those_of_the_true_gradients() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    stepper = Stepper(model=model, optimizers=optimizer)
    torch.manual_seed(1)
    loss = scaled_backward(model, optimizer, scaler)
    true = math.sqrt(sum(float(p.grad.norm()) ** 2 for p in model.parameters())) / 4096
    stepper.step(loss=loss, scaler=scaler)
    stepper.end()
    values = stepper.latest.values()
    assert values["grad/norm/main"] == pytest.approx(true, rel=1e-3)
    assert values["grad/scale/main"] == 4096.0


def test_who_unscales_by_hand_is_not_unscaled_twice() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    stepper = Stepper(model=model, optimizers=optimizer)
    loss = scaled_backward(model, optimizer, scaler)
    scaler.unscale_(optimizer)
    true = math.sqrt(sum(float(p.grad.norm()) ** 2 for p in model.parameters()))
    stepper.step(loss=loss, scaler=scaler)
    stepper.end()
    assert stepper.latest.values()["grad/norm/main"] == pytest.approx(true, rel=1e-5)


def test_two_optimizers_that_share_a_scaler_update_it_once_a_pass() -> None:
    models = {"a": nn.Linear(4, 2), "b": nn.Linear(4, 2)}
    optimizers = {name: torch.optim.SGD(m.parameters(), lr=0.0) for name, m in models.items()}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=100)
    stepper = Stepper(model=models, optimizers=optimizers)
    losses = {
        "a": scaled_backward(models["a"], optimizers["a"], scaler, 1e36),
        "b": scaled_backward(models["b"], optimizers["b"], scaler),
    }
    true = math.sqrt(sum(float(p.grad.norm()) ** 2 for p in models["b"].parameters())) / 2**16
    for name, loss in losses.items():
        stepper.step(name, loss=loss, scaler=scaler)
    stepper.end()
    assert scaler.get_scale() == 2.0**15
    # Both backwards came before both steps: the second must not see the halved scale.
    assert stepper.latest.values()["grad/norm/b"] == pytest.approx(true, rel=1e-3)


def test_a_scaler_that_is_switched_off_is_none() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    stepper = Stepper(model=model, optimizers=optimizer)
    stepper.step(loss=scaled_backward(model, optimizer, scaler), scaler=scaler)
    stepper.end()
    assert "grad/scale/main" not in stepper.latest.values()


def test_bfloat16_needs_no_scaler() -> None:
    model = nn.Linear(4, 2).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    stepper = Stepper(model=model, optimizers=optimizer, clip=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(torch.randn(6, 4, dtype=torch.bfloat16)).square().mean()
        loss.backward()
        true = math.sqrt(sum(float(p.grad.float().norm()) ** 2 for p in model.parameters()))
        stepper.step(loss=loss)
        stepper.end()
        assert stepper.latest.values()["grad/norm/main"] == pytest.approx(true, rel=1e-4)

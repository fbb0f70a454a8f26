"""A program that knows nothing of hpckit: what is seen of it, held back, and clipped."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from tests.integrations.watching import Encoder, Told, Watching, at, batch, train
from tests.train.conftest import OPTIMIZERS, assert_same, everything, small_model


class Bare(Optimizer):
    """As somebody writes one for himself: each parameter has a gradient, or it fails."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for each in group["params"]:
                assert each.grad is not None
                moved = self.state[each].setdefault("moved", torch.zeros_like(each))
                moved.mul_(0.9).add_(each.grad)
                each.sub_(0.01 * moved)


OTHERS: dict[str, Callable[[Any], Optimizer]] = {
    "bare": Bare,
    "lbfgs": lambda parameters: torch.optim.LBFGS(parameters, lr=0.1, max_iter=4),
}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "closure": {"closure": True},
    "scaler": {"scaler": True},
    "clipped": {"clip": 0.3},
    "scaler, clipped": {"scaler": True, "clip": 0.3},
}
# Each optimizer and each way, and the two that differ most in all of them.
CASES = [
    *(("adamw", way) for way in WAYS),
    *(("adamw fused", way) for way in WAYS),
    ("sgd momentum", "closure"),
    ("sgd momentum fused", "scaler, clipped"),
    ("sgd", "clipped"),
    ("rmsprop", "scaler"),
    ("adagrad fused", "scaler"),
    ("adafactor", "plain"),
    # Not torch's own: what it does without a gradient nobody knows.
    ("lion", "plain"),
    ("lion", "closure"),
    ("lion", "scaler, clipped"),
    ("bare", "plain"),
    ("bare", "scaler, clipped"),
    ("lbfgs", "closure"),
]


def settings_of(way: str) -> dict[str, Any]:
    made = dict(WAYS[way])
    if "scaler" in made:
        made["scaler"] = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5)
    return made


@pytest.mark.parametrize(("name", "way"), CASES)
def test_in_health_no_bit_is_another_one_and_what_is_not_finite_leaves_all_as_it_was(
    watching: Watching, told: Told, name: str, way: str
) -> None:
    make = {**OPTIMIZERS, **OTHERS}[name]
    alone = small_model()
    begun = copy.deepcopy(alone.state_dict())
    by_itself = make(alone.parameters())
    train(alone, by_itself, 12, **settings_of(way))
    watching.begin()
    model = small_model()
    model.load_state_dict(begun)
    optimizer, settings = make(model.parameters()), settings_of(way)
    train(model, optimizer, 12, **settings)
    before = everything(model, optimizer)
    assert_same(before, everything(alone, by_itself))
    train(model, optimizer, 1, factor=at(0), **settings)
    assert_same(everything(model, optimizer), before)
    # As without us: who looks at a gradient after the step finds one.
    assert all(each.grad is not None for each in model.parameters())
    train(model, optimizer, 3, **settings)
    assert all(torch.isfinite(each).all() for each in model.state_dict().values())
    norms = watching.values("grad/norm/main")
    assert all(0 < norm < 100 for norm in [*norms[:12], *norms[13:]])  # type: ignore[operator]
    assert watching.values("grad/gated/main") == [0.0] * 12 + [1.0] + [0.0] * 3
    assert "step 12: loss nan" in told()
    (incident,) = watching.events("incident")
    assert incident.data["incident"]["kind"] == "non_finite"


@pytest.mark.parametrize("name", ["adamw", "adamw fused", "lion", "bare"])
def test_a_first_step_that_is_held_back_gives_birth_to_no_state(
    watching: Watching, name: str
) -> None:
    watching.begin()
    model = small_model()
    optimizer = {**OPTIMIZERS, **OTHERS}[name](model.parameters())
    weights = copy.deepcopy(list(model.parameters()))
    train(model, optimizer, 1, factor=at(0))
    assert_same(list(model.parameters()), weights)
    assert not optimizer.state


class Twice(Bare):
    """Looks at the loss, goes a little way, looks again, and steps by what it sees then."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        with torch.enable_grad():
            closure()
        for each in self.param_groups[0]["params"]:
            each.add_(0.01)
        with torch.enable_grad():
            closure()
        for each in self.param_groups[0]["params"]:
            each.sub_(0.01)
        super().step()


def test_of_several_evaluations_the_worst_counts(watching: Watching) -> None:
    watching.begin()
    model = Encoder()
    # The step that it overrides is one of torch's hooks, too, since there was one of these.
    Bare(model.parameters())
    optimizer = Twice(model.parameters())
    seen = 0

    def closure() -> None:
        nonlocal seen
        optimizer.zero_grad()
        (model(batch(seen)).square().mean() * (math.nan if seen == 6 else 1.0)).backward()
        seen += 1

    for _ in range(3):
        optimizer.step(closure)
    before = everything(model, optimizer)
    optimizer.step(closure)
    assert_same(everything(model, optimizer), before)
    optimizer.step(closure)
    assert watching.values("grad/gated/main") == [0.0, 0.0, 0.0, 1.0, 0.0]


def test_a_step_that_failed_is_not_under_way(watching: Watching) -> None:
    watching.begin()
    model = Encoder()
    optimizer = Bare(model.parameters())
    train(model, optimizer, 2)
    optimizer.zero_grad()
    with pytest.raises(AssertionError):
        optimizer.step()
    train(model, optimizer, 2, factor=at(1))
    assert watching.values("grad/gated/main") == [0.0, 0.0, 0.0, 1.0]


def test_what_an_optimizer_steps_by_another_one_is_one_step(watching: Watching) -> None:
    class Wrapping(Bare):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters)
            self.inside = torch.optim.SGD(self.param_groups, lr=0.01, momentum=0.9)

        def step(self, closure: Any = None) -> None:
            self.inside.step()

    watching.begin()
    model = Encoder()
    optimizer = Wrapping(model.parameters())
    train(model, optimizer, 2)
    before = everything(model, optimizer.inside)
    train(model, optimizer, 1, factor=at(0))
    assert_same(everything(model, optimizer.inside), before)
    train(model, optimizer, 2)
    assert watching.values("grad/gated/main") == [0.0, 0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("on_device", [False, True])
def test_an_absurd_update_is_held_back_and_others_are_clipped(
    watching: Watching, monkeypatch: pytest.MonkeyPatch, on_device: bool, scaled: bool
) -> None:
    monkeypatch.setattr("hpckit.integrations.attached.attached._is_captured", lambda seat: False)
    attached = watching.begin(monitor={"optimizers": {"optimizer": {"clip": 0.02}}})
    model = Encoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if scaled else None
    train(model, optimizer, 1, scaler=scaler)
    seat = attached.meeting.seat(optimizer)
    assert seat is not None
    # What a GPU's gate is, on a CPU: the fused kernel takes gate and clip from tensors.
    seat.watched.gates_on_device = on_device
    train(model, optimizer, 99, scaler=scaler)
    before = everything(model, optimizer)
    train(model, optimizer, 1, factor=at(0, 1e6), scaler=scaler)
    assert_same(everything(model, optimizer), before)
    train(model, optimizer, 2, scaler=scaler)
    assert not {"found_inf", "grad_scale"} & set(vars(optimizer))
    readings = watching.readings()
    assert [each.values["grad/gated/main"] for each in readings] == [0.0] * 100 + [1.0, 0.0, 0.0]
    for each in readings[:100]:
        norm, factor = (each.values[f"grad/{name}/main"] for name in ("norm", "clip"))
        assert factor == pytest.approx(min(1.0, 0.02 / norm), rel=1e-3)
    # By what is applied, not by what a scaled loss makes of it.
    state = optimizer.state[model.layers[0].weight]
    assert 0 < state["exp_avg"].norm() < 0.02


def test_the_spec_clips_what_the_program_does_not(watching: Watching) -> None:
    watching.begin(monitor={"optimizers": {"optimizer": {"clip": 0.01}}})
    model = nn.Linear(4, 2, bias=False)
    before = model.weight.detach().clone()
    train(model, torch.optim.SGD(model.parameters(), lr=1.0), 1)
    assert (model.weight - before).norm().item() == pytest.approx(0.01, rel=1e-3)
    (reading,) = watching.readings()
    norm = reading.values["grad/norm/main"]
    assert norm > 0.1
    assert reading.values["grad/clip/main"] == pytest.approx(0.01 / norm, rel=1e-3)


def test_a_norm_is_that_of_before_the_programs_own_clipping(watching: Watching) -> None:
    watching.begin()
    model = small_model()
    train(model, torch.optim.SGD(model.parameters(), lr=0.0), 3)
    norms = watching.values("grad/norm/main")
    watching.begin(launch=2)
    # Parameters come as an iterator that can be gone through once.
    train(model, torch.optim.SGD(model.parameters(), lr=0.0), 3, clip=0.05)
    readings = watching.readings(2)
    assert [each.values["grad/norm/main"] for each in readings] == pytest.approx(norms, rel=1e-4)
    factors = [each.values["grad/clip/main"] for each in readings]
    assert factors == pytest.approx([0.05 / (norm or 1) for norm in norms], rel=1e-3)


@pytest.mark.parametrize("by", [math.nan, 1e9])
def test_a_clip_whose_step_was_never_taken_says_nothing_of_the_next(
    watching: Watching, by: float
) -> None:
    watching.begin()
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    (model(batch(0)) * by).sum().backward()
    # As many programs do: the norm is bad, so the step is left out.
    assert not torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3) < 100
    train(model, optimizer, 2)
    assert watching.values("grad/gated/main") == [0.0] * 4
    assert watching.values("grad/clip/main") == [1.0] * 4


def test_several_backwards_are_one_step_and_its_loss_is_their_mean(watching: Watching) -> None:
    watching.begin()
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    losses = []
    for step in range(12):
        loss = model(batch(step)).square().mean()
        losses.append(loss.item())
        scaler.scale(loss).backward()
        if step % 4 == 3:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    means = [sum(losses[first : first + 4]) / 4 for first in (0, 4, 8)]
    assert watching.values("train/loss") == pytest.approx(means)

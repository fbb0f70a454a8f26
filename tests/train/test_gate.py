"""What is held back leaves no trace: not in weights, not in optimizer state, not in buffers."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from hpckit.train import Stepper
from tests.train.conftest import FUSED, OPTIMIZERS, assert_same, backward, everything, small_model

BAD = {
    "nan": torch.full((6, 4), math.nan),
    "inf": torch.full((6, 4), math.inf),
    "one nan": torch.cat([torch.full((1, 4), math.nan), torch.ones(5, 4)]),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_non_finite_step_leaves_everything_as_it_was(name: str, kind: str) -> None:
    model = small_model()
    optimizer = OPTIMIZERS[name](model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer, clip=1.0)
    for _ in range(3):
        stepper.step(loss=backward(model, optimizer))
        stepper.end()
    before = everything(model, optimizer)
    stepper.step(loss=backward(model, optimizer, BAD[kind]))
    stepper.end()
    assert_same(everything(model, optimizer), before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_first_step_that_is_held_back_gives_birth_to_no_state(name: str) -> None:
    model = small_model()
    optimizer = OPTIMIZERS[name](model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    before = everything(model, optimizer)
    stepper.step(loss=backward(model, optimizer, BAD["nan"]))
    stepper.end()
    assert_same(everything(model, optimizer), before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_with_bad_batches_equals_one_that_never_saw_them(name: str) -> None:
    def train(bad_at: set[int]) -> dict[str, Any]:
        torch.manual_seed(1)
        model = small_model()
        optimizer = OPTIMIZERS[name](model.parameters())
        stepper = Stepper(model=model, optimizers=optimizer, clip=0.5)
        for step in range(12):
            if step in bad_at:
                stepper.step(loss=backward(model, optimizer, BAD["nan"]))
                stepper.end()
            stepper.step(loss=backward(model, optimizer))
            stepper.end()
        return everything(model, optimizer)

    # Batches come from the same generator: a bad one takes none of its numbers.
    assert_same(train({0, 1, 5, 11}), train(set()))


@pytest.mark.parametrize("name", FUSED)
def test_the_fused_kernel_itself_holds_back_and_clips(name: str) -> None:
    # What runs on a GPU, where nobody may wait: the same attributes, read by the CPU's kernel.
    model = small_model()
    optimizer = OPTIMIZERS[name](model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer, clip=0.1)
    stepper.watched["main"].gates_on_device = True
    for _ in range(3):
        stepper.step(loss=backward(model, optimizer))
        stepper.end()
    before = everything(model, optimizer)
    stepper.step(loss=backward(model, optimizer, BAD["one nan"]))
    stepper.end()
    assert_same(everything(model, optimizer), before)
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize("name", FUSED)
def test_a_first_step_held_back_in_the_kernel_leaves_no_uninitialised_moments(name: str) -> None:
    model = small_model()
    optimizer = OPTIMIZERS[name](model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    stepper.watched["main"].gates_on_device = True
    before = everything(model, optimizer)
    stepper.step(loss=backward(model, optimizer, BAD["nan"]))
    stepper.end()
    assert_same(everything(model, optimizer), before)


@pytest.mark.parametrize("name", FUSED)
def test_kernel_and_host_arrive_at_the_same_weights(name: str) -> None:
    def train(on_device: bool) -> torch.Tensor:
        torch.manual_seed(2)
        # No batch norm: a bias before it has a gradient of rounding errors, which Adam blows up.
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = OPTIMIZERS[name](model.parameters())
        stepper = Stepper(model=model, optimizers=optimizer, clip=0.05)
        stepper.watched["main"].gates_on_device = on_device
        for step in range(10):
            data = BAD["inf"] if step == 4 else None
            stepper.step(loss=backward(model, optimizer, data))
            stepper.end()
        return torch.cat([each.detach().reshape(-1) for each in model.parameters()])

    torch.testing.assert_close(train(True), train(False), rtol=1e-5, atol=1e-7)


def test_a_norm_above_the_limit_is_held_back_though_finite() -> None:
    model = small_model()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    for _ in range(100):
        stepper.step(loss=backward(model, optimizer))
        stepper.end()
    before = everything(model, optimizer)
    loss = backward(model, optimizer)
    for parameter in model.parameters():
        parameter.grad.mul_(1e4)
    stepper.step(loss=loss)
    incidents = stepper.end()
    assert_same(everything(model, optimizer), before)
    assert [(each.kind, each.answer) for each in incidents] == [("bad_batch", "skip")]


def test_spectral_norm_and_replaced_buffers_go_back_too() -> None:
    class Replaces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = self.seen + x.detach().mean()
            return x

    model = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 5)),
        nn.utils.spectral_norm(nn.Linear(5, 4)),
        Replaces(),
    )
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    stepper.step(loss=backward(model, optimizer))
    stepper.end()
    before = everything(model, optimizer)
    stepper.step(loss=backward(model, optimizer, BAD["nan"]))
    stepper.end()
    after = everything(model, optimizer)
    # The old spectral_norm keeps its last product as a plain attribute, which is no state.
    assert_same(after, before)
    assert torch.isfinite(model(torch.randn(6, 4))).all()


@pytest.mark.parametrize("flag", [0.0, 1.0])
def test_buffers_are_settled_by_a_flag_that_nobody_reads(flag: float) -> None:
    from hpckit.train.buffers import Buffers

    model = small_model()
    buffers = Buffers([model])
    before = {name: each.clone() for name, each in model.named_buffers()}
    model(torch.full((6, 4), math.nan))
    seen = {name: each.clone() for name, each in model.named_buffers()}
    buffers.settle(torch.tensor(flag))
    expected = before if flag else seen
    assert_same(dict(model.named_buffers()), expected)
    # And the shadow followed: a later restore goes back to what was settled.
    model(torch.randn(6, 4))
    buffers.restore()
    assert_same(dict(model.named_buffers()), expected)


def test_constant_buffers_are_not_copied_again() -> None:
    from hpckit.train.buffers import Buffers

    model = small_model()
    model.register_buffer("table", torch.arange(100_000))
    buffers = Buffers([model])
    model(torch.randn(6, 4))
    changed = {slot.name for slot, *_ in buffers._changed()}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    model.table[3] = 7
    assert "table" in {slot.name for slot, *_ in buffers._changed()}


def test_a_compiled_model_is_gated_like_any_other() -> None:
    model = small_model()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.AdamW(compiled.parameters(), fused=True)
    stepper = Stepper(model=compiled, optimizers=optimizer, clip=1.0)
    for _ in range(2):
        stepper.step(loss=backward(compiled, optimizer))
        stepper.end()
    before = everything(compiled, optimizer)
    stepper.step(loss=backward(compiled, optimizer, BAD["nan"]))
    stepper.end()
    assert_same(everything(compiled, optimizer), before)
    assert stepper.watched["main"].parameters.names[0] == "0.weight"


def test_in_a_gan_only_the_optimizer_that_is_bad_is_held_back() -> None:
    generator, discriminator = nn.Linear(4, 4), nn.Linear(4, 1)
    opt_g = torch.optim.Adam(generator.parameters(), fused=True)
    opt_d = torch.optim.Adam(discriminator.parameters(), fused=True)
    stepper = Stepper(
        model=[generator, discriminator],
        optimizers={"generator": opt_g, "discriminator": opt_d},
        clip={"generator": 10.0, "discriminator": 1.0},
    )

    def one_pass(poison: bool) -> None:
        opt_d.zero_grad()
        loss_d = discriminator(generator(torch.randn(3, 4)).detach()).mean()
        loss_d.backward()
        stepper.step(opt_d, loss=loss_d)
        opt_g.zero_grad()
        loss_g = discriminator(generator(torch.randn(3, 4))).mean() * (math.nan if poison else 1)
        loss_g.backward()
        stepper.step(opt_g, loss=loss_g)
        stepper.end()

    one_pass(False)
    before_g, before_d = everything(generator, opt_g), everything(discriminator, opt_d)
    one_pass(True)
    assert_same(everything(generator, opt_g), before_g)
    with pytest.raises(AssertionError):
        assert_same(everything(discriminator, opt_d), before_d)


@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("bad", [False, True])
def test_a_gans_pass_with_batch_norm_goes_through_backward_whoever_is_held_back(
    on_device: bool, bad: bool
) -> None:
    generator = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    discriminator = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    opt_g = torch.optim.Adam(generator.parameters(), fused=True)
    opt_d = torch.optim.Adam(discriminator.parameters(), fused=True)
    stepper = Stepper(model=[generator, discriminator], optimizers={"g": opt_g, "d": opt_d})
    for each in stepper.watched.values():
        each.gates_on_device = on_device
    for turn in range(4):
        opt_d.zero_grad()
        opt_g.zero_grad()
        fake = generator(torch.randn(6, 4))
        loss_d = discriminator(fake.detach()).mean() * (math.nan if bad and turn == 2 else 1)
        loss_d.backward()
        stepper.step("d", loss=loss_d)
        # The generator's graph is older than the discriminator's step.
        loss_g = discriminator(fake).square().mean()
        loss_g.backward()
        stepper.step("g", loss=loss_g)
        stepper.end()
    assert all(torch.isfinite(each).all() for each in generator.state_dict().values())


def test_an_absurd_norm_is_held_back_in_the_kernel_too() -> None:
    model = small_model()
    optimizer = OPTIMIZERS["adamw fused"](model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer, clip=1.0)
    stepper.watched["main"].gates_on_device = True
    for _ in range(100):
        stepper.step(loss=backward(model, optimizer))
        stepper.end()
    before = everything(model, optimizer)
    loss = backward(model, optimizer)
    for parameter in model.parameters():
        parameter.grad.mul_(1e4)
    stepper.step(loss=loss)
    assert [each.kind for each in stepper.end()] == ["bad_batch"]
    assert_same(everything(model, optimizer), before)
    assert not {"found_inf", "grad_scale"} & set(vars(optimizer))


def test_squares_that_overflow_are_clipped_in_the_kernel_too() -> None:
    parameter = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([parameter], lr=0.1, fused=True)
    stepper = Stepper(model=nn.ParameterList([parameter]), optimizers=optimizer, clip=1.0)
    stepper.watched["main"].gates_on_device = True
    for _ in range(2):
        parameter.grad = torch.full((4,), 3e25)
        stepper.step(loss=1.0)
        stepper.end()
        assert stepper.latest.values()["grad/norm/main"] == pytest.approx(6e25, rel=1e-6)
    assert torch.allclose(parameter, torch.full((4,), 0.9))


def test_going_back_to_before_the_first_step_leaves_no_uninitialised_moments() -> None:
    model = small_model()
    optimizer = OPTIMIZERS["sgd momentum fused"](model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    stepper.watched["main"].gates_on_device = True
    start = everything(model, optimizer)
    for _ in range(5):
        stepper.step(loss=backward(model, optimizer))
        stepper.end()
    model.load_state_dict(start["model"])
    optimizer.load_state_dict(start["optimizer"])
    stepper.went_back(0)
    stepper.step(loss=backward(model, optimizer, BAD["nan"]))
    stepper.end()
    assert_same(everything(model, optimizer), start)


def test_a_checkpoint_of_an_optimizer_that_was_not_fused_is_gated_all_the_same() -> None:
    model = small_model()
    old = OPTIMIZERS["adamw"](model.parameters())
    backward(model, old)
    old.step()
    optimizer = OPTIMIZERS["adamw fused"](model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer, clip=0.1)
    stepper.watched["main"].gates_on_device = True
    optimizer.load_state_dict(old.state_dict())
    for batch in (None, BAD["nan"], None):
        stepper.step(loss=backward(model, optimizer, batch))
        stepper.end()
    assert all(torch.isfinite(each).all() for each in model.parameters())


def test_a_resumed_run_takes_the_kernels_way_at_once() -> None:
    def build() -> Any:
        torch.manual_seed(3)
        model = small_model()
        optimizer = OPTIMIZERS["adamw fused"](model.parameters())
        stepper = Stepper(model=model, optimizers=optimizer, clip=0.05)
        stepper.watched["main"].gates_on_device = True
        return model, optimizer, stepper

    def go(run: Any, steps: range) -> None:
        model, optimizer, stepper = run
        for step in steps:
            data = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
            stepper.step(loss=backward(model, optimizer, data))
            stepper.end()

    whole = build()
    go(whole, range(40))
    first = build()
    go(first, range(20))
    second = build()
    for new, old in zip(second, first, strict=True):
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    go(second, range(20, 40))
    assert_same(everything(*second[:2]), everything(*whole[:2]))


def test_wide_batch_norms_change_without_counting_and_go_back_all_the_same() -> None:
    model = nn.Sequential(nn.Linear(4, 2048), nn.BatchNorm1d(2048), nn.Linear(2048, 1))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    stepper = Stepper(model=model, optimizers=optimizer)
    for _ in range(12):
        stepper.step(loss=backward(model, optimizer))
        stepper.end()
    before = everything(model, optimizer)
    stepper.step(loss=backward(model, optimizer, BAD["nan"]))
    stepper.end()
    assert_same(everything(model, optimizer), before)


def test_a_buffer_that_a_bad_pass_made_is_not_there_afterwards() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("mean", None)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.mean is None:
                self.mean = x.detach().mean(0)
            return self.layer(x - self.mean)

    model = Lazy()
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    stepper.step(loss=backward(model, optimizer, BAD["nan"]))
    stepper.end()
    assert model.mean is None
    stepper.step(loss=backward(model, optimizer))
    stepper.end()
    assert torch.isfinite(model.mean).all()


def test_a_schedule_after_a_held_back_first_step_complains_of_nothing() -> None:
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    stepper = Stepper(model=model, optimizers=optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stepper.step(loss=backward(model, optimizer, BAD["nan"]))
        stepper.end()
        schedule.step()


def test_lbfgs_is_measured_in_its_closure_and_put_back_when_an_evaluation_is_bad() -> None:
    model = nn.Linear(4, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1)
    stepper = Stepper(model=model, optimizers=optimizer)
    data, calls = torch.randn(6, 4), 0

    def closure(poison_from: int = 10**9) -> torch.Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = model(data).square().mean()
        if calls >= poison_from:
            loss = loss * math.nan
        loss.backward()
        return loss

    first = float(closure())
    for _ in range(3):
        stepper.step(closure=closure)
        stepper.end()
    assert float(closure()) < first / 2
    before = everything(model, optimizer)
    bad_from = calls + 3
    stepper.step(closure=lambda: closure(bad_from))
    [incident] = stepper.end()
    assert incident.kind == "non_finite"
    assert_same(everything(model, optimizer), before)


def test_a_step_whose_evaluations_were_fine_and_whose_weights_are_not_is_put_back() -> None:
    class Overshoots(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            loss = closure()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(math.inf)
            return loss

    model = nn.Linear(4, 1)
    optimizer = Overshoots(model.parameters(), lr=0.1)
    stepper = Stepper(model=model, optimizers=optimizer)
    before = everything(model, optimizer)
    stepper.step(closure=lambda: backward(model, optimizer, torch.randn(6, 4)))
    stepper.end()
    assert_same(everything(model, optimizer), before)
    assert stepper.latest.values()["grad/gated/main"] == 1.0

"""What people do with a stepper that nobody thought of, and what must not come of it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpckit.monitor import Reading
from hpckit.train import Clip, Stepper
from tests.train.conftest import assert_same, backward, everything, small_model

NAN = torch.full((6, 4), math.nan)


def passes(model: nn.Module, optimizer: Any, stepper: Stepper, number: int) -> None:
    for _ in range(number):
        stepper.step(loss=backward(model, optimizer))
        stepper.end()


@pytest.mark.parametrize("first", ["model", "stepper"])
def test_after_a_resume_a_gate_goes_back_to_the_buffers_of_the_checkpoint(first: str) -> None:
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    passes(model, optimizer, stepper, 20)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), stepper.state_dict()))
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    if first == "stepper":
        stepper.load_state_dict(saved[2])
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    if first == "model":
        stepper.load_state_dict(saved[2])
    stepper.step(loss=backward(model, optimizer, NAN))
    stepper.end()
    assert_same(model.state_dict(), saved[0])


def test_after_a_rollback_in_place_a_gate_does_not_bring_the_bad_buffers_back() -> None:
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    passes(model, optimizer, stepper, 5)
    good = copy.deepcopy(model.state_dict())
    passes(model, optimizer, stepper, 5)
    with torch.no_grad():
        for name, each in model.state_dict().items():
            each.copy_(good[name])
    stepper.went_back(5)
    stepper.step(loss=backward(model, optimizer, NAN))
    stepper.end()
    assert_same(model.state_dict(), good)


def test_a_checkpoint_that_is_loaded_in_place_is_what_a_gate_goes_back_to() -> None:
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    passes(model, optimizer, stepper, 5)
    good = copy.deepcopy((model.state_dict(), stepper.state_dict()))
    passes(model, optimizer, stepper, 5)
    # As torch.distributed.checkpoint does it: no module hears of it.
    with torch.no_grad():
        for name, each in model.state_dict().items():
            each.copy_(good[0][name])
    stepper.load_state_dict(good[1])
    stepper.step(loss=backward(model, optimizer, NAN))
    stepper.end()
    assert_same(model.state_dict(), good[0])


class Keeps:
    """A sink that shows what it was given."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.flushes = 0

    def write(self, reading: Reading) -> None:
        self.readings.append(reading)

    def incident(self, incident: object) -> None: ...

    def flush(self) -> None:
        self.flushes += 1

    def close(self) -> None: ...


def go_back(stepper: Stepper, way: str, state: Any) -> None:
    if way == "load":
        stepper.load_state_dict(state)
    else:
        stepper.went_back(0)


@pytest.mark.parametrize("way", ["load", "in place"])
def test_nothing_of_the_branch_that_was_left_is_used_after_going_back(way: str) -> None:
    model, sink = nn.Linear(4, 2), Keeps()
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer, sinks=[sink], lag=4)
    state = stepper.state_dict()
    passes(model, optimizer, stepper, 10)
    stepper.log(mel=1.0)
    go_back(stepper, way, state)
    sink.readings.clear()
    passes(model, optimizer, stepper, 6)
    stepper.finish()
    assert [each.step for each in sink.readings] == list(range(6))
    assert not any("train/mel" in each.values for each in sink.readings)


@pytest.mark.parametrize("way", ["load", "in place"])
def test_no_parameter_is_blamed_for_what_it_did_in_the_branch_that_was_left(way: str) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    state = stepper.state_dict()
    passes(model, optimizer, stepper, 5)
    go_back(stepper, way, state)
    stepper.step(loss=backward(model, optimizer, NAN))
    (incident,) = stepper.end()
    assert incident.parameter is None


def test_what_was_acted_on_is_acted_on_again_after_going_back() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    passes(model, optimizer, stepper, 5)
    for _ in range(2):
        stepper.step(loss=backward(model, optimizer, NAN))
        assert [each.acts for each in stepper.end()] == [True]
        stepper.went_back(5)


def test_the_reading_of_an_incident_has_the_norm_of_each_parameter() -> None:
    model, sink = nn.Linear(4, 2), Keeps()
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer, sinks=[sink], detail_every=0)
    passes(model, optimizer, stepper, 2)
    stepper.step(loss=backward(model, optimizer, NAN))
    stepper.end()
    assert [sorted(each.parameters.get("main", {})) for each in sink.readings] == [
        [],
        [],
        ["bias", "weight"],
    ]


def test_a_generator_whose_step_is_held_back_keeps_the_buffers_it_had_before_the_pass() -> None:
    generator = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    discriminator = nn.Linear(4, 1)
    opt_g = torch.optim.Adam(generator.parameters())
    opt_d = torch.optim.Adam(discriminator.parameters())
    stepper = Stepper(model=[generator, discriminator], optimizers={"g": opt_g, "d": opt_d})

    def one_pass(by: float) -> None:
        opt_d.zero_grad()
        opt_g.zero_grad()
        fake = generator(torch.randn(6, 4))
        loss_d = discriminator(fake.detach()).mean()
        loss_d.backward()
        stepper.step("d", loss=loss_d)
        loss_g = discriminator(fake).mean() * by
        loss_g.backward()
        stepper.step("g", loss=loss_g)
        stepper.end()

    for _ in range(3):
        one_pass(1.0)
    before = everything(generator, opt_g)
    one_pass(math.nan)
    assert_same(everything(generator, opt_g), before)


def test_several_steps_of_an_optimizer_in_a_pass_read_as_their_worst() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    for batch in (torch.randn(6, 4), NAN, torch.randn(6, 4)):
        stepper.step(loss=backward(model, optimizer, batch))
    [incident] = stepper.end()
    assert incident.kind == "non_finite"
    values = stepper.latest.values()
    assert math.isnan(values["grad/norm/main"])
    assert values["grad/gated/main"] == 1.0


def test_a_scaler_serves_an_optimizer_once_a_pass() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    stepper = Stepper(model=model, optimizers=optimizer)

    def once() -> None:
        optimizer.zero_grad()
        loss = model(torch.randn(6, 4)).square().mean()
        scaler.scale(loss).backward()
        stepper.step(loss=loss, scaler=scaler)

    once()
    with pytest.raises(RuntimeError, match="call end"):
        once()
    stepper.end()
    once()


def test_a_pass_without_gradients_is_none_of_the_scalers_business() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    stepper = Stepper(model=model, optimizers=optimizer)
    for _ in range(2):
        stepper.step(scaler=scaler)
        assert stepper.end() == []
    backward(model, optimizer)
    true = torch.cat([each.grad.flatten() for each in model.parameters()]).norm()
    for each in model.parameters():
        each.grad.mul_(scaler.get_scale())
    stepper.step(scaler=scaler)
    stepper.end()
    assert stepper.latest.values()["grad/norm/main"] == pytest.approx(float(true), rel=1e-4)


@pytest.mark.parametrize("clip", [Clip(value=1e6), Clip(groups={0: 1e6})])
def test_a_clip_that_does_nothing_says_so(clip: Clip) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer, clip=clip)
    passes(model, optimizer, stepper, 1)
    assert stepper.latest.values()["grad/clip/main"] == 1.0
    optimizer.zero_grad()
    stepper.step()
    stepper.end()
    assert stepper.latest.values()["grad/clip/main"] == 1.0


def test_a_group_is_clipped_by_value_or_percentile_too() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[1].parameters()}], lr=1.0
    )
    clip = Clip(groups={0: Clip(percentile=50), 1: Clip(value=1e-3)})
    stepper = Stepper(model=model, optimizers=optimizer, clip=clip)
    before = model[1].weight.detach().clone()
    passes(model, optimizer, stepper, 20)
    assert float((model[1].weight - before).abs().max().detach()) <= 20 * 1e-3 + 1e-6
    assert len(clip.groups["0"].accepted) == 20
    assert clip.groups["0"].limit() is not None


def test_repeated_rows_of_a_sparse_gradient_are_clipped_together() -> None:
    model = nn.Embedding(10, 3, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    stepper = Stepper(model=model, optimizers=optimizer, clip=Clip(value=0.5))
    before = model.weight.detach().clone()
    model(torch.tensor([2, 2, 2, 2])).sum().backward()
    stepper.step()
    stepper.end()
    assert float((model.weight - before).abs().max().detach()) == pytest.approx(0.5)


def test_a_closure_is_clipped_in_each_evaluation() -> None:
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    stepper = Stepper(model=model, optimizers=optimizer, clip=1e-3)
    before = [each.detach().clone() for each in model.parameters()]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.randn(6, 4)).square().mean() * 1e3
        loss.backward()
        return loss

    stepper.step(closure=closure)
    stepper.end()
    moved = [float((a - b).norm()) for a, b in zip(model.parameters(), before, strict=True)]
    assert math.hypot(*moved) == pytest.approx(1e-3, rel=1e-3)
    with pytest.raises(ValueError, match="no scaler"):
        stepper.step(closure=closure, scaler=torch.amp.GradScaler("cpu"))


def test_a_clip_given_for_two_optimizers_is_two_clips() -> None:
    models = {"a": nn.Linear(4, 2), "b": nn.Linear(4, 2)}
    optimizers = {name: torch.optim.SGD(m.parameters(), lr=0.1) for name, m in models.items()}
    stepper = Stepper(model=models, optimizers=optimizers, clip=Clip(1.0))
    stepper.watched["a"].clip.tighten(0.5)
    assert stepper.watched["b"].clip.norm == 1.0


def test_a_script_that_asks_for_another_clip_gets_it_after_a_resume() -> None:
    old, same, other = Clip(2.0), Clip(2.0), Clip(1.0)
    old.tighten(0.25)
    same.load_state_dict(old.state_dict())
    other.load_state_dict(old.state_dict())
    assert (same.norm, other.norm) == (0.5, 1.0)


def test_tightening_reaches_percentiles_and_never_loosens() -> None:
    clip = Clip(percentile=50, of=20)
    for norm in range(1, 21):
        clip.accept(float(norm))
    before = clip.limit()
    clip.tighten(0.5)
    assert clip.limit() == before / 2  # type: ignore[operator]
    clip = Clip(1.0)
    clip.tighten(0.5, least=2.0)
    assert clip.norm == 1.0


class Odd(nn.Module):
    """Buffers as people have them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("expanded", torch.ones(1, 4).expand(16, 4))
        self.register_buffer("code", torch.zeros(512, 4))
        self.register_buffer("table", None)

    def forward(self, x: Tensor) -> Tensor:
        # As a codebook is moved: through .data, where torch does not count.
        self.code.data.mul_(0.9).add_(x.detach().mean())
        return self.layer(x)


def test_odd_buffers_are_put_back_or_left_alone() -> None:
    model = Odd()
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    passes(model, optimizer, stepper, 3)
    with torch.inference_mode():
        model.expanded = torch.ones(16, 4)
    passes(model, optimizer, stepper, 1)
    before = {name: each.clone() for name, each in model.named_buffers()}
    stepper.step(loss=backward(model, optimizer, NAN))
    stepper.end()
    assert_same(dict(model.named_buffers()), before)


def test_complex_parameters_are_measured_by_both_their_parts() -> None:
    parameter = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    stepper = Stepper(model=nn.ParameterList([parameter]), optimizers=optimizer, clip=1.0)
    parameter.grad = torch.tensor([3 + 0j, 4j])
    stepper.step()
    stepper.end()
    assert stepper.latest.values()["grad/norm/main"] == pytest.approx(5.0)
    assert float(parameter.detach().abs().norm()) == pytest.approx(1.0, rel=1e-4)
    parameter.grad = torch.tensor([complex(math.nan, 0), 0j])
    stepper.step()
    assert [each.kind for each in stepper.end()] == ["non_finite"]


def test_a_loss_that_is_no_number_is_refused_before_the_weights_move() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    before = model.weight.detach().clone()
    backward(model, optimizer)
    with pytest.raises(ValueError, match="the loss must be one number"):
        stepper.step(loss=torch.ones(3))
    assert torch.equal(model.weight, before)


def test_an_optimizer_without_a_rate_has_none_in_its_reading() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    passes(model, optimizer, stepper, 1)
    original = optimizer.step
    optimizer.step = lambda: original.__wrapped__ and None  # type: ignore[method-assign]
    optimizer.param_groups[0]["lr"] = None
    passes(model, optimizer, stepper, 1)
    assert "lr/main" not in stepper.latest.values()


def test_a_sink_that_fails_is_dropped_and_the_training_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Broken:
        def write(self, reading: object) -> None:
            raise OSError("no room")

    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer, sinks=[Broken()], detail_every=0)  # type: ignore[list-item]
    passes(model, optimizer, stepper, 3)
    assert capsys.readouterr().err.count("no room") == 1


def test_the_last_epoch_is_written_too() -> None:
    model, sink = nn.Linear(4, 2), Keeps()
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer, sinks=[sink])
    passes(model, optimizer, stepper, 3)
    stepper.end_epoch()
    stepper.finish()
    assert "epoch/max/main" in sink.readings[-1].values
    assert sink.flushes == 1


def test_an_epoch_that_is_logged_is_no_part_of_the_loss_and_the_rate_is_the_first_groups() -> None:
    model, sink = nn.Linear(4, 2), Keeps()
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.2}]
    optimizer = torch.optim.SGD(groups)
    stepper = Stepper(model=model, optimizers=optimizer, sinks=[sink])
    stepper.log(epoch=2.25, mel=1.0)
    passes(model, optimizer, stepper, 1)
    values = sink.readings[0].values
    assert (values["epoch"], values["train/mel"], values["lr/main"]) == (2.25, 1.0, 0.1)


def test_a_percentile_that_clips_nearly_every_step_is_no_saturation() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    stepper = Stepper(model=model, optimizers=optimizer, clip=Clip(percentile=1))
    found = []
    for _ in range(400):
        stepper.step(loss=backward(model, optimizer))
        found += stepper.end()
    assert not [each for each in found if each.kind == "clip_saturation"]


def test_no_warning_is_printed_for_the_loss_of_the_docs(recwarn: Any) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    passes(model, optimizer, stepper, 2)
    assert not recwarn.list


def test_an_optimizer_that_moves_the_weights_before_it_asks_is_answered_anew() -> None:
    class Sharp(torch.optim.SGD):
        """Looks at the loss a step uphill, as SAM does."""

        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            moved = [p.grad.clone() * 0.1 for p in self.param_groups[0]["params"]]
            with torch.no_grad():
                for p, by in zip(self.param_groups[0]["params"], moved, strict=True):
                    p.add_(by)
            with torch.enable_grad():
                closure()
            with torch.no_grad():
                for p, by in zip(self.param_groups[0]["params"], moved, strict=True):
                    p.sub_(by)
            return super().step()

    def train(ours: bool) -> Tensor:
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        optimizer = Sharp(model.parameters(), lr=0.1)
        stepper = Stepper(model=model, optimizers=optimizer)
        data = torch.randn(6, 4)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = model(data).square().mean()
            loss.backward()
            return loss

        for _ in range(5):
            if ours:
                stepper.step(closure=closure)
                stepper.end()
            else:
                closure()
                optimizer.step(closure)
        return model.weight.detach()

    torch.testing.assert_close(train(True), train(False))


def test_going_back_to_the_first_step_forgets_what_was_usual() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    start = copy.deepcopy(stepper.state_dict())
    passes(model, optimizer, stepper, 100)
    kept = copy.deepcopy(stepper.state_dict())
    held = stepper.state_dict()
    stepper.load_state_dict(start)
    assert stepper.lookout.limit("main") == math.inf
    stepper.load_state_dict(kept)
    passes(model, optimizer, stepper, 20)
    # A state that is held in memory is not trained on.
    assert held == kept


def test_a_step_leaves_gradients_to_whoever_zeroes_them() -> None:
    # In a GAN's pass another optimizer's gradients flow through the same parameters.
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    stepper = Stepper(model=model, optimizers=optimizer)
    loss = backward(model, optimizer)
    before = model.weight.grad.clone()
    stepper.step(loss=loss)
    stepper.end()
    assert torch.equal(model.weight.grad, before)


def test_the_state_is_loaded_by_a_torch_that_trusts_nobody(tmp_path: Any) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer, clip=Clip(percentile=50), lag=3)
    passes(model, optimizer, stepper, 100)
    torch.save(stepper.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other = Stepper(model=model, optimizers=optimizer, clip=Clip(percentile=50), lag=3)
    other.load_state_dict(state)
    assert other.state_dict() == stepper.state_dict()

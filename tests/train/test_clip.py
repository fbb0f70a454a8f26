"""Clipping does what torch's does, and more, and can be changed while it trains."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hpckit.train import Clip, Stepper
from hpckit.train import watched as watched_module
from tests.train.conftest import OPTIMIZERS, backward


def plain_model() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize("large", [0, 10**9])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clipping_by_norm_gives_the_weights_that_torch_gives(
    name: str, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both ways to multiply: in the fused kernel, and apart.
    monkeypatch.setattr(watched_module, "LARGE", large)

    def train(ours: bool) -> torch.Tensor:
        model = plain_model()
        optimizer = OPTIMIZERS[name](model.parameters())
        stepper = Stepper(model=model, optimizers=optimizer, clip=0.05) if ours else None
        for _ in range(5):
            loss = backward(model, optimizer)
            if stepper is not None:
                stepper.step(loss=loss)
                stepper.end()
            else:
                nn.utils.clip_grad_norm_(model.parameters(), 0.05)
                optimizer.step()
        return torch.cat([each.detach().reshape(-1) for each in model.parameters()])

    torch.testing.assert_close(train(True), train(False), rtol=1e-5, atol=1e-7)


def test_clipping_by_value_bounds_every_element() -> None:
    model = nn.Linear(4, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    stepper = Stepper(model=model, optimizers=optimizer, clip=Clip(value=0.01))
    before = model.weight.detach().clone()
    stepper.step(loss=backward(model, optimizer))
    stepper.end()
    assert float((model.weight.detach() - before).abs().max()) <= 0.01 + 1e-6
    assert 0 < stepper.latest.values()["grad/clip/main"] < 1


def test_groups_are_clipped_each_by_its_own_limit() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    optimizer = torch.optim.SGD(
        [
            {"params": model[0].parameters(), "name": "encoder"},
            {"params": model[1].parameters()},
        ],
        lr=1.0,
    )
    clip = Clip(1e9, groups={"encoder": 0.01, 1: 0.5})
    stepper = Stepper(model=model, optimizers=optimizer, clip=clip)
    before = [each.detach().clone() for each in model.parameters()]
    loss = backward(model, optimizer)
    for parameter in model.parameters():
        parameter.grad.mul_(1000)
    stepper.step(loss=loss)
    stepper.end()
    after = [each.detach() for each in model.parameters()]
    moved = [float((a - b).norm()) for a, b in zip(after, before, strict=True)]
    assert moved == pytest.approx([0.01, 0.5], rel=1e-3)


def test_a_group_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    with pytest.raises(ValueError, match="no parameter group encoder; it has 0"):
        Stepper(model=nn.Identity(), optimizers=optimizer, clip=Clip(1.0, groups={"encoder": 1.0}))


def test_an_optimizer_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    with pytest.raises(ValueError, match="no optimizer generator; known are main"):
        Stepper(model=nn.Identity(), optimizers=optimizer, clip={"generator": 1.0})


def test_a_percentile_looks_at_accepted_norms_alone() -> None:
    clip = Clip(percentile=50, of=100, at_most=9.0)
    assert clip.limit() == 9.0
    for norm in range(1, 21):
        clip.accept(float(norm))
    assert clip.limit() == 9.0
    clip = Clip(percentile=10, of=20)
    for norm in [math.nan, math.inf, *range(1, 101)]:
        clip.accept(float(norm))
    # The last twenty: 81 to 100.
    assert clip.limit() == 83.0
    assert clip.ordered == [float(each) for each in range(81, 101)]


def test_a_stretch_of_zeros_does_not_clip_all_that_comes_to_nothing() -> None:
    open_end, bounded = Clip(percentile=50), Clip(percentile=50, at_most=3.0)
    for _ in range(20):
        open_end.accept(0.0)
        bounded.accept(0.0)
    assert (open_end.limit(), bounded.limit()) == (None, 3.0)


def test_tightening_reaches_the_groups() -> None:
    clip = Clip(4.0, groups={"a": 2.0, "b": Clip(value=0.5)})
    clip.tighten(0.5)
    assert (clip.limit(), clip.groups["a"].limit(), clip.groups["b"].value) == (2.0, 1.0, 0.25)


def test_a_percentile_is_not_moved_by_what_was_held_back() -> None:
    model = plain_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    clip = Clip(percentile=90)
    stepper = Stepper(model=model, optimizers=optimizer, clip=clip)
    for step in range(120):
        loss = backward(model, optimizer)
        if step > 80 and step % 20 == 0:
            for parameter in model.parameters():
                parameter.grad.mul_(1e6)
        stepper.step(loss=loss)
        stepper.end()
    assert max(clip.accepted) < 100


def test_clip_values_change_while_it_trains() -> None:
    model = nn.Linear(4, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    clip = Clip(1.0, groups=None)
    stepper = Stepper(model=model, optimizers=optimizer, clip=clip)

    def moved() -> float:
        before = model.weight.detach().clone()
        loss = backward(model, optimizer)
        model.weight.grad.mul_(1e3)
        stepper.step(loss=loss)
        stepper.end()
        return float((model.weight.detach() - before).norm())

    assert moved() == pytest.approx(1.0, rel=1e-3)
    clip.tighten(0.25)
    assert moved() == pytest.approx(0.25, rel=1e-3)
    clip.tighten(0.25, least=0.2)
    assert clip.norm == 0.2
    clip.norm = None
    assert moved() > 1.0


@pytest.mark.parametrize(
    "settings",
    [{"norm": 0}, {"norm": math.nan}, {"value": -1}, {"percentile": 101}, {"norm": 1, "value": 1}],
)
def test_a_senseless_clip_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="clip"):
        Clip(**settings)


def test_a_clip_remembers_across_a_checkpoint() -> None:
    clip = Clip(groups={"a": Clip(percentile=50, of=30), "b": Clip(percentile=20, of=50)})
    for norm in range(40):
        clip.groups["a"].accept(float(norm))
        clip.groups["b"].accept(float(norm))
    other = Clip(groups={"a": Clip(percentile=50, of=30), "b": Clip(percentile=20, of=50)})
    other.load_state_dict(clip.state_dict())
    assert other.state_dict() == clip.state_dict()
    for each in (clip, other):
        for norm in range(30):
            each.groups["b"].accept(float(norm) / 3)
    assert other.groups["b"].limit() == clip.groups["b"].limit()
    assert other.groups["a"].limit() == clip.groups["a"].limit()

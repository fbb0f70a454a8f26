"""Small models and what they are made of, for the tests of the training's side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.train.inside import Lives, lives


@pytest.fixture(autouse=True)
def steady(one_thread: None) -> None:
    """The same numbers in every run."""
    torch.manual_seed(0)


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lives]:
    """A run, of which a test begins one life after the other."""
    yield from lives(tmp_path / "run", monkeypatch)


@pytest.fixture
def rarely(life: Lives) -> None:
    """No state is for the disk in between."""
    life.spec["checkpoint"] = {"every": "1000 steps", "confirm_steps": 10}


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine in which no second copy of the state has room."""
    monkeypatch.setattr("hpckit.train.keeper.how_many_fit", lambda *args: 0)


def small_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def backward(model: nn.Module, optimizer: Optimizer, data: Tensor | None = None) -> Tensor:
    optimizer.zero_grad()
    loss = model(torch.randn(6, 4) if data is None else data).square().mean()
    loss.backward()
    return loss


def everything(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Weights, buffers and optimizer state, copied."""
    return copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal to the last bit, NaN and all."""
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype, where
        assert one.shape == other.shape, where
        assert one.detach().numpy().tobytes() == other.detach().numpy().tobytes(), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    else:
        assert one == other, where


def lion(parameters: Any) -> Optimizer:
    from lion_pytorch import Lion

    return Lion(parameters, lr=1e-3)


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=False),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=False),
    "adam fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=False),
    "sgd momentum fused": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "adagrad fused": lambda p: torch.optim.Adagrad(p, lr=0.01, fused=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "lion": lion,
}
FUSED = [name for name in OPTIMIZERS if "fused" in name]

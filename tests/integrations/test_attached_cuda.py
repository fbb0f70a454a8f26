"""An unedited program on a GPU: a fused optimizer is not made to wait, any other once a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from tests.integrations.watching import Watching

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def patient() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


def made(**settings: Any) -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(0)
    layers = [nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 8)]
    model = nn.Sequential(*layers).cuda()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3, **settings)


def train(model: nn.Module, optimizer: Optimizer, steps: int, *, by: float = 1.0) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(32, 64, device="cuda")).square().mean() * by
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("settings", [{}, {"fused": True}, {"capturable": True}])
def test_health_has_the_same_bits_and_a_nan_leaves_no_trace(
    watching: Watching, settings: dict[str, bool]
) -> None:
    model, optimizer = made(**settings)
    train(model, optimizer, 20)
    alone = weights(model)
    del model, optimizer
    watching.begin()
    model, optimizer = made(**settings)
    train(model, optimizer, 20)
    assert same(weights(model), alone)
    train(model, optimizer, 1, by=math.nan)
    assert same(weights(model), alone)
    train(model, optimizer, 8)
    readings = watching.readings()
    assert [each.values["grad/gated/main"] for each in readings] == [0.0] * 20 + [1.0] + [0.0] * 8
    assert all(each.values["grad/norm/main"] > 0.1 for each in readings if each.step != 20)
    assert [each.data["incident"]["kind"] for each in watching.events("incident")] == ["non_finite"]


def test_a_fused_optimizer_waits_for_nothing(watching: Watching) -> None:
    watching.begin()
    model, optimizer = made(fused=True)
    train(model, optimizer, 20)
    torch.cuda.set_sync_debug_mode("error")
    train(model, optimizer, 50)
    torch.cuda.set_sync_debug_mode("default")
    assert watching.values("grad/gated/main") == [0.0] * 70


def test_float16_with_its_scaler_is_seen_as_it_is(watching: Watching) -> None:
    watching.begin()
    model, optimizer = made(fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**30)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(torch.randn(32, 64, device="cuda")).float().square().mean()
        losses.append(loss.item())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    readings = watching.readings()
    assert [each.values["train/loss"] for each in readings] == pytest.approx(losses, rel=1e-3)
    assert readings[0].values["grad/scale/main"] == 2.0**30
    assert readings[0].values["grad/gated/main"] == 1.0
    assert readings[-1].values["grad/gated/main"] == 0.0
    assert watching.events("incident") == []


def test_a_step_in_a_cuda_graph_is_let_be(watching: Watching) -> None:
    watching.begin()
    model, optimizer = made(capturable=True)
    batch = torch.randn(32, 64, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad()
    with torch.cuda.graph(graph):
        model(batch).square().mean().backward()
        optimizer.step()
    before = weights(model)
    graph.replay()
    torch.cuda.synchronize()
    assert not same(weights(model), before)
    assert len(watching.readings()) == 3

"""The fused form of an optimizer carries on where the other stood: a contract in torch's source."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hpckit.train.fuse import can_fuse, fuse, is_fused
from tests.train.conftest import FUSED, OPTIMIZERS, backward


@pytest.mark.parametrize("name", FUSED)
def test_found_inf_and_grad_scale_are_read_by_the_fused_kernel(name: str) -> None:
    # If a new torch breaks this, gate and clip on a GPU are gone: it is in no document.
    one, two = nn.Linear(4, 2), nn.Linear(4, 2)
    two.load_state_dict(one.state_dict())
    a, b = OPTIMIZERS[name](one.parameters()), OPTIMIZERS[name](two.parameters())
    for _ in range(3):
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad * 8.0
        a.step()
        b.grad_scale, b.found_inf = torch.tensor(8.0), torch.tensor(0.0)
        b.step()
    torch.testing.assert_close(one.weight, two.weight, rtol=1e-6, atol=1e-7)
    before = copy.deepcopy((two.state_dict(), b.state_dict()))
    b.found_inf = torch.tensor(1.0)
    two.weight.grad.fill_(float("nan"))
    b.step()
    assert torch.equal(two.weight, before[0]["weight"])
    for key, value in b.state_dict()["state"][0].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(before[1]["state"][0][key])), key


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_an_optimizer_that_becomes_fused_keeps_its_state(kind: type[torch.optim.Optimizer]) -> None:
    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}

    def train(switch: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        optimizer = kind(model.parameters(), lr=0.01, **settings)
        for step in range(10):
            if switch and step == 5:
                assert not is_fused(optimizer)
                fuse(optimizer)
                assert is_fused(optimizer)
            backward(model, optimizer)
            optimizer.step()
        return model.weight.detach()

    torch.testing.assert_close(train(True), train(False), rtol=1e-5, atol=1e-7)


def test_on_a_cpu_nothing_is_switched() -> None:
    model = nn.Linear(4, 2)
    assert not can_fuse(torch.optim.AdamW(model.parameters()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_a_person_chose_stays() -> None:
    model = nn.Linear(4, 2).cuda()
    assert can_fuse(torch.optim.AdamW(model.parameters()))
    assert not can_fuse(torch.optim.AdamW(model.parameters(), foreach=True))
    assert not can_fuse(torch.optim.AdamW(model.parameters(), fused=False))
    assert not can_fuse(torch.optim.RMSprop(model.parameters()))

"""What is put back is whole, and what it was put back from stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hpckit.train.registry import DoesNotFit, Registry
from hpckit.train.snapshots import Taker, all_bad, first_bad
from tests.train.conftest import assert_same, backward, small_model
from tests.train.test_registry import copied, made

NAN = float("nan")


def snapshot(registry: Registry) -> dict[str, Any]:
    """The state as it is kept in memory."""
    found: dict[str, Any] = Taker().take(0, {"items": registry.take()}, {}).state["items"]
    return found


def fitted(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    """Train with an optimizer that evaluates the loss itself."""
    for _ in range(steps):
        x = torch.randn(8, 4).to(next(model.parameters()).device)
        optimizer.step(lambda x=x: backward(model, optimizer, x))


def test_an_optimizers_lists_are_its_own_and_one_may_go_back_twice() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.05, max_iter=2, history_size=3)
    registry = made(model=model, main=optimizer)
    fitted(model, optimizer, 4)
    saved = snapshot(registry)
    wanted = copy.deepcopy(saved)

    def train() -> Any:
        torch.manual_seed(3)
        fitted(model, optimizer, 3)
        return copied(registry.take())

    first = train()
    for _ in range(2):
        registry.load(saved, again=True)
        assert_same(wanted, copied(registry.take()))
        assert_same(first, train())
    assert_same(wanted, saved)


def test_tensors_in_an_optimizers_lists_are_copies_where_its_parameters_are() -> None:
    # No device that a test machine may lack: this one holds no numbers.
    parameters = [torch.zeros(2), torch.zeros(2, device="meta")]
    optimizer = torch.optim.SGD([nn.Parameter(each) for each in parameters], lr=0.1)
    registry = made(main=optimizer)
    saved = snapshot(registry)
    saved["main"]["state"]["state"] = {at: {"each": [(torch.ones(1),)]} for at in (0, 1)}
    optimizer.state |= {each: {"each": []} for each in optimizer.param_groups[0]["params"]}
    registry.load(saved, again=True)
    found = [state["each"][0][0] for state in optimizer.state.values()]
    assert [each.device.type for each in found] == ["cpu", "meta"]
    found[0].add_(1)
    assert saved["main"]["state"]["state"][0]["each"][0][0].item() == 1


def test_what_a_group_holds_is_its_own() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    group = optimizer.param_groups[0]
    group |= {"seen": [1], "of": {"loss": [torch.zeros(2)]}, "scale": torch.ones(2)}
    registry = made(main=optimizer)
    saved = snapshot(registry)
    wanted, scale = copy.deepcopy(saved), group["scale"]
    for _ in range(2):
        registry.load(saved, again=True)
        assert_same(wanted, copied(registry.take()))
        group["seen"].append(2)
        group["of"]["loss"][0] += 1
        group["scale"] += 1
    assert_same(wanted, saved)
    # What is a tensor is written into.
    assert group["scale"] is scale


def test_what_a_group_holds_may_have_become_something_else() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    group = optimizer.param_groups[0]
    group |= {"number": 1.0, "short": torch.zeros(2), "tensor": torch.zeros(())}
    registry = made(main=optimizer)
    saved = snapshot(registry)
    group |= {"number": torch.tensor(2.0), "short": torch.ones(3), "tensor": 1.0}
    registry.load(saved, again=True)
    assert_same(saved, copied(registry.take()))
    assert isinstance(group["number"], float)


class Extra(nn.Module):
    """Beside its weights it keeps what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(1, 1)
        self.seen: Any = {"mean": torch.zeros(2), "each": [torch.zeros(1)], "names": {"a"}}

    def get_extra_state(self) -> Any:
        return self.seen

    def set_extra_state(self, state: Any) -> None:
        self.seen = state


@pytest.mark.parametrize("again", [True, False])
def test_what_a_module_says_beside_its_tensors_is_its_own(again: bool) -> None:
    model = Extra()
    registry = made(model=model)
    saved = snapshot(registry)
    wanted = copy.deepcopy(saved)
    for _ in range(2):
        registry.load(saved, again=again)
        assert_same(wanted, copied(registry.take()))
        model.seen["mean"] += 7
        model.seen["each"][0] += 7
        model.seen["names"].add("b")
    assert_same(wanted, saved)


def test_a_tensor_beside_the_weights_may_grow() -> None:
    model = Extra()
    model.seen = torch.zeros(2)
    registry = made(model=model)
    saved = snapshot(registry)
    model.seen = torch.ones(5)
    assert registry.misfit(saved) is None
    registry.load(saved, again=True)
    assert model.seen.tolist() == [0, 0]
    model.seen += 1
    assert saved["model"]["state"]["_extra_state"].tolist() == [0, 0]


class Counting(torch.optim.SGD):
    """It counts in its state, under keys that are no parameters."""

    def step(self, closure: Any = None) -> Any:
        self.state["calls"] = self.state.get("calls", 0) + 1
        return super().step(closure)


def test_what_an_optimizer_keeps_of_no_parameter_comes_back() -> None:
    model = small_model()
    optimizer = Counting(model.parameters(), lr=0.1, momentum=0.9)
    registry = made(model=model, main=optimizer)

    def train() -> None:
        backward(model, optimizer)
        optimizer.step()

    train()
    saved = snapshot(registry)
    wanted = copy.deepcopy(saved)
    for change in (train, lambda: optimizer.state.pop("calls"), train):
        change()
        registry.load(saved, again=True)
        assert optimizer.state["calls"] == 1
        assert_same(wanted, copied(registry.take()))


def test_what_an_optimizer_did_not_keep_yet_goes_again() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    registry = made(main=optimizer)
    saved = snapshot(registry)
    optimizer.state["calls"] = 3
    registry.load(saved, again=True)
    assert "calls" not in optimizer.state


# Weights of one byte.

FLOAT8 = [
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
]


@pytest.mark.parametrize("dtype", FLOAT8)
def test_numbers_of_one_byte_are_copied_and_looked_at(dtype: torch.dtype) -> None:
    live = {"fine": torch.tensor([1.0, -2.0]).to(dtype), "bad": torch.tensor([1.0, NAN]).to(dtype)}
    found = Taker().take(0, live, {}).tensors()
    assert all(each.dtype == dtype for each in found.values())
    assert first_bad(found) == "bad"
    assert all_bad(found) == {"bad"}
    # Many of them come to more than one of them can hold.
    assert first_bad({"many": torch.full((999,), 200.0).to(dtype)}) is None


def test_an_infinity_of_one_byte_is_found_and_what_has_none_is_passed_over() -> None:
    assert first_bad({"inf": torch.tensor([float("inf")]).to(torch.float8_e5m2)}) == "inf"
    bits = torch.full((4,), 255, dtype=torch.uint8)
    assert first_bad({"fours": bits.view(torch.float4_e2m1fn_x2), "whole": bits}) is None


# What does not fit.


def added_group(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


def grown_group(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.param_groups[0]["params"].append(nn.Parameter(torch.zeros(1)))


def wider_layer(model: Any, optimizer: Optimizer) -> None:
    model[0].weight = nn.Parameter(torch.zeros(8, 5))


def more_layers(model: Any, optimizer: Optimizer) -> None:
    model.append(nn.Linear(2, 2))


def fewer_buffers(model: Any, optimizer: Optimizer) -> None:
    model[1].running_mean = None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (added_group, r"main: its groups have \[6, 1\] parameters, they had \[6\] when"),
        (grown_group, r"main: its groups have \[7\] parameters, they had \[6\] when"),
        (wider_layer, r"model: 0.weight has shape \(8, 5\), it was saved with \(8, 4\)"),
        (more_layers, r"model: it lacks 4.bias, 4.weight\n"),
        (fewer_buffers, r"model: the model has no 1.running_mean\n"),
    ],
)
def test_what_became_of_the_program_is_said_before_anything_is_loaded(
    change: Callable[[Any, Any], None], words: str
) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # Before those that do not fit.
    first = nn.Linear(1, 1)
    registry = made(first=first, model=model, main=optimizer)
    saved = snapshot(registry)
    assert registry.misfit(saved) is None
    change(model, optimizer)
    nn.init.constant_(first.weight, 9.0)
    wrong = registry.misfit(saved)
    assert wrong is not None
    with pytest.raises(DoesNotFit, match=words) as error:
        registry.load(saved, again=True)
    assert wrong in str(error.value)
    assert "train what was saved" in str(error.value.hint)
    assert first.weight.item() == 9.0


def test_one_of_another_kind_does_not_fit() -> None:
    saved = snapshot(made(thing=nn.Linear(1, 1)))
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    said = made(thing=optimizer).misfit(saved)
    assert said == "thing was a module when it was saved, now a optimizer"


def test_what_is_on_one_side_only_and_a_wrapper_are_no_misfit() -> None:
    model = small_model()
    saved = snapshot(made(model=model, gone=nn.Linear(1, 1)))
    wrapped = nn.DataParallel(small_model())
    assert made(model=wrapped, new=nn.Linear(1, 1)).misfit(saved) is None
    assert made(model=model).misfit({}) is None


def test_tied_and_shared_tensors_are_written_into() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(2, 2), nn.Linear(2, 2)
            self.other.weight = self.one.weight
            self.register_buffer("mean", torch.zeros(2))

    model = Tied()
    registry = made(model=model)
    saved = snapshot(registry)
    places: dict[str, Tensor] = dict(model.state_dict())
    registry.load(saved, again=True)
    now = model.state_dict()
    assert all(now[name].data_ptr() == each.data_ptr() for name, each in places.items())

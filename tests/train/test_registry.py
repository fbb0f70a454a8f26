"""What is state: taken with its live tensors, put back into those that are there."""

from __future__ import annotations

import copy
import enum
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

from hpckit.errors import UsageError
from hpckit.integrations.hosted import Rates
from hpckit.train.rates import rate_times
from hpckit.train.registry import Registry, kind_of
from hpckit.train.tree import CannotSave, as_they_are, mapped, tensors_of, unpacked
from tests.train.conftest import OPTIMIZERS, assert_same, backward, small_model


def copied(items: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint holds it."""
    return mapped(items, lambda each: each.detach().clone())  # type: ignore[no-any-return]


def made(**things: Any) -> Registry:
    registry = Registry()
    for name, thing in things.items():
        registry.add(name, thing)
    return registry


class Thing:
    """Somebody's own."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"tensor": torch.zeros(2), "array": numpy.zeros(3), "n": 0}

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # It keeps what it is given, as many do.
        self.state = state


def test_kinds_are_known_and_the_rest_is_refused() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    things = (
        model, optimizer, lr_scheduler.StepLR(optimizer, 1),
        lr_scheduler.ReduceLROnPlateau(optimizer), Thing(), AveragedModel(model),
    )  # fmt: skip
    kinds = ["module", "optimizer", "schedule", "schedule", "other", "module"]
    assert [kind_of(each) for each in things] == kinds
    with pytest.raises(UsageError, match="list has no state_dict") as error:
        kind_of([1])
    assert "run.values" in str(error.value.hint)


def test_a_name_is_given_once_and_a_thing_may_come_again() -> None:
    thing = Thing()
    registry = made(thing=thing)
    registry.add("thing", thing)
    with pytest.raises(UsageError, match="there is a 'thing' already"):
        registry.add("thing", Thing())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_comes_back_in_place(name: str) -> None:
    model = small_model()
    optimizer = OPTIMIZERS[name](model.parameters())
    registry = made(model=model, main=optimizer)
    for _ in range(3):
        backward(model, optimizer)
        optimizer.step()
    saved = copied(registry.take())
    places = [t.data_ptr() for t in tensors_of(optimizer.state_dict()["state"]).values()]
    wanted = copy.deepcopy(saved)

    def train() -> Any:
        torch.manual_seed(3)
        for _ in range(3):
            backward(model, optimizer)
            optimizer.step()
        return copied(registry.take())

    first = train()
    registry.load(saved, again=True)
    assert_same(wanted, copied(registry.take()))
    assert [t.data_ptr() for t in tensors_of(optimizer.state_dict()["state"]).values()] == places
    assert_same(first, train())
    # What was saved is as it was: the next step did not change it.
    assert_same(wanted, saved)


def test_a_state_without_moments_comes_back_as_none() -> None:
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    registry = made(model=model, main=optimizer)
    saved = copied(registry.take())
    backward(model, optimizer)
    optimizer.step()
    registry.load(saved, again=True)
    assert not optimizer.state_dict()["state"]


def test_loading_from_a_checkpoint_does_not_keep_its_tensors() -> None:
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    registry = made(model=model, main=optimizer, thing=Thing())
    backward(model, optimizer)
    optimizer.step()
    saved = copied(registry.take())
    wanted = copy.deepcopy(saved)
    registry.load(saved)
    registry.things["thing"].state["tensor"] += 1
    registry.things["thing"].state["array"] += 1
    backward(model, optimizer)
    optimizer.step()
    assert_same(wanted, saved)


def test_a_things_arrays_come_back_as_arrays() -> None:
    thing = Thing()
    thing.state["array"] += 2
    thing.state["deep"] = [{"array": numpy.ones((2, 2), dtype="float32")}]
    saved = copied(made(thing=thing).take())
    other = Thing()
    made(thing=other).load(saved)
    assert isinstance(other.state["array"], numpy.ndarray)
    assert other.state["array"].tolist() == [2, 2, 2]
    assert other.state["deep"][0]["array"].dtype == "float32"


def test_a_thing_of_another_kind_is_refused() -> None:
    saved = copied(made(thing=Thing()).take())
    with pytest.raises(UsageError, match="thing was a other when it was saved, now a module"):
        made(thing=nn.Linear(1, 1)).load(saved)


def test_an_average_of_the_weights_comes_back_by_its_own_names() -> None:
    model = nn.Linear(2, 1)
    ema = AveragedModel(model)
    model.weight.data += 1
    ema.update_parameters(model)
    ema.update_parameters(model)
    saved = copied(made(ema=ema).take())
    other = AveragedModel(nn.Linear(2, 1))
    made(ema=other).load(saved)
    assert_same(dict(ema.state_dict()), dict(other.state_dict()))


def test_tied_weights_stay_tied() -> None:
    def tied() -> Any:
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        model[1].weight = model[0].weight
        return model

    one, other = tied(), tied()
    made(model=other).load(copied(made(model=one).take()))
    assert other[0].weight is other[1].weight
    assert torch.equal(one[0].weight, other[1].weight)


def test_what_a_module_says_beside_its_tensors_comes_back() -> None:
    class Extra(nn.Linear):
        seen: Any = 0

        def get_extra_state(self) -> Any:
            return {"seen": self.seen}

        def set_extra_state(self, state: Any) -> None:
            self.seen = state["seen"]

    one, other = Extra(1, 1), Extra(1, 1)
    one.seen = numpy.arange(3)
    made(model=other).load(copied(made(model=one).take()))
    assert other.seen.tolist() == [0, 1, 2]


def test_what_nobody_registered_waits_for_who_does() -> None:
    one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    registry = Registry()
    registry.load(copied(made(late=one).take()))
    registry.add("late", other)
    assert torch.equal(one.weight, other.weight)
    assert registry.unclaimed == {}


def test_a_rate_is_another_one_for_one_step_and_even_when_that_fails() -> None:
    optimizer = torch.optim.SGD(
        [{"params": [nn.Parameter(torch.ones(1))]}, {"params": [], "lr": 3.0}], lr=1.0
    )
    found = []

    def fails() -> None:
        found.extend(group["lr"] for group in optimizer.param_groups)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), rate_times(optimizer, 0.5):
        fails()
    assert found == [0.5, 1.5]
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 3.0]


class WithoutRate(torch.optim.Optimizer):
    """One that finds its rate by itself, in groups that name none or in part of them."""

    def __init__(self, parameters: Any, *rates: dict[str, Any]) -> None:
        each = list(parameters)
        groups = [{"params": [each[index]], **rate} for index, rate in enumerate(rates)]
        super().__init__(groups, {})

    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["n"] = self.state[parameter].get("n", 0) + 1


RATELESS = [({"lr": None}, {"lr": None}), ({}, {}), ({"lr": None}, {"lr": 2.0}), ({}, {"lr": 2.0})]


@pytest.mark.parametrize("rates", RATELESS)
def test_an_optimizer_need_not_have_a_rate(rates: Any) -> None:
    optimizer = WithoutRate(nn.Linear(1, 1).parameters(), *rates)
    registry = made(main=optimizer)
    assert [each["lr"] for each in registry.given["main"]] == [None, rates[1].get("lr")]
    optimizer.step()
    saved = copied(registry.take())
    optimizer.step()
    registry.load(saved, again=True)
    assert_same(saved, copied(registry.take()))
    other = made(main=WithoutRate(nn.Linear(1, 1).parameters(), *rates))
    told: list[str] = []
    other.tell = told.append
    other.load(saved)
    assert_same(saved, copied(other.take()))
    assert told == []


@pytest.mark.parametrize("rates", RATELESS)
def test_another_rate_for_one_step_is_nothing_to_a_group_without_one(rates: Any) -> None:
    optimizer = WithoutRate(nn.Linear(1, 1).parameters(), *rates)
    before = [dict(group) for group in optimizer.param_groups]
    second = optimizer.param_groups[1]
    with rate_times(optimizer, 0.5):
        assert {key: group.get("lr") for key, group in enumerate(optimizer.param_groups)} == {
            0: None, 1: 1.0 if second.get("lr") else None,
        }  # fmt: skip
    assert optimizer.param_groups == before


@pytest.mark.parametrize("rates", RATELESS)
def test_nor_is_it_where_a_framework_steps(rates: Any) -> None:
    optimizer = WithoutRate(nn.Linear(1, 1).parameters(), *rates)
    before = [dict(group) for group in optimizer.param_groups]
    within: list[Any] = []
    # Hooks run in order: ours first.
    session: Any = SimpleNamespace(
        stepper=SimpleNamespace(watched={"main": SimpleNamespace(optimizer=optimizer, rate=0.5)})
    )
    Rates(session).watch("main")
    optimizer.register_step_pre_hook(
        lambda *_: within.append([group.get("lr") for group in optimizer.param_groups])
    )
    optimizer.step()
    assert within == [[None, 1.0 if rates[1].get("lr") else None]]
    assert optimizer.param_groups == before


@pytest.mark.parametrize(
    ("before", "now", "rates", "said"),
    [
        (({"lr": None}, {"lr": 2.0}), ({"lr": None}, {"lr": 1.0}), [None, 1.0],
         "says 1 now, 2 when it was saved: scaled by it"),
        (({"lr": None}, {"lr": 2.0}), ({"lr": 0.1}, {"lr": 2.0}), [None, 2.0],
         "says 0.1 now, none when it was saved: it stays as it was saved"),
        (({"lr": 0.5}, {"lr": 2.0}), ({"lr": None}, {"lr": 2.0}), [0.5, 2.0],
         "says none now, 0.5 when it was saved: it stays as it was saved"),
        (({"lr": 0.0}, {"lr": 2.0}), ({"lr": 0.1}, {"lr": 2.0}), [0.0, 2.0],
         "says 0.1 now, 0 when it was saved: it stays as it was saved"),
    ],
)  # fmt: skip
def test_a_rate_that_the_script_changed_is_followed_where_there_was_one(
    before: Any, now: Any, rates: list[Any], said: str
) -> None:
    saved = copied(made(main=WithoutRate(nn.Linear(1, 1).parameters(), *before)).take())
    optimizer = WithoutRate(nn.Linear(1, 1).parameters(), *now)
    registry = made(main=optimizer)
    told: list[str] = []
    registry.tell = told.append
    registry.load(saved)
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert told == [f"learning rate of main: the script {said}"]


def test_a_schedule_without_a_rate_is_scaled_in_the_groups_that_have_one() -> None:
    def registered(rate: float) -> Registry:
        optimizer = WithoutRate(nn.Linear(1, 1).parameters(), {"lr": None}, {"lr": rate})
        schedule = lr_scheduler.ReduceLROnPlateau(optimizer)
        return made(main=optimizer, schedule=schedule)

    saved, registry = copied(registered(2.0).take()), registered(1.0)
    registry.load(saved)
    assert registry.things["schedule"].get_last_lr() == [None, 1.0]


# Trees.


def test_every_container_is_made_anew() -> None:
    inner = [1, 2]
    tree = {"a": inner, "b": (1, [2]), "c": OrderedDict(x=1), "d": deque([1, 2]), (1, "k"): None}
    found = mapped(tree, lambda each: each)
    inner.append(3)
    assert found == {"a": [1, 2], "b": (1, [2]), "c": {"x": 1}, "d": [1, 2], (1, "k"): None}
    assert type(found["c"]) is OrderedDict


def test_a_key_whose_parts_have_names_can_be_loaded(tmp_path: Path) -> None:
    class Place(NamedTuple):
        epoch: int
        batch: int

    torch.save(mapped({Place(1, 2): 3}, Tensor.clone), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == {Place(1, 2): 3}


class Phase(enum.IntEnum):
    WARM = 1


class Pair(NamedTuple):
    one: int
    other: int


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (deque([1, 2], maxlen=3), "list"),
        (defaultdict(int, a=1), "dict"),
        (Counter("aab"), "dict"),
        (MappingProxyType({"a": 1}), "dict"),
        (frozenset({1}), "set"),
        (Pair(1, 2), "tuple"),
        (torch.Size([1]), "tuple"),
        (Phase.WARM, "int"),
        (type("Name", (str,), {})("x"), "str"),
    ],
)
def test_what_would_come_back_as_something_else_is_refused_among_values(
    value: Any, plain: str
) -> None:
    with pytest.raises(CannotSave) as error:
        as_they_are({"deep": [{"recent": value}]})
    said, kind = str(error.value), type(value).__name__
    assert said.startswith(f"run.values.deep[0].recent: a {kind} would come back as a")
    assert said.splitlines()[0].endswith(f" {plain}")
    assert str(error.value.hint) in (f"make it a {plain}", f"make it an {plain}")
    # What somebody else's state_dict holds is saved as what it is like.
    found = mapped({"recent": value}, Tensor.clone)["recent"]
    assert type(found).__name__ == plain


def test_a_masked_array_is_no_value() -> None:
    masked = numpy.ma.masked_array([1.0, 2.0], mask=[True, False])
    with pytest.raises(CannotSave, match=r"run\.values\.a: MaskedArray cannot be saved"):
        as_they_are({"a": masked})


def test_values_that_come_back_as_they_are_pass() -> None:
    values = {
        "a": [1, (2, {3})], "b": OrderedDict(x={1: None}), "c": numpy.float32(2.5), "d": True,
        "e": numpy.arange(3), "f": torch.ones(2), "g": b"x", "h": numpy.str_("x"),
    }  # fmt: skip
    found = unpacked(as_they_are(values))
    assert found.pop("e").tolist() == [0, 1, 2]
    assert found.pop("f").tolist() == [1, 1]
    assert found == {
        "a": [1, (2, {3})], "b": OrderedDict(x={1: None}), "c": 2.5, "d": True, "g": b"x", "h": "x"
    }  # fmt: skip
    assert type(found["b"]) is OrderedDict


def test_numbers_of_other_types_become_plain_ones() -> None:
    class Colour(enum.IntEnum):
        RED = 3

    class Name(str):
        pass

    tree = {"a": numpy.float64(1.5), "b": numpy.int8(3), "c": Colour.RED, "d": Name("x")}
    found = mapped(tree, lambda each: each)
    assert found == {"a": 1.5, "b": 3, "c": 3, "d": "x"}
    assert [type(each) for each in found.values()] == [float, int, int, str]


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"a": [1, object()]}, r"a\[1\]: object cannot be saved"),
        ({"a": {"b": lambda: 1}}, r"a\.b: function cannot be saved"),
        ({"a": {object(): 1}}, r"a: a key of type object cannot be saved"),
        ({"a": numpy.array(["x"], dtype=object)}, "a: ndarray cannot be saved"),
        ({"a": torch.Generator()}, "a: Generator cannot be saved"),
    ],
)
def test_what_cannot_be_saved_is_named_by_its_place(tree: Any, words: str) -> None:
    with pytest.raises(CannotSave, match=words):
        mapped(tree, lambda each: each)


@pytest.mark.parametrize("kind", ["float16", "float64", "int8", "uint8", "bool", "complex64"])
def test_arrays_come_back_with_type_and_shape(kind: str) -> None:
    array = numpy.ones((2, 1, 3), dtype=kind)
    back = unpacked(mapped({"a": array}, Tensor.clone))["a"]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert (back == array).all()


def test_tensors_are_named_by_their_place() -> None:
    a, b = torch.zeros(1), torch.zeros(2)
    assert tensors_of({"model": {"0.weight": a}, "list": [1, (b,)]}) == {
        "model.0.weight": a,
        "list[1][0]": b,
    }

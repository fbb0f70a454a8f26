"""The division beside the parameter to blame is named: file, line, module, and what it came to."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from hpckit.cli.run_text import run_text
from hpckit.monitor.incident import Division, Incident
from hpckit.run import open_run
from hpckit.status.state import State, facts_of
from hpckit.status.view import describe
from hpckit.train.divisions import Divisions
from hpckit.train.healing import Stopped
from tests.train.inside import Lives, Training

HERE = Path(__file__).name


class Stage(nn.Module):
    """Projects, and gives the result the loudness of the target."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out = self.proj(x)
        return out * (rms(x) / (rms(out) + 1e-8))  # the rescale


class Model(nn.Module):
    def __init__(self, stages: int = 3) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Stage() for _ in range(stages)])
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.head(x) / (1 + x.square().mean())


def rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return 1 + next(number for number, line in enumerate(lines) if text in line)


class Seen:
    """A mode around whatever a test does."""

    def __init__(self, **models: nn.Module) -> None:
        self.told: list[str] = []
        self.divisions = Divisions(models or {"model": nn.Linear(1, 1)}, self.told.append)

    def __enter__(self) -> Divisions:
        self.divisions.begin()
        return self.divisions

    def __exit__(self, *_: object) -> None:
        self.divisions.end()


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    yield
    assert _get_current_function_mode_stack() == []


def only(divisions: Divisions) -> Division:
    found = [each.told() for each in divisions._places.values()]
    assert len(found) == 1
    return found[0]


def beside(divisions: Divisions, model: nn.Module, parameter: str) -> Division:
    found = divisions.beside(parameter, model.parameters())
    assert found is not None
    return found


X, Y = [4.0, -2.0], [0.5, -0.25]
WAYS = {
    "a sign": lambda x, y: x / y,
    "a function": lambda x, y: torch.div(x, y),
    "by name": lambda x, y: torch.true_divide(input=x, other=y),
    "a method": lambda x, y: x.true_divide(y),
    "in place": lambda x, y: (x * 1).div_(y),
    "by a sign in place": lambda x, y: (x * 1).__itruediv__(y),
    "of a number": lambda x, y: 4.0 / y,
    "a reciprocal": lambda x, y: 4 * y.reciprocal(),
    "a reciprocal in place": lambda x, y: 4 * (y * 1).reciprocal_(),
    "a power": lambda x, y: x * y**-1,
    "a power by name": lambda x, y: torch.pow(y, exponent=-1),
    "a root": lambda x, y: torch.rsqrt(y.square()),
    "a norm": lambda x, y: nn.functional.normalize(y[:, None]),
}


@pytest.mark.parametrize("way", WAYS)
def test_however_it_divides_it_is_seen(way: str) -> None:
    x, y = torch.tensor(X, requires_grad=True), torch.tensor(Y, requires_grad=True)
    with Seen() as divisions:
        WAYS[way](x, y)
    found = only(divisions)
    assert found.smallest == 0.25
    assert found.largest in (1.0, 4.0, 8.0, 16.0)
    assert found.place.startswith(f"{HERE}:{line_of(f'    {chr(34)}{way}{chr(34)}: lambda')} in ")
    assert way in found.line


NONE = {
    "a number": lambda x, y: x / 3,
    "nothing that learns": lambda x, y: x.detach() / y.detach(),
    "nothing": lambda x, y: x / y[:0].reshape(0, 1),
    "whole numbers": lambda x, y: x / torch.tensor([3, 2]),
    "a power above 0": lambda x, y: x * y**2,
}


@pytest.mark.parametrize("way", NONE)
def test_what_is_no_division_that_could_blow_up_is_passed_over(way: str) -> None:
    x, y = torch.tensor(X, requires_grad=True), torch.tensor(Y, requires_grad=True)
    seen = Seen()
    with seen as divisions:
        NONE[way](x, y)
        with torch.no_grad():
            x / y
    assert divisions._places == {}
    assert seen.told == []


def test_the_smallest_divisor_and_the_largest_quotient_are_kept_whatever_is_no_number() -> None:
    x = torch.ones(1, requires_grad=True)
    with Seen() as divisions:
        for divisor in (0.5, math.nan, 1e-6, 0.25):
            x / torch.tensor([divisor])
    found = only(divisions)
    assert (found.smallest, found.largest) == (pytest.approx(1e-6), pytest.approx(1e6))


def test_each_place_in_each_module_is_one_of_its_own() -> None:
    model = Model()
    with Seen(model=model) as divisions:
        model(torch.randn(8, 4)).sum().backward()
        model.stages[1].proj.weight.data *= 1e-6
        model.stages[1].proj.bias.data *= 1e-6
        model(torch.randn(8, 4)).sum().backward()
    place = f"{HERE}:{line_of('# the rescale')} in Stage.forward (stages."
    for number in range(3):
        found = beside(divisions, model, f"stages.{number}.proj.weight")
        assert found.place == f"{place}{number})"
        assert found.line == "return out * (rms(x) / (rms(out) + 1e-8))  # the rescale"
        assert (found.smallest < 1e-5) == (number == 1)
        assert (found.largest > 1e5) == (number == 1)
    root = beside(divisions, model, "head.weight")
    assert root.place == f"{HERE}:{line_of('return self.head(x) /')} in Model.forward"


def test_a_function_is_named_with_the_module_that_called_it() -> None:
    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self) -> Tensor:
            return inverse(self.weight)

    def inverse(weight: Tensor) -> Tensor:
        return 1 / weight

    model = nn.Sequential(Caller())
    with Seen(model=model) as divisions:
        model[0]()
    assert ".inverse (0)" in beside(divisions, model, "0.weight").place


def test_of_two_models_with_the_same_names_the_blamed_ones_own_is_told() -> None:
    one, other = Model(1), Model(1)
    other.stages[0].proj.weight.data *= 1e-3
    other.stages[0].proj.bias.data *= 1e-3
    with Seen(generator=one, discriminator=other) as divisions:
        one(torch.randn(8, 4))
        other(torch.randn(8, 4))
    name = "stages.0.proj.weight"
    assert beside(divisions, one, name).smallest > beside(divisions, other, name).smallest * 10


def test_without_a_name_or_a_division_there_is_nothing_beside_it() -> None:
    model = nn.Linear(2, 2)
    with Seen(model=model) as divisions:
        model(torch.ones(2))
    assert divisions.beside("weight", model.parameters()) is None
    assert divisions.beside(None, model.parameters()) is None


class Counting(TorchFunctionMode):
    """A program's own mode."""

    seen = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        return func(*args, **(kwargs or {}))


def test_a_programs_own_modes_stay_where_they_are() -> None:
    x = torch.ones(2, requires_grad=True)
    divisions = Seen().divisions
    with Counting() as around:
        divisions.begin()
        x / x
        inner = Counting()
        inner.__enter__()
        divisions.end()
        assert _get_current_function_mode_stack() == [around, inner]
        inner.__exit__(None, None, None)
    assert around.seen >= 1
    assert only(divisions).smallest == 1.0


def test_begun_twice_or_ended_twice_it_is_there_once_or_not() -> None:
    divisions = Seen().divisions
    divisions.begin()
    divisions.begin()
    assert _get_current_function_mode_stack() == [divisions]
    divisions.end()
    divisions.end()


def test_trouble_of_its_own_switches_it_off_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such device")

    monkeypatch.setattr("hpckit.train.divisions._can_look", fail)
    seen = Seen()
    x = torch.ones(2, requires_grad=True)
    with seen as divisions:
        for _ in range(3):
            assert (x / x).sum().item() == 2.0
    assert seen.told == ["divisions are not looked at any more: RuntimeError: no such device"]
    assert divisions.beside("weight", iter(())) is None


def test_where_torch_has_no_such_modes_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen()
    with monkeypatch.context() as patched:
        patched.setattr("hpckit.train.divisions.STACK", object())
        with seen:
            pass
        with seen:
            pass
    assert len(seen.told) == 1


def test_the_programs_own_errors_are_the_programs() -> None:
    seen = Seen()
    with seen, pytest.raises(RuntimeError, match="must match"):
        torch.ones(2, requires_grad=True) / torch.ones(3)
    assert seen.told == []


def test_results_and_gradients_are_the_same_bits() -> None:
    def gradients() -> list[Tensor]:
        torch.manual_seed(1)
        model = nn.Sequential(Model(), nn.Dropout(0.5))
        loss = functional.normalize(model(torch.randn(8, 4)), dim=0).sum()
        loss.backward()
        return [each.grad for each in model.parameters() if each.grad is not None]

    alone = gradients()
    with Seen():
        watched = gradients()
    assert all(torch.equal(*pair) for pair in zip(alone, watched, strict=True))


def test_within_torch_func_it_looks_at_nothing() -> None:
    seen = Seen()
    with seen as divisions:
        torch.func.grad(lambda x: (1 / x).sum())(torch.ones(2))
        torch.vmap(lambda x: 1 / x)(torch.ones(2, requires_grad=True))
    assert divisions._places == {}
    assert seen.told == []


def test_a_compiled_model_is_left_alone() -> None:
    whole, part = Model(), Model()
    whole.compile(backend="eager")
    part.head = torch.compile(part.head, backend="eager")  # type: ignore[assignment]
    for model in (whole, part):
        with Seen(model=model):
            assert _get_current_function_mode_stack() == []


def test_where_a_function_was_compiled_it_is_not_compiled_anew() -> None:
    """In a process of its own: what was compiled stays so."""
    code = """
import torch
from torch import nn
from hpckit.train.divisions import Divisions
from torch.overrides import _get_current_function_mode_stack as stack
import torch._dynamo
divisions = Divisions({"model": nn.Linear(1, 1)}, print)
divisions.begin()
assert len(stack()) == 1
divisions.end()
torch.compile(lambda x: 1 / x, backend="eager")(torch.ones(2, requires_grad=True))
divisions.begin()
assert stack() == []
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# In a training.


class Rescaled(nn.Module):
    """Its output is brought to a loudness of 1, however little there is of it."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 1, bias=False)
        self.extra = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.out(x)
        scale = 1.0 / (rms(out) + 1e-8)  # what shrinks
        return out * scale + self.extra(x) / (2 + self.extra.weight.square().sum())


class Shrinking(Training):
    """From a step on something beside the gradient makes the weights of one layer small."""

    def __init__(self, run: Any, since: int = 60) -> None:
        super().__init__(
            run,
            epochs=60,
            model=lambda: nn.Sequential(nn.Linear(4, 4), Rescaled()),
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-9),
            schedule=None,
        )
        self.since = since
        self.modes: list[int] = []

    def shrink(self, step: int) -> None:
        self.modes.append(len(_get_current_function_mode_stack()))
        if step >= self.since:
            for each in self.model[1].out.parameters():
                each.data *= 0.5

    def train(self) -> Training:
        return self.go(each=self.shrink)


PLACE = f"{HERE}:{line_of('# what shrinks')} in Rescaled.forward (1)"
LINE = "scale = 1.0 / (rms(out) + 1e-8)  # what shrinks"


def stopped(life: Lives) -> str:
    return str(life.events("stopped")[0].data["reason"])


def test_a_training_that_no_clip_heals_ends_with_the_division_named(life: Lives) -> None:
    run = life.begin(limits={"gpu_hours": 9})
    training = Shrinking(run)
    with pytest.raises(Stopped):
        training.train()
    reason = stopped(life)
    assert reason.startswith("structural: the same growth in 1.out.weight ")
    assert f"The division beside it, {PLACE}: `{LINE}`, was by as little as " in reason
    assert reason.endswith(". Bound it: a clamp on the quotient, or a floor under the divisor")
    told = [Incident.from_json(each.data["incident"]) for each in life.events("incident")]
    acted = [each for each in told if each.acts]
    assert acted[0].division is None
    for each in acted[1:]:
        assert each.division is not None
        assert (each.division.place, each.division.line) == (PLACE, LINE)
        assert each.division.smallest < 0.01
        assert each.division.largest == pytest.approx(1 / each.division.smallest, rel=0.01)
    # Nothing was there before the first of them, and nothing is left.
    assert set(training.modes[: training.since]) == {0}
    assert 1 in training.modes
    life.end()
    found = open_run(life.folder)
    assert found is not None
    text = run_text(describe(facts_of(found), State(state="stopped", reason=reason)))
    assert PLACE in text
    assert LINE in text


def test_whoever_goes_on_after_two_of_them_looks_from_the_first_pass_on(life: Lives) -> None:
    def end_at_the_third(step: int) -> None:
        if len(life.events("rollback")) == 2:
            raise ZeroDivisionError

    first = Shrinking(life.begin())
    with pytest.raises(ZeroDivisionError):
        first.go(each=first.shrink, after=end_at_the_third)
    life.end()
    second = Shrinking(life.begin())
    with pytest.raises(Stopped):
        second.train()
    assert second.modes[0] == 1
    assert f"The division beside it, {PLACE}" in stopped(life)


def test_a_training_that_heals_is_looked_at_only_until_it_is_past_it(life: Lives) -> None:
    run = life.begin(checkpoint={"every": "20 steps", "confirm_steps": 10})
    training = Training(run, epochs=20, schedule=None)
    modes: dict[int, int] = {}
    went_back = []

    def look(step: int) -> None:
        if step < max(modes, default=0):
            went_back.append(step)
        modes[step] = len(_get_current_function_mode_stack())

    training.go(lambda step: 1.0 if step < 80 or went_back else 4.0 ** (step - 79), look)
    assert life.events("rollback")
    seen = max(each.data["incident"]["step"] for each in life.events("rollback"))
    assert {modes[step] for step in range(seen + 11, 150)} == {0}
    assert modes[seen] == modes[seen + 10] == 1


@pytest.mark.parametrize("how", ["error", "break", "return", "held"])
def test_however_the_loop_is_left_nothing_of_it_stays(life: Lives, how: str) -> None:
    run = life.begin()
    training = Shrinking(run)
    batches = run.batches(training.loader, epochs=50)

    def loop(batches: Iterator[Any]) -> None:
        for x, y in batches:
            training.shrink(run.step_number)
            loss = (training.model(x) - y).square().mean()
            training.optimizer.zero_grad()
            loss.backward()
            is_seen = training.modes[-1] == 1
            if is_seen and how == "error":
                raise ZeroDivisionError
            run.step(training.optimizer, loss=loss)
            if is_seen and how == "break":
                break
            if is_seen and how in ("return", "held"):
                return

    held = [batches]
    del batches
    with contextlib.suppress(ZeroDivisionError):
        # Else nobody but the loop has it.
        loop(held[0] if how == "held" else held.pop())
    assert training.modes[-1] == 1
    assert _get_current_function_mode_stack() == []


# As data.


def test_an_incident_with_a_division_comes_back_from_json_and_an_old_one_without() -> None:
    division = Division(place="a.py:1 in f", line="1 / x", smallest=0.0, largest=math.inf)
    made = Incident(kind="explosion", step=3, answer="act", said="x", division=division)
    data = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert data["division"] == {
        "place": "a.py:1 in f",
        "line": "1 / x",
        "smallest": 0.0,
        "largest": "inf",
    }
    assert Incident.from_json(data) == made
    del data["division"]
    assert Incident.from_json(data).division is None

"""What a script registers: saved, found again by its name, and missed where it was forgotten."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from hpckit.checkpoint import manifest
from hpckit.errors import UsageError
from hpckit.train.training import beside
from hpckit.train.tree import CannotSave
from tests.train.conftest import assert_same
from tests.train.inside import Ended, Lives, Training, ends_at, patient, said, straight, strike


def test_what_was_forgotten_is_told_once(life: Lives, capsys: pytest.CaptureFixture[str]) -> None:
    run = life.begin()
    training = Training(run, epochs=4, schedule=None)
    lr_scheduler.ExponentialLR(training.optimizer, 0.9)
    other = nn.Linear(1, 1)
    theirs = torch.optim.SGD(other.parameters(), lr=0.1)
    still = lr_scheduler.ExponentialLR(training.optimizer, 0.9)
    run.register(still=still)

    def step(number: int) -> None:
        other(torch.ones(1, 1)).sum().backward()
        theirs.step()

    training.go(each=step)
    lines = [line for line in said(capsys) if "warning" in line]
    assert lines == [
        "hpckit: warning: an optimizer (SGD) steps that was never registered: it is not saved",
        "hpckit: warning: still was never stepped: the learning rate stays as it is",
    ]


def test_a_schedule_that_was_not_registered_is_told(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    training = Training(life.begin(), epochs=2, schedule=None)
    lr_scheduler.ExponentialLR(training.optimizer, 0.9)
    training.go()
    lines = [line for line in said(capsys) if "warning" in line]
    assert lines == [
        "hpckit: warning: main has a schedule that was never registered: it is not saved"
    ]


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7),
        lambda o: lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)],
            milestones=[5],
        ),
        lambda o: lr_scheduler.ChainedScheduler(
            [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)]
        ),
    ],
)
def test_no_schedule_that_moves_is_said_to_stand_still(
    life: Lives, capsys: pytest.CaptureFixture[str], schedule: Any
) -> None:
    Training(life.begin(), epochs=3, schedule=schedule).go()
    assert not [line for line in said(capsys) if "warning" in line]


def test_a_schedule_by_epoch_is_not_said_to_stand_still_in_a_long_epoch(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin()
    training = Training(run, batches=120, schedule=None)
    schedule = lr_scheduler.ExponentialLR(training.optimizer, 0.5)
    run.register(schedule=schedule)
    for _ in run.epochs(2):
        for x, y in run.batches(training.loader):
            training.optimizer.zero_grad()
            (training.model(x) - y).square().mean().backward()
            run.step(training.optimizer)
        schedule.step()
    assert not [line for line in said(capsys) if "warning" in line]


def test_what_the_checkpoint_has_and_nobody_registered_is_told(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    Training(life.begin(), epochs=1, extra=nn.Linear(2, 2)).go()
    said(capsys)
    Training(life.begin(), epochs=2).go()
    assert [line for line in said(capsys) if "warning" in line] == [
        "hpckit: warning: the checkpoint has 'extra', which is not registered: it is left out"
    ]


def test_what_is_registered_after_the_loop_began_still_gets_its_state(life: Lives) -> None:
    extra = nn.Linear(2, 2)
    Training(life.begin(), epochs=1, extra=extra).go()
    late = nn.Linear(2, 2)
    run = life.begin()
    training = Training(run, epochs=2)
    training.go(each=lambda step: run.register(extra=late))
    assert_same(dict(extra.state_dict()), dict(late.state_dict()))


def test_a_scaler_that_is_only_passed_to_the_step_is_kept_and_harms_no_step(life: Lives) -> None:
    patient(life)

    def train(run: Any, until: int | None = None) -> tuple[Training, list[float]]:
        training = Training(run, epochs=3, schedule=None)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
        norms = []
        for x, y in run.batches(training.loader, epochs=3):
            if run.step_number == until:
                raise Ended
            training.optimizer.zero_grad()
            loss = (training.model(x) - y).square().mean()
            scaler.scale(loss).backward()
            run.step(training.optimizer, loss=loss, scaler=scaler)
            norms.append(float(training.model[0].weight.grad.norm()))
        return training, [*norms, scaler.get_scale()]

    _, expected = train(life.begin())
    life.end()
    life.folder, life.attempt = life.folder.with_name("other"), 0
    with pytest.raises(Ended):
        train(life.begin(), until=25)
    _, found = train(life.begin())
    assert found[:-1] == pytest.approx(expected[20:-1])
    # Its state comes after the first step: that one is missing in the scale's own count.
    assert found[-1] >= expected[-1] / 2


def test_an_optimizer_that_comes_too_late_is_refused(life: Lives) -> None:
    run = life.begin()
    training = Training(run, epochs=1)

    def late(step: int) -> None:
        run.register(other=torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1))

    with pytest.raises(UsageError, match=r"register all of them before run\.batches"):
        training.go(each=late)


def test_without_an_optimizer_it_is_said_what_to_write(life: Lives) -> None:
    run = life.begin()
    run.register(model=nn.Linear(1, 1))
    with pytest.raises(UsageError, match="no optimizer was registered"):
        next(run.batches([1, 2]))


class WithoutRate(torch.optim.Optimizer):
    """One that finds its rate by itself."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": None})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter -= 0.01 * parameter.grad


def adafactor(parameters: Any) -> Any:
    pytest.importorskip("transformers")
    from transformers.optimization import Adafactor

    return Adafactor(parameters)


@pytest.mark.parametrize("optimizer", [WithoutRate, adafactor])
def test_an_optimizer_without_a_rate_is_trained_with_and_gone_on_with(
    life: Lives, optimizer: Any
) -> None:
    expected = straight(life, epochs=3, schedule=None, optimizer=optimizer).weights()
    patient(life)
    with pytest.raises(Ended):
        Training(life.begin(), epochs=3, schedule=None, optimizer=optimizer).go(each=ends_at(25))
    run = life.begin()
    found = Training(run, epochs=3, schedule=None, optimizer=optimizer).go()
    assert found.steps[0] == 20
    assert_same(expected, found.weights())


def test_a_schedule_of_an_optimizer_without_a_rate_plans_none(life: Lives) -> None:
    run = life.begin()
    training = Training(run, epochs=1, optimizer=WithoutRate, schedule=None)
    run.register(schedule=lr_scheduler.ReduceLROnPlateau(training.optimizer))
    training.go()
    assert run._planned.now == {}


# Values.


def test_plain_values_arrays_and_numbers_of_numpy_come_back(life: Lives) -> None:
    run = life.begin()
    run.values |= {
        "text": "a", "none": None, "list": [1, (2, 3)], "nested": {"a": {1: 2.5}},
        "array": numpy.arange(6, dtype="int32").reshape(2, 3), "flags": numpy.array([True, False]),
        "number": numpy.float32(2.5), "tensor": torch.arange(3), "set": {1, 2},
    }  # fmt: skip
    Training(run, epochs=1).go()
    run = life.begin()
    found: dict[str, Any] = {}
    Training(run, epochs=2).go(each=lambda step: found.update(run.values))
    array, flags = found.pop("array"), found.pop("flags")
    assert isinstance(array, numpy.ndarray)
    assert array.dtype == "int32"
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert flags.dtype == bool
    assert flags.tolist() == [True, False]
    assert found.pop("tensor").tolist() == [0, 1, 2]
    assert found == {
        "text": "a", "none": None, "list": [1, (2, 3)], "nested": {"a": {1: 2.5}},
        "number": 2.5, "set": {1, 2},
    }  # fmt: skip


def test_a_value_that_cannot_be_saved_fails_at_the_start_and_says_why(life: Lives) -> None:
    run = life.begin()
    run.values["thing"] = {"inner": object()}
    training = Training(run, epochs=1)
    with pytest.raises(CannotSave, match=r"values\.thing\.inner: object cannot be saved") as error:
        training.go()
    assert training.seen == []
    assert "numbers, texts, lists" in str(error.value.hint)


# Wrapped models.


@pytest.mark.parametrize("first", ["plain", "compiled", "module"])
@pytest.mark.parametrize("second", ["plain", "compiled", "module"])
def test_a_wrapper_around_the_model_is_no_part_of_its_names(
    life: Lives, first: str, second: str
) -> None:
    def wrapped(how: str) -> Any:
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
        if how == "compiled":
            return torch.compile(model, backend="eager")
        return nn.DataParallel(model) if how == "module" else model

    one = Training(life.begin(), epochs=1, model=lambda: wrapped(first)).go()
    saved = life.state(life.wait().all()[-1])["items"]["model"]["state"]
    assert sorted(saved) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    two = Training(life.begin(), epochs=1, model=lambda: wrapped(second)).go()
    assert_same(list(one.weights().values()), list(two.weights().values()))


def test_the_manifest_tells_of_every_tensor(life: Lives) -> None:
    Training(life.begin(), epochs=1).go()
    found = manifest.read(life.wait().all()[-1].path)
    assert found is not None
    assert found.tensors["model.0.weight"] == [[8, 4], "torch.float32"]
    assert found.params == 65


def test_a_value_that_would_come_back_as_another_is_refused_at_the_start(life: Lives) -> None:
    run = life.begin()
    run.values["recent"] = deque(maxlen=3)
    training = Training(run, epochs=1)
    with pytest.raises(
        CannotSave, match=r"^run\.values\.recent: a deque would come back as a list"
    ):
        training.go()
    assert training.seen == []


def test_a_run_whose_optimizer_has_no_rate_goes_back_and_no_rate_is_changed(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    patient(life)
    run = life.begin()
    training = Training(run, epochs=5, schedule=None, optimizer=WithoutRate)
    strike(run, 35, onset=25)
    weights = {}
    training.go(each=lambda step: weights.setdefault(step, []).append(training.weights()))
    lines = said(capsys)
    assert any("back to step 20" in line for line in lines), lines
    assert_same(weights[20][0], weights[20][1])
    assert training.optimizer.param_groups[0]["lr"] is None


def test_a_tensor_of_ones_own_comes_back_to_its_device() -> None:
    there = torch.zeros(3, device="meta")
    assert beside(torch.ones(3), there).device == there.device
    assert beside(torch.ones(3), None).tolist() == [1, 1, 1]
    assert beside(2, there) == 2

"""Loops as people write them: left by break, ended early, one after the other, with slips."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hpckit.errors import UsageError
from hpckit.train import Clip
from hpckit.train.registry import Registry
from tests.train.conftest import assert_same
from tests.train.inside import Lives, Training


def left_by_break(training: Training, after: int) -> None:
    for x, y in training.run.batches(training.loader, epochs=5):
        loss = (training.model(x) - y).square().mean()
        training.optimizer.zero_grad()
        loss.backward()
        training.run.step(training.optimizer, loss=loss)
        training.schedule.step()
        if training.run.step_number + 1 == after:
            break


def test_a_loop_that_is_left_by_break_is_saved_where_it_was_left(life: Lives) -> None:
    run = life.begin(checkpoint={"every": "100d"})
    training = Training(run)
    left_by_break(training, 13)
    run.close()
    saved = life.state(life.checkpoint(13))
    assert_same(saved["items"]["model"]["state"], dict(training.weights()))


def test_an_error_in_the_body_is_no_break(life: Lives) -> None:
    run = life.begin(checkpoint={"every": "100d"})
    training = Training(run)

    def fail(step: int) -> None:
        if step == 13:
            raise KeyError("in the body, after its step")

    with pytest.raises(KeyError):
        training.go(after=fail)
    run.close()
    assert [each.step for each in life.wait().all()] == [0]


def test_a_break_from_an_epoch_s_loop_loses_no_step(life: Lives) -> None:
    run = life.begin()
    training = Training(run, schedule=None)
    for _ in run.epochs(3):
        for number, (x, y) in enumerate(run.batches(training.loader)):
            loss = (training.model(x) - y).square().mean()
            training.optimizer.zero_grad()
            loss.backward()
            run.step(training.optimizer, loss=loss)
            if number == 4:
                break
    assert run.step_number == 15
    assert [each.step for each in life.wait().all()][-1] == 15
    assert not life.events("incident")


def own_epochs(run, until: int | None = None) -> Training:
    """A loop over epochs of one's own, with a schedule's step after each."""
    training = Training(
        run, schedule=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    )
    for _ in range(4):
        for x, y in run.batches(training.loader):
            if run.step_number == until:
                return training
            loss = (training.model(x) - y).square().mean()
            training.optimizer.zero_grad()
            loss.backward()
            run.step(training.optimizer, loss=loss)
        training.schedule.step()
    return training


def test_what_stands_between_two_loops_is_not_done_twice_to_the_state(life: Lives) -> None:
    own_epochs(life.begin(checkpoint={"every": "10 steps"}), until=25)
    life.end()
    again = own_epochs(life.begin(attempt=2))
    assert again.schedule.last_epoch == 4
    whole = own_epochs(life.other().begin())
    assert_same(again.weights(), whole.weights())


def test_a_run_that_was_stopped_stays_so_at_a_restart(life: Lives) -> None:
    run = life.begin()
    Training(run).go(after=lambda step: run.stop() if step == 12 else None)
    life.end()
    again = life.begin(attempt=2)
    assert Training(again).go().seen == []
    assert again.step_number == 13


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": "3"}, "epochs must be a whole number"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"accumulate": 0}, "accumulate must be a whole number from 1"),
        ({"accumulate": None}, "accumulate must be"),
    ],
)
def test_what_is_no_count_is_refused(life: Lives, settings, said) -> None:
    run = life.begin()
    training = Training(run)
    with pytest.raises(UsageError, match=said):
        list(run.batches(training.loader, **{"epochs": 1, **settings}))


def two_at_once(training: Training) -> None:
    for _ in training.run.batches(training.loader, epochs=1):
        next(iter(training.run.batches(training.loader)))


def two_in_an_epoch(training: Training) -> None:
    for _ in training.run.epochs(2):
        for _ in training.run.batches(training.loader):
            pass
        for _ in training.run.batches([1, 2]):
            pass


@pytest.mark.parametrize(
    ("loops", "said"), [(two_at_once, "another loop"), (two_in_an_epoch, "has had its loop")]
)
def test_two_loops_at_once_and_two_in_an_epoch_are_refused(life: Lives, loops, said) -> None:
    training = Training(life.begin())
    with pytest.raises(UsageError, match=said):
        loops(training)


def test_everything_needs_a_name_and_a_clip_an_optimizer(life: Lives) -> None:
    run = life.begin()
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UsageError, match="needs a name"):
        run.register(model)
    with pytest.raises(UsageError, match="must be a norm"):
        run.register(clip="1")
    run.register(model=model, optimizer=optimizer, clip={"optimzer": Clip(1.0)})
    with pytest.raises(UsageError, match="registered as 'optimzer'"):
        list(run.batches([torch.zeros(1)]))


def test_a_step_past_the_run_is_told(life: Lives, capsys: pytest.CaptureFixture[str]) -> None:
    run = life.begin()
    training = Training(run, schedule=None)
    for x, y in run.batches(training.loader):
        (training.model(x) - y).square().mean().backward()
        training.optimizer.step()
    assert capsys.readouterr().err.count("not run.step(optimizer)") == 1


class Odd(nn.Module):
    """Two tensors whose names are one without what DataParallel puts before them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.module = nn.Linear(4, 1, bias=False)


def test_a_model_with_a_part_called_module_keeps_all_its_tensors() -> None:
    registry, other = Registry(), Registry()
    model, twin = Odd(), Odd()
    registry.add("model", model)
    other.add("model", twin)
    other.load(registry.take())
    assert_same(dict(twin.state_dict()), dict(model.state_dict()))

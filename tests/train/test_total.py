"""How many steps a training will have done at its end: what whoever watches it goes by."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader

from hpckit.monitor.readings.reader import read_readings
from hpckit.train.place import Place
from hpckit.train.total import Total
from tests.train.inside import Lives, Training, data


def totals(life: Lives) -> list[float | None]:
    """What each reading said, of all launches."""
    life.end()
    folders = sorted(life.folder.glob("attempts/*/readings/launch-*"))
    return [each.get("progress/total") for folder in folders for each in read_readings(folder)]


@pytest.fixture
def training(life: Lives) -> Training:
    return Training(life.begin(), epochs=3)


def test_each_reading_says_it(life: Lives, training: Training) -> None:
    training.go()
    assert totals(life)[:30] == [30.0] * 30


def test_a_resumed_run_says_the_same(life: Lives) -> None:
    def fail(step: int) -> None:
        if step == 25:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Training(life.begin(), epochs=4).go(each=fail)
    life.end()
    Training(life.begin(), epochs=4).go()
    assert set(totals(life)) <= {40.0, None}


@pytest.mark.parametrize("accumulate", [3, 5, 10])
def test_steps_of_several_batches_are_counted_as_steps(life: Lives, accumulate: int) -> None:
    run = life.begin()
    training = Training(run, epochs=3)
    for parts in run.batches(training.loader, epochs=3, accumulate=accumulate):
        training.optimizer.zero_grad()
        for x, y in parts:
            (training.model(x) - y).square().mean().backward()
        run.step(training.optimizer)
    steps = 3 * -(-10 // accumulate)
    assert run.step_number == steps
    assert totals(life)[:steps] == [float(steps)] * steps


def test_with_epochs_of_its_own_a_loop_says_it_too(life: Lives) -> None:
    run = life.begin()
    training = Training(run)
    for _ in run.epochs(2):
        for x, y in run.batches(training.loader):
            training.optimizer.zero_grad()
            (training.model(x) - y).square().mean().backward()
            run.step(training.optimizer)
    assert totals(life)[:20] == [20.0] * 20


def test_of_a_loader_without_a_length_nobody_knows(life: Lives) -> None:
    class Endless:
        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter(DataLoader(data(), batch_size=8))

    run = life.begin()
    training = Training(run)
    training.loader = Endless()  # type: ignore[assignment]
    training.go()
    assert set(totals(life)) == {None}


def test_batches_that_are_left_out_correct_it_as_they_come() -> None:
    total = Total()

    def after(step: int, taken: int, first: int, epoch: int = 0) -> int | None:
        place = Place(epoch=epoch, taken=taken)
        return total.after(step, place, first=first, length=100, epochs=2)

    assert after(1, 2, 0) == 100
    # Ten batches were left out before this one.
    assert after(2, 14, 2) == 95
    assert after(45, 100, 98) == 95
    assert after(46, 2, 0, epoch=1) == 95


@pytest.mark.parametrize(("taken", "first", "epoch"), [(100, 99, 0), (1, 0, 1)])
def test_a_part_of_a_step_at_an_epochs_end_or_start_is_not_taken_for_one(
    taken: int, first: int, epoch: int
) -> None:
    """A run that was resumed there meets that one first."""
    total = Total()
    total.after(34, Place(epoch=epoch, taken=taken), first=first, length=100, epochs=3)
    whole = Place(epoch=1, taken=7)
    assert total.after(36, whole, first=4, length=100, epochs=3) == 36 + 31 + 34

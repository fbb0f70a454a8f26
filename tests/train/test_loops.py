"""The forms that a loop may have, each going on where it stood."""

from __future__ import annotations

import multiprocessing
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from hpckit.errors import UsageError
from hpckit.train.outside import Outside
from tests.train.conftest import assert_same
from tests.train.inside import Ended, Lives, Training, data, patient, said, strike


def test_a_loop_of_ones_own_is_watched_and_told_once(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin()
    training = Training(run, schedule=None)
    weights = []
    for number, (x, y) in enumerate(training.loader):
        loss = (training.model(x) - y).square().mean() * (float("nan") if number == 4 else 1.0)
        training.optimizer.zero_grad()
        loss.backward()
        run.step(training.optimizer, loss=loss)
        weights.append(training.model[0].weight.detach().clone())
    assert torch.equal(weights[3], weights[4])
    assert not torch.equal(weights[4], weights[5])
    lines = said(capsys)
    assert sum("does not use run.batches" in line for line in lines) == 1
    assert any("step 4: loss nan" in line for line in lines)
    assert life.store.all() == []


def test_loops_one_after_the_other_go_on_in_the_right_one(life: Lives) -> None:
    patient(life)

    def program(run: Any, until: int | None = None) -> list[tuple[str, int]]:
        training, seen = Training(run, schedule=None), []
        for name, epochs in (("first", 2), ("second", 3), ("third", 1)):
            for x, y in run.batches(training.loader, epochs=epochs):
                if run.step_number == until:
                    raise Ended
                seen.append((name, run.step_number))
                training.optimizer.zero_grad()
                (training.model(x) - y).square().mean().backward()
                run.step(training.optimizer)
        return seen

    whole = program(life.begin())
    assert [name for name, _ in whole] == ["first"] * 20 + ["second"] * 30 + ["third"] * 10
    life.end()
    life.folder, life.attempt = life.folder.with_name("other"), 0
    with pytest.raises(Ended):
        program(life.begin(), until=45)
    assert program(life.begin()) == whole[40:]
    assert program(life.begin()) == []


def test_a_validation_in_the_body_is_told_from_a_step_that_does_not_come(life: Lives) -> None:
    """Steps at every third batch of ten: the last pass has none."""
    run = life.begin()
    training, told = Training(run, schedule=None), []

    def loading() -> Iterator[Any]:
        for number, batch in enumerate(training.loader):
            told.append(run.phase)
            yield number, batch

    class Loader:
        __iter__ = staticmethod(loading)
        __len__ = staticmethod(lambda: 10)

    for number, (x, y) in run.batches(Loader(), epochs=1):
        told.append(run.phase)
        (training.model(x) - y).square().mean().backward()
        if number % 3 == 2:
            run.step(training.optimizer)
            told.append(run.phase)
    loaded_and_passed = ["step", "step"]
    assert told == [*3 * loaded_and_passed, "after"] * 3 + ["step", "between"]


def two_loops(run: Any, *, onset: int | None = None, until: int | None = None) -> list[Any]:
    """Two epochs each; struck at step 32, if there is an onset."""
    training = Training(run)
    if onset is not None:
        strike(run, 32, onset=onset)
    places = []
    for loop in (1, 2):
        for x, y in run.batches(training.loader, epochs=2):
            if run.step_number == until:
                raise Ended
            places.append((loop, run.step_number))
            training.optimizer.zero_grad()
            (training.model(x) - y).square().mean().backward()
            run.step(training.optimizer)
    return places


# The trouble may have begun before this loop did: its beginning is as near as one can come.
@pytest.mark.parametrize("onset", [25, 15])
def test_no_rollback_leads_out_of_the_present_loop(life: Lives, onset: int) -> None:
    places = two_loops(life.begin(), onset=onset)
    # Its beginning is good: otherwise the end of the first loop would have been the newest.
    assert life.events("rollback")[0].data["step"] == 20
    # All thirteen batches since then were left out.
    assert [step for loop, step in places if loop == 2] == [*range(20, 33), *range(20, 27)]


def test_a_later_life_knows_where_its_loop_began(life: Lives) -> None:
    patient(life)
    with pytest.raises(Ended):
        two_loops(life.begin(checkpoint={"every": "10 steps", "confirm_steps": 5}), until=31)
    life.wait()
    # A good state of the first loop is there, too.
    assert 10 in {each.step for each in life.store.all() if each.is_good}
    run = life.begin(checkpoint={"every": "10 steps", "confirm_steps": 5})
    places = two_loops(run, onset=15)
    assert life.events("rollback")[0].data["step"] == 20
    assert {loop for loop, _ in places} == {2}
    # Four epochs of ten, less the three batches of this life before the incident.
    assert run.step_number == 37


def test_the_nested_form_repeats_no_tail_and_leaves_none_out(life: Lives) -> None:
    patient(life)

    def program(run: Any, until: int | None = None) -> tuple[list[Any], float]:
        training = Training(run, schedule=None)
        schedule = lr_scheduler.ExponentialLR(training.optimizer, 0.5)
        run.register(schedule=schedule)
        tails = []
        for epoch in run.epochs(5):
            for x, y in run.batches(training.loader):
                if run.step_number == until:
                    raise Ended
                training.optimizer.zero_grad()
                loss = (training.model(x) - y).square().mean()
                loss.backward()
                run.step(training.optimizer, loss=loss)
            schedule.step()
            run.values["tails"] = run.values.get("tails", 0) + 1
            tails.append((epoch, run.step_number, run.values["tails"]))
        return tails, training.optimizer.param_groups[0]["lr"]

    for every in ("20 steps", "1 epoch", "7 steps"):
        life.end()
        life.folder, life.attempt = life.folder.with_name(every.replace(" ", "-")), 0
        with pytest.raises(Ended):
            program(life.begin(checkpoint={"every": every}), until=37)
        tails, rate = program(life.begin())
        assert tails[-1] == (4, 50, 5), every
        assert rate == pytest.approx(0.01 * 0.5**5), every


def test_the_last_pass_of_an_epoch_is_known(life: Lives) -> None:
    run = life.begin()
    training = Training(run, epochs=3)
    ends = []
    training.go(after=lambda step: ends.append(step) if run.epoch_ends else None)
    assert ends == [9, 19, 29]


def test_a_loader_without_length_has_no_known_last_pass(life: Lives) -> None:
    run = life.begin()
    Training(run)

    class Endless:
        def __iter__(self) -> Any:
            return iter([torch.ones(1)] * 3)

    for _ in run.batches(Endless(), epochs=1):
        with pytest.raises(UsageError, match=r"for epoch in run\.epochs"):
            _ = run.epoch_ends
        run.stop()


@pytest.mark.parametrize("by_hand", [True, False])
def test_accumulation_counts_steps_and_goes_on_at_a_whole_one(life: Lives, by_hand: bool) -> None:
    patient(life)

    def program(run: Any, until: int | None = None) -> list[list[float]]:
        training, steps = Training(run, schedule=None), []
        parts: list[Any] = []
        batches = run.batches(training.loader, epochs=4, accumulate=1 if by_hand else 2)
        for taken in batches:
            if run.step_number == until:
                raise Ended
            parts += [taken] if by_hand else taken
            if by_hand and len(parts) < 2:
                continue
            training.optimizer.zero_grad()
            for x, y in parts:
                ((training.model(x) - y).square().mean() / len(parts)).backward()
            run.step(training.optimizer)
            steps.append([float(x[0, 0]) for x, _ in parts])
            parts = []
        assert run.step_number == 20
        return steps

    whole = program(life.begin(checkpoint={"every": "3 steps"}))
    assert len(whole) == 20
    life.end()
    life.folder, life.attempt = life.folder.with_name("other"), 0
    with pytest.raises(Ended):
        program(life.begin(), until=14)
    assert program(life.begin()) == whole[12:]


def test_all_parts_of_a_step_that_is_left_out_are_left_out(life: Lives) -> None:
    run = life.begin(heal={"explosion": {"skip_batches": 1}})
    training = Training(run, schedule=None)
    strike(run, 7)
    parts = 0
    for x, y in run.batches(training.loader, epochs=4):
        parts += 1
        (training.model(x) - y).square().mean().backward()
        if parts == 2:
            run.step(training.optimizer)
            training.optimizer.zero_grad()
            parts = 0
    assert life.events("rollback")[0].data["skipped"] == [[1, 4, 6]]


class Streamed(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter([torch.ones(4), torch.zeros(4)])


class Batches(list[Tensor]):
    """A list that can be asked whether it is still there."""


MADE: dict[str, tuple[Callable[[], Any], int]] = {
    "a data set": (lambda: data(2), 1),
    "a stream": (Streamed, 1),
    "a list": (lambda: Batches([torch.ones(8, 4)] * 2), 0),
}


@pytest.mark.parametrize("kind", MADE)
def test_a_loader_that_is_made_anew_in_every_epoch_leaves_nothing_behind(
    life: Lives, kind: str
) -> None:
    run = life.begin()
    Training(run)
    make, workers = MADE[kind]
    before = len(multiprocessing.active_children())
    made: list[weakref.ref[Any]] = []
    for epoch in run.epochs(4):
        source = make()
        made.append(weakref.ref(source))
        loader = source
        if workers:
            loader = DataLoader(source, batch_size=8, num_workers=1, persistent_workers=True)
        assert len(list(run.batches(loader))) == (1 if kind == "a stream" else 2)
        del source, loader
        # This epoch's own: the run may have to go back into it.
        assert [each() is not None for each in made] == [False] * epoch + [True]
        assert len(multiprocessing.active_children()) - before == workers


def test_a_list_where_another_one_was_is_not_taken_for_it(life: Lives) -> None:
    run = life.begin()
    Training(run)
    for epoch in run.epochs(5):
        assert [float(each) for each in run.batches([torch.tensor(float(epoch))] * 3)] == [
            epoch
        ] * 3


def test_two_loaders_that_take_turns_keep_their_workers_and_their_draws(life: Lives) -> None:
    def program(run: Any) -> tuple[list[float], set[Any]]:
        Training(run)
        seen, workers = [], set()
        x, y = data().tensors
        both = [
            DataLoader(
                TensorDataset(x + 10 * number, y),
                batch_size=8,
                shuffle=True,
                num_workers=1,
                persistent_workers=True,
            )
            for number in range(2)
        ]
        for epoch in run.epochs(6):
            for batch, _ in run.batches(both[epoch % 2]):
                seen.append(float(batch[0, 0]))
                workers |= set(multiprocessing.active_children())
        return seen, workers

    plain, _ = program(Outside({}))
    before = set(multiprocessing.active_children())
    inside, workers = program(life.begin())
    assert inside == plain
    assert len(workers - before) == 2


@pytest.mark.parametrize("made", ["once", "in every epoch", "two by turns"])
def test_a_rollback_over_an_epochs_end_finds_its_data_whoever_has_the_loader(
    life: Lives, made: str
) -> None:
    patient(life)
    life.monkeypatch.setattr("hpckit.train.keeper.MEMORY_EVERY", 7)

    def program(run: Any, *strikes: int) -> tuple[list[float], dict[str, Tensor]]:
        training, seen = Training(run, schedule=None), []
        loaders = [DataLoader(data(), batch_size=8, shuffle=True) for _ in range(2)]
        if strikes:
            strike(run, *strikes, onset=25)
        for epoch in run.epochs(5):
            if made == "in every epoch":
                loaders[0] = DataLoader(data(), batch_size=8, shuffle=True)
            loader = loaders[epoch % 2 if made == "two by turns" else 0]
            for x, y in run.batches(loader):
                seen.append(float(x[0, 0]))
                training.optimizer.zero_grad()
                loss = (training.model(x) - y).square().mean()
                loss.backward()
                run.step(training.optimizer, loss=loss)
        return seen, training.weights()

    plain, weights = program(Outside({}))
    run = life.begin(heal={"explosion": {"change": {}, "skip_batches": 0}})
    seen, found = program(run, 32)
    assert life.events("rollback")[0].data["step"] == 21
    assert seen == plain[:33] + plain[21:]
    assert_same(found, weights)

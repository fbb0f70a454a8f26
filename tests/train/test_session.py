"""A run's lives: each goes on where the one before it stood, with what was changed in it."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from hpckit import requests
from hpckit.checkpoint import manifest
from hpckit.errors import UsageError
from hpckit.monitor.incident import Incident
from hpckit.train.healing import Stopped
from hpckit.train.tree import CannotSave
from tests.train.conftest import assert_same
from tests.train.inside import Lives, Training, said, strike


class Ended(Exception):
    """The program dies here."""


def ends_at(step: int) -> Any:
    def each(now: int) -> None:
        if now == step:
            raise Ended

    return each


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpckit.train.keeper.MEMORY_EVERY", 10)


def patient(life: Lives) -> None:
    """Every checkpoint that is due finds an idle disk."""

    def wait(session: Any) -> None:
        session._keeper.saver.wait()

    life.monkeypatch.setattr("hpckit.train.session.Session._show", wait)


def straight(life: Lives, **settings: Any) -> Training:
    """The same training without any run."""
    from hpckit.train.outside import Outside

    return Training(Outside({}), **settings).go()


# Coming back.


def test_a_second_life_ends_with_the_very_numbers_of_one_that_was_not_cut(life: Lives) -> None:
    patient(life)
    expected = straight(life, epochs=5)
    run = life.begin()
    with pytest.raises(Ended):
        Training(run, epochs=5).go(each=ends_at(33))
    run = life.begin()
    training = Training(run, epochs=5).go()
    assert training.steps == [*range(20, 50)]
    assert_same(expected.weights(), training.weights())
    assert_same(expected.optimizer.state_dict(), training.optimizer.state_dict())
    assert [each.data["step"] for each in life.events("resumed")] == [0, 20]


def test_a_life_after_the_end_has_nothing_to_do(life: Lives) -> None:
    first = Training(life.begin(), epochs=2).go()
    second = Training(life.begin(), epochs=2).go()
    assert second.seen == []
    assert_same(first.weights(), second.weights())


def test_changes_of_two_rollbacks_pile_up_and_are_in_force_in_the_next_life(life: Lives) -> None:
    patient(life)
    given = {"weight": 8.0}
    change = {"clip": "x0.5", "lr": "x0.5", "params.weight": "x0.5"}
    run = life.begin(given=given, heal={"explosion": {"change": change, "skip_batches": 1}})
    training = Training(run, epochs=9, clip=1.0)
    strike(run, 35, 52)
    with pytest.raises(Ended):
        training.go(each=ends_at(75))
    saved = life.wait().on_branch()[-1]
    assert (saved.step, saved.changes) == (60, 2)

    run = life.begin()
    assert run.params["weight"] == 2.0
    training = Training(run, epochs=9, clip=1.0).go()
    watched = run.stepper.watched["main"]
    # Each was in force when it was saved: they are not applied twice.
    assert (watched.rate, watched.clip.norm) == (0.25, 0.25)
    assert run.params["weight"] == 2.0
    assert life.wait().on_branch()[-1].changes == 2


def test_a_change_that_no_checkpoint_knows_yet_is_applied_when_the_run_comes_back(
    life: Lives,
) -> None:
    patient(life)
    run = life.begin(heal={"explosion": {"skip_batches": 1}})
    strike(run_of(run, clip=1.0).run, 35)
    with pytest.raises(Ended):
        run_go(run, ends_at(34), after_rollbacks=1)
    assert life.wait().on_branch()[-1].changes == 0

    run = life.begin()
    training = Training(run, epochs=6, clip=1.0).go()
    watched = run.stepper.watched["main"]
    assert (watched.rate, watched.clip.norm) == (0.5, 0.5)
    assert training.steps[0] == 20


def run_of(run: Any, **settings: Any) -> Training:
    run.training = Training(run, epochs=6, **settings)
    found: Training = run.training
    return found


def run_go(run: Any, each: Any, *, after_rollbacks: int) -> None:
    """Train, and ask `each` only when the run has gone back so often."""
    run.training.go(each=lambda s: each(s) if len(run.healer.plans) >= after_rollbacks else None)


def test_batches_that_are_left_out_stay_so_when_the_run_dies_right_after_it_went_back(
    life: Lives,
) -> None:
    patient(life)
    run = life.begin(heal={"explosion": {"skip_batches": 4}})
    strike(run_of(run).run, 35)
    with pytest.raises(Ended):
        run_go(run, ends_at(22), after_rollbacks=1)
    assert life.events("rollback")[0].data["skipped"] == [[3, 2, 6]]

    run = life.begin()
    training = Training(run, epochs=6).go()
    # Sixty batches in all, less the four.
    assert training.steps == [*range(20, 56)]


def test_a_life_that_dies_between_an_incident_and_its_answer_goes_to_a_good_state(
    life: Lives,
) -> None:
    patient(life)
    run = life.begin()
    training = Training(run, epochs=6)
    strike(run, 35, onset=15)

    def dies(*args: Any) -> None:
        raise Ended

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpckit.train.returning.Returning._target", dies)
        with pytest.raises(Ended):
            training.go()
    # 20 is newer, and what is newer than the onset may be damaged.
    assert Training(life.begin(), epochs=6).go().steps[0] == 0


def test_a_state_is_confirmed_by_the_steps_of_several_lives(life: Lives) -> None:
    patient(life)
    run = life.begin(checkpoint={"every": "20 steps", "confirm_steps": 30})
    with pytest.raises(Ended):
        Training(run, epochs=8).go(each=ends_at(45))
    assert [each.is_good for each in life.wait().on_branch()] == [True, False, False]
    run = life.begin()
    with pytest.raises(Ended):
        Training(run, epochs=8).go(each=ends_at(55))
    found = {each.step: each.confirmed_at for each in life.wait().on_branch()}
    assert found == {0: 0, 20: 50, 40: None}


def test_right_after_a_good_state_was_loaded_there_is_one_to_go_back_to(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    patient(life)
    run = life.begin()
    with pytest.raises(Ended):
        Training(run, epochs=8).go(each=ends_at(35))
    run = life.begin()
    training = Training(run, epochs=8)
    strike(run, 24, onset=22)
    training.go()
    assert life.events("rollback")[0].data["step"] == 20


def test_old_lives_that_still_write_are_not_believed(life: Lives) -> None:
    patient(life)
    run = life.begin()
    with pytest.raises(Ended):
        Training(run, epochs=8).go(each=ends_at(35))
    old = run
    life.sessions.clear()
    run = life.begin()
    with pytest.raises(Ended):
        Training(run, epochs=8).go(each=ends_at(25))
    # The first one wakes up again, and saves its step 35.
    old._keep("every")
    old._keeper.saver.wait()
    old.close()
    assert [each.step for each in life.wait().on_branch()] == [0, 20]
    assert Training(life.begin(), epochs=8).go().steps[0] == 20


# What is damaged or does not fit.


def test_the_newest_is_torn_and_the_next_one_is_taken_and_both_are_named(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    patient(life)
    with pytest.raises(Ended):
        Training(life.begin(), epochs=8).go(each=ends_at(45))
    torn = life.checkpoint(40).path / "state.pt"
    whole = torn.read_bytes()
    torn.write_bytes(whole[:-100] + bytes(100))
    said(capsys)
    training = Training(life.begin(), epochs=8).go()
    assert training.steps[0] == 20
    lines = said(capsys)
    assert any(
        "step-00000040.a1-l1 is damaged: state.pt has a wrong checksum" in line
        and "set aside as step-00000040.a1-l1.damaged" in line
        for line in lines
    )
    assert any("going on from step 20" in line for line in lines)


def test_all_are_damaged_and_the_training_begins_anew(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    patient(life)
    with pytest.raises(Ended):
        Training(life.begin(), epochs=3).go(each=ends_at(25))
    for each in life.wait().all():
        (each.path / "rank-0.pt").unlink()
    training = Training(life.begin(), epochs=3).go()
    assert training.steps[0] == 0
    assert sum("rank-0.pt is missing" in line for line in said(capsys)) == 2


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            lambda: nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 1)),
            r"0\.weight has shape \(9, 4\), it was saved with \(8, 4\)",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1), nn.BatchNorm1d(1)),
            r"it lacks 2\.bias, 2\.num_batches_tracked, 2\.running_mean and 2 more",
        ),
        (lambda: nn.Sequential(nn.Linear(4, 8)), r"the model has no 1\.bias, 1\.weight"),
    ],
)
def test_another_model_is_refused_and_the_tensor_is_named(
    life: Lives, model: Any, words: str
) -> None:
    def first() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))

    Training(life.begin(), epochs=1, model=first).go()
    with pytest.raises(UsageError, match=words) as error:
        Training(life.begin(), epochs=2, model=model).go()
    assert error.value.exit_code == 1
    assert error.value.hint


def test_another_number_of_groups_is_refused(life: Lives) -> None:
    Training(life.begin(), epochs=1).go()

    def two(parameters: Any) -> Any:
        listed = list(parameters)
        groups = [{"params": listed[:2]}, {"params": listed[2:]}]
        return torch.optim.AdamW(groups, lr=0.01)

    with pytest.raises(UsageError, match=r"optimizer main: its groups have \[2, 4\] parameters"):
        Training(life.begin(), epochs=2, optimizer=two).go()


# What a person changes in the script.


@pytest.mark.parametrize(
    "schedule",
    [
        None,
        lambda o: lr_scheduler.LambdaLR(o, lambda step: min(1.0, step / 15)),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 50),
        lambda o: lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.LinearLR(o, 0.1, total_iters=5), lr_scheduler.CosineAnnealingLR(o, 45)],
            milestones=[5],
        ),
    ],
    ids=["none", "warm up from nothing", "cosine", "sequence"],
)
def test_another_learning_rate_in_the_script_is_followed_and_told(
    life: Lives, capsys: pytest.CaptureFixture[str], schedule: Any
) -> None:
    patient(life)
    rates = {}

    def noted(training: Training) -> Any:
        def note(step: int) -> None:
            rates[step] = training.optimizer.param_groups[0]["lr"]

        return note

    whole = Training(life.begin(attempt=1), epochs=5, lr=0.003, schedule=schedule)
    whole.go(each=noted(whole))
    expected = dict(rates)
    rates.clear()
    life.end()
    life.folder = life.folder.with_name("other")
    life.attempt = 0

    first = Training(life.begin(), epochs=5, lr=0.01, schedule=schedule)
    with pytest.raises(Ended):
        first.go(each=ends_at(25))
    said(capsys)
    second = Training(life.begin(), epochs=5, lr=0.003, schedule=schedule)
    second.go(each=noted(second))
    assert min(rates) == 20
    for step, rate in rates.items():
        assert rate == pytest.approx(expected[step]), step
    assert any("the script says 0.003" in line for line in said(capsys))


def test_another_clip_in_the_script_is_followed(life: Lives) -> None:
    Training(life.begin(), epochs=1, clip=1.0).go()
    run = life.begin()
    Training(run, epochs=2, clip=3.0).go()
    assert run.stepper.watched["main"].clip.norm == 3.0


# What is registered, and what is not.


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


# Forms of the loop.


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


def test_no_rollback_leads_out_of_the_present_loop(life: Lives) -> None:
    run = life.begin()
    training = Training(run)
    strike(run, 32, onset=25)
    places = []
    for loop in (1, 2):
        for x, y in run.batches(training.loader, epochs=2):
            places.append((loop, run.step_number))
            training.optimizer.zero_grad()
            (training.model(x) - y).square().mean().backward()
            run.step(training.optimizer)
    # Its beginning is good: otherwise the end of the first loop would have been the newest.
    assert life.events("rollback")[0].data["step"] == 20
    # All thirteen batches since then were left out.
    assert [step for loop, step in places if loop == 2] == [*range(20, 33), *range(20, 27)]


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


# What a person asks for.


def test_stop_ends_the_loop_after_this_pass_and_saves(life: Lives) -> None:
    run = life.begin()
    training = Training(run, epochs=5)
    training.go(each=lambda step: run.stop() if step == 13 else None)
    assert training.steps[-1] == 13
    assert life.checkpoint(14).why == "end"


def test_save_and_a_request_save_at_this_step_and_serve_it(life: Lives) -> None:
    life.monkeypatch.setattr(requests, "LOOK_S", 0.0)
    run = life.begin(checkpoint={"every": "1000 steps"})
    training = Training(run, epochs=5)
    asked = []

    def ask(step: int) -> None:
        if step == 7:
            run.save()
        if step == 21:
            asked.append(requests.ask(life.folder, requests.SAVE))

    training.go(each=ask)
    assert not asked[0].exists()
    found = {each.step: each.why for each in life.wait().all()}
    assert found == {0: "start", 8: "request", 22: "request", 50: "end"}


def test_the_best_state_is_kept_with_its_metric(life: Lives) -> None:
    run = life.begin(checkpoint={"every": "1000 steps", "keep": 1, "confirm_steps": 1000})
    training = Training(run, epochs=5)
    answers = []

    def look(step: int) -> None:
        if step % 10 == 9:
            answers.append(run.best([5.0, 3.0, 4.0, float("nan"), 3.5][step // 10], name="mos"))

    training.go(after=look)
    assert answers == [True, True, False, False, False]
    best = [each for each in life.wait().all() if each.best][-1]
    assert (best.step, best.metrics) == (20, {"mos": 3.0})


def test_sigterm_saves_at_this_step_and_ends_with_143(life: Lives) -> None:
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *args: heard.append(args))
    try:
        run = life.begin(checkpoint={"every": "1000 steps"})
        training = Training(run, epochs=5)
        with pytest.raises(SystemExit) as end:
            training.go(
                each=lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 17 else None
            )
        assert end.value.code == 143
        assert heard, "the program's own handler hears of it, too"
        assert training.steps[-1] == 17
        assert life.checkpoint(18).why == "time limit"
        assert Training(life.begin(), epochs=5).go().steps[0] == 18
    finally:
        signal.signal(signal.SIGTERM, before)


def test_after_the_loop_sigterm_does_what_it_did_before(life: Lives) -> None:
    before = signal.getsignal(signal.SIGTERM)
    Training(life.begin(), epochs=1).go()
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_after_the_last_pass_ends_the_program_with_all_saved(life: Lives) -> None:
    run = life.begin()
    training = Training(run, schedule=None)

    def program() -> None:
        for _ in run.epochs(1):
            for x, y in run.batches(training.loader):
                training.optimizer.zero_grad()
                (training.model(x) - y).square().mean().backward()
                run.step(training.optimizer)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as end:
        program()
    assert end.value.code == 143
    assert life.checkpoint(10).why == "end"


def test_a_loop_on_another_thread_runs(life: Lives) -> None:
    training = Training(life.begin(), epochs=1)
    thread = threading.Thread(target=training.go)
    thread.start()
    thread.join()
    assert len(training.seen) == 10


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


def test_a_rule_that_is_stopped_by_policy_leaves_no_half_open_incident(life: Lives) -> None:
    run = life.begin(heal={"explosion": {"do": "stop"}})
    training = Training(run, epochs=3)
    strike(run, 15)
    with pytest.raises(Stopped):
        training.go()
    assert Incident.from_json(life.events("incident")[0].data["incident"]).step == 15
    # Whoever begins it again goes on with the newest state.
    assert Training(life.begin(), epochs=3).go().seen != []

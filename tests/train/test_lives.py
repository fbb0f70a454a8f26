"""A run's lives: each goes on where the one before it stood, with what was changed in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hpckit.errors import UsageError
from tests.train.conftest import assert_same
from tests.train.inside import Ended, Lives, Training, ends_at, patient, said, straight, strike

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
    run.training.go(each=lambda s: each(s) if len(run.healer.in_force) >= after_rollbacks else None)


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

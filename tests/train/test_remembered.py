"""What was found, changed and left out is remembered: over rollbacks, deaths and loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from hpckit.checkpoint import manifest
from tests.train.conftest import assert_same
from tests.train.inside import Ended, Lives, Training, data, ends_at, patient, said, strike


def go(training: Training, at: int, *, after_rollbacks: int) -> None:
    """Train, and die at a step, when the run has gone back so often."""

    def each(step: int) -> None:
        if step == at and len(training.run.healer.in_force) >= after_rollbacks:
            raise Ended

    training.go(each=each)


def test_a_clip_that_was_introduced_is_the_same_in_the_next_life(life: Lives) -> None:
    """Of a checkpoint of before, the detectors know less than they did."""
    spec = {"checkpoint": {"every": "1000 steps", "confirm_steps": 10}}
    other = life.other()
    whole = Training(other.begin(**spec), epochs=12)
    strike(whole.run, 90, onset=88)
    whole.go()
    first = Training(life.begin(**spec), epochs=12)
    strike(first.run, 90, onset=88)
    with pytest.raises(Ended):
        go(first, 85, after_rollbacks=1)
    (clip,) = (each for each in life.events("rollback")[0].data["changed"] if "clip" in each)
    assert clip.startswith("clip none -> ")
    second = Training(life.begin(), epochs=12)
    second.go()
    assert second.steps[0] == 0
    found, wanted = (each.run.stepper.watched["main"] for each in (second, whole))
    assert found.clip.norm == wanted.clip.norm is not None
    assert found.rate == wanted.rate == 0.5


def test_who_dies_while_coming_back_leaves_it_to_the_next_life(life: Lives) -> None:
    patient(life)
    first = Training(life.begin(), epochs=6)
    strike(first.run, 35, onset=33)

    def dies(*args: Any, **more: Any) -> None:
        raise Ended

    for where in ("Returning._target", "Returning._load"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"hpckit.train.returning.{where}", dies)
            with pytest.raises(Ended):
                (first if where == "Returning._target" else Training(life.begin())).go()
    assert not life.events("rollback")
    third = Training(life.begin(), epochs=6).go()
    assert [each.data["step"] for each in life.events("rollback")] == [20]
    assert third.run.stepper.watched["main"].rate == 0.5


def test_a_plan_that_finds_no_checkpoint_is_carried_out_all_the_same(life: Lives) -> None:
    first = Training(life.begin(), epochs=6)
    strike(first.run, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpckit.train.returning.Returning._target", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            first.go()
    for each in life.wait().all():
        manifest.set_aside(each)
    second = Training(life.begin(), epochs=6).go()
    assert second.steps == [*range(60)]
    assert second.run.stepper.watched["main"].rate == 0.5


def test_what_is_asked_for_while_steps_are_replayed_is_done(life: Lives) -> None:
    patient(life)
    run = life.begin(checkpoint={"every": "10 steps", "confirm_steps": 10, "keep": 30})
    training = Training(run, epochs=12)
    strike(run, 78, onset=25)

    def each(step: int) -> None:
        if step == 43 and run.healer.in_force:
            run.save()

    training.go(each=each)
    again = [each.step for each in life.wait().on_branch() if each.segment.rollbacks == 1]
    assert again[:4] == [30, 40, 44, 54]


def test_every_epoch_is_saved_whatever_the_disk_does_and_after_a_rollback_too(
    life: Lives,
) -> None:
    # Each epoch's end meets the confirmation of the one before it.
    run = life.begin(
        checkpoint={"every": "1 epoch", "confirm_steps": 10, "keep": 30},
        heal={"explosion": {"skip_batches": 0}},
    )
    training = Training(run, epochs=8)
    strike(run, 55, onset=25)
    training.go()
    back = life.events("rollback")[0].data["step"]
    assert back <= 20
    found = {each.segment.rollbacks: [] for each in life.wait().all()}
    for each in life.store.all():
        found[each.segment.rollbacks].append(each.step)
    assert found[0] == [0, *range(10, back + 1, 10)]
    assert found[1][:3] == [back + 10, back + 20, back + 30]


def test_left_out_batches_of_an_epoch_that_is_gone_back_to_stay_out(life: Lives) -> None:
    """Though the epoch was over, and its windows with it, when the second incident came."""
    from hpckit.train.outside import Outside

    run = life.begin(
        checkpoint={"every": "1000 steps", "confirm_steps": 10},
        heal={"explosion": {"skip_batches": 3, "limit": 9}},
    )
    training = Training(run, epochs=8)
    strike(run, 36, onset=25)
    strike(run, 42, onset=25)
    training.go()
    first, second = life.events("rollback")
    assert first.data["skipped"] == [[3, 4, 7]]
    back = second.data["step"]
    assert back <= 20
    whole = [number for _, number in Training(Outside({}), epochs=4).go().seen]
    begin = [i for i, step in enumerate(training.steps) if step == back][-1]
    again = [number for _, number in training.seen[begin : begin + 37 - back]]
    assert again == whole[back:34] + whole[37:40]


def test_one_good_state_further_back_is_another_one(life: Lives) -> None:
    """Of those in memory and those on disk together."""
    patient(life)
    run = life.begin(
        checkpoint={"every": "20 steps", "confirm_steps": 10},
        heal={"explosion": {"limit": 9, "skip_batches": 0}},
    )
    training = Training(run, epochs=8)
    strike(run, 35)
    strike(run, 36)
    strike(run, 37)
    training.go()
    steps = [each.data["step"] for each in life.events("rollback")]
    assert steps == [20, 10, 0]


def test_a_state_that_a_told_incident_puts_in_doubt_stays_so_in_the_next_life(
    life: Lives,
) -> None:
    patient(life)
    spec = {"heal": {"explosion": {"do": "tell"}}}
    first = Training(life.begin(**spec), epochs=8)
    strike(first.run, 45, onset=35)
    with pytest.raises(Ended):
        first.go(each=ends_at(48))
    second = Training(life.begin(), epochs=8)
    with pytest.raises(Ended):
        second.go(each=ends_at(75))
    assert {each.step: each.is_good for each in life.wait().on_branch()} == {
        20: True, 40: False, 60: True,
    }  # fmt: skip


def test_steps_that_were_held_back_delay_a_state_also_in_the_next_life(life: Lives) -> None:
    patient(life)
    run = life.begin(checkpoint={"every": "20 steps", "confirm_steps": 30, "keep": 9})
    broken = (24, 29, 34)
    with pytest.raises(Ended):
        Training(run, epochs=8).go(
            factor=lambda step: math.nan if step in broken else 1.0, each=ends_at(45)
        )
    with pytest.raises(Ended):
        Training(life.begin(), epochs=8).go(each=ends_at(52))
    # Of the thirty steps after it three were none.
    assert not life.checkpoint(20).is_good
    with pytest.raises(Ended):
        Training(life.begin(), epochs=8).go(each=ends_at(55))
    assert life.checkpoint(20).is_good


def test_what_is_told_puts_a_state_on_the_disk_in_doubt(life: Lives) -> None:
    patient(life)
    run = life.begin(
        checkpoint={"every": "20 steps", "confirm_steps": 10, "keep": 9},
        heal={"explosion": {"do": "tell"}},
    )
    training = Training(run, epochs=6)
    strike(run, 45, onset=35)
    training.go()
    good = {each.step: each.is_good for each in life.wait().all()}
    assert good == {0: True, 20: True, 40: False, 60: False}


def test_bad_steps_of_a_branch_that_was_left_do_not_count(life: Lives) -> None:
    run = life.begin(checkpoint={"every": "1000 steps", "confirm_steps": 10})
    training = Training(run, epochs=8)
    strike(run, 35, onset=25)
    broken = {30: torch.nan, 31: torch.nan}
    training.go(
        factor=lambda step: broken.pop(step, 1.0),
        each=lambda step: run._keeper.bad_steps and None,
    )
    assert run._keeper.bad_steps == []


def test_states_of_a_branch_that_was_left_are_forgotten(life: Lives) -> None:
    patient(life)
    run = life.begin(checkpoint={"every": "20 steps", "confirm_steps": 30, "keep": 9})
    training = Training(run, epochs=6)
    strike(run, 55, onset=15)
    found: list[Any] = []

    def each(step: int) -> None:
        if run.healer.in_force and not found:
            waiting = [each.step for each in run._keeper.saver.undecided]
            found.append(([each.step for each in run._keeper.ring.all], waiting))

    training.go(each=each)
    back = life.events("rollback")[0].data["step"]
    ((ring, waiting),) = found
    assert max(ring) == back
    assert all(step <= back for step in waiting)


def test_the_rate_that_is_told_is_that_of_the_state_that_is_gone_back_to(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin(checkpoint={"every": "1000 steps", "confirm_steps": 10})
    training = Training(run, epochs=6)
    strike(run, 35, onset=25)
    training.go()
    at = 0.01 * 0.99**20
    (changed,) = (x for x in life.events("rollback")[0].data["changed"] if x.startswith("lr"))
    assert changed == f"lr {at:.6g} -> {at / 2:.6g}"


def test_a_rate_is_set_to_what_was_said_and_scheduled_on_from_there(life: Lives) -> None:
    run = life.begin(
        checkpoint={"every": "1000 steps", "confirm_steps": 10},
        heal={"explosion": {"change": {"lr": "=0.002"}}},
    )
    training = Training(run, epochs=6)
    strike(run, 35, onset=25)
    training.go()
    (changed,) = (x for x in life.events("rollback")[0].data["changed"] if x.startswith("lr"))
    assert changed == f"lr {0.01 * 0.99**20:.6g} -> 0.002"
    assert run.stepper.watched["main"].rate == pytest.approx(0.002 / (0.01 * 0.99**20))


# Several loops.


def test_the_start_of_a_loop_is_good_only_when_all_is_calm(life: Lives) -> None:
    run = life.begin(
        checkpoint={"every": "1000 steps", "confirm_steps": 10}, heal={"explosion": {"do": "tell"}}
    )
    training = Training(run, epochs=2)
    strike(run, 15, onset=12)
    training.go()
    training.go()
    first = next(each for each in run._keeper.ring.all if each.step == 20)
    assert first.good is not False
    goods = {each.step: each.is_good for each in life.wait().on_branch()}
    assert goods[20] is False or life.checkpoint(20).confirmed_at != 20

    other = life.other()
    run = other.begin(checkpoint={"every": "1000 steps", "confirm_steps": 10})
    training = Training(run, epochs=2)
    training.go()
    training.epochs = 3
    strike(run, 23, onset=21)
    training.go()
    assert other.events("rollback")[0].data["step"] == 20
    # On the disk, too, though the end of the first loop had written it already.
    assert other.checkpoint(20).confirmed_at == 20


def test_further_back_ends_at_the_loops_own_start(life: Lives) -> None:
    run = life.begin(
        checkpoint={"every": "1000 steps", "confirm_steps": 10},
        heal={"explosion": {"limit": 9, "skip_batches": 0}},
    )
    training = Training(run, epochs=4)
    training.go()
    strike(run, 65, onset=62)
    strike(run, 66, onset=62)
    strike(run, 67, onset=62)
    strike(run, 68, onset=62)
    training.go()
    steps = [each.data["step"] for each in life.events("rollback")]
    assert steps == [50, 40, 40, 40]


def test_loops_without_any_epoch_do_no_harm(life: Lives) -> None:
    run = life.begin()
    training = Training(run, epochs=0)
    for _ in range(20):
        training.go()
    training.epochs = 2
    training.go()
    assert training.steps == [*range(20)]


# What is told, and what is not.


def test_a_body_that_does_not_always_step_is_not_said_to_step_elsewhere(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin()
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run.register(model=model, optimizer=optimizer)
    for number, (x, y) in enumerate(run.batches(DataLoader(data(), batch_size=8), epochs=3)):
        loss = (model(x) - y).square().mean()
        loss.backward()
        if number % 3 == 2:
            run.step(optimizer, loss=loss)
            optimizer.zero_grad()
    assert run.step_number == 10
    assert not [line for line in said(capsys) if "optimizer.step() was called" in line]


def test_two_scalers_that_are_only_passed_to_the_step_are_both_kept(life: Lives) -> None:
    run = life.begin()
    torch.manual_seed(0)
    models = [torch.nn.Linear(4, 1) for _ in range(2)]
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.01) for each in models]
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**n) for n in (4, 6)]
    run.register(a=models[0], b=models[1], opt_a=optimizers[0], opt_b=optimizers[1])
    for x, y in run.batches(DataLoader(data(), batch_size=8), epochs=2):
        for model, optimizer, scaler in zip(models, optimizers, scalers, strict=True):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            scaler.scale(loss).backward()
            run.step(optimizer, loss=loss, scaler=scaler)
    items = life.state(life.checkpoint(20))["own"]["items"]
    assert {name: items[name]["state"]["scale"] for name in items} == {
        "scaler": 64.0, "scaler_2": 16.0,
    }  # fmt: skip


def test_skipped_batches_are_counted_and_not_steps(life: Lives) -> None:
    run = life.begin(
        checkpoint={"every": "1000 steps", "confirm_steps": 2},
        heal={"explosion": {"skip_batches": 6}},
    )
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run.register(model=model, optimizer=optimizer)
    strike(run, 13, onset=12)
    loader = DataLoader(data(12), batch_size=8)
    for batches in run.batches(loader, epochs=6, accumulate=3):
        loss = sum((model(x) - y).square().mean() for x, y in batches)
        optimizer.zero_grad()
        loss.backward()
        run.step(optimizer, loss=loss)
    (back,) = life.events("rollback")
    assert sum(last - first for _, first, last in back.data["skipped"]) == 6


def test_an_end_that_is_not_on_the_disk_is_in_the_ledger(life: Lives) -> None:
    run = life.begin(checkpoint={"every": "1000 steps"})
    training = Training(run, epochs=2)

    def full(path: Any, part: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    life.monkeypatch.setattr("hpckit.train.saving.PATIENCE_S", 0.0)
    training.go(
        each=lambda step: (
            life.monkeypatch.setattr("hpckit.train.writing._written", full) if step == 10 else None
        )
    )
    (event,) = life.events("unsaved")
    assert event.data["step"] == 20
    assert "No space left" in event.data["reason"]
    assert_same(training.weights(), training.weights())


def test_memory_is_made_again_when_a_second_optimizer_has_had_its_first_turn(life: Lives) -> None:
    run = life.begin(checkpoint={"every": "1000 steps"})
    torch.manual_seed(0)
    models = [torch.nn.Linear(4, 1) for _ in range(2)]
    optimizers = [torch.optim.Adam(each.parameters(), lr=0.01) for each in models]
    run.register(a=models[0], b=models[1], opt_a=optimizers[0], opt_b=optimizers[1])
    lengths = []
    for x, y in run.batches(DataLoader(data(), batch_size=8), epochs=6):
        for number, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            if number == 0 or run.step_number % 5 == 4:
                optimizer.zero_grad()
                loss = (model(x) - y).square().mean()
                loss.backward()
                run.step(optimizer, loss=loss)
        lengths.append(run._keeper.taker.buffers.length)
    assert lengths[1] is not None
    # Two parameters, three numbers for each.
    assert lengths[-1] == lengths[1] + 6
    assert {len(each) for each in run._keeper.taker.buffers._free} == {lengths[-1]}

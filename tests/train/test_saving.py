"""Disks that fill up, folders that vanish, files that tear: the training goes on, and says so."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpckit.checkpoint import manifest, retention
from hpckit.checkpoint.manifest import Word
from hpckit.train import saving, writing
from hpckit.train.saving import Saver
from hpckit.train.writing import Writer
from tests.train.inside import Lives, Training, lives, said


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that failed is tried again as soon as possible, and the loop waits for each."""
    monkeypatch.setattr("hpckit.train.keeper.PAUSE_S", 0.0)

    def wait(session: Any) -> None:
        session._keeper.saver.wait()

    monkeypatch.setattr("hpckit.train.session.Session._show", wait)


def whole(life: Lives) -> list[int]:
    """Steps of the checkpoints, of which every one can be loaded."""
    for each in life.wait().all():
        assert manifest.problem(each) is None
        assert life.state(each)["step"] == each.step
    return [each.step for each in life.store.all()]


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in said(capsys) if "could not be written" in line]


def test_a_full_disk_costs_a_checkpoint_and_no_step_and_the_next_one_works(
    small_disk: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    disk = small_disk("2m")
    made = lives(disk / "run", monkeypatch)
    life = next(made)
    run = life.begin(checkpoint={"every": "10 steps", "confirm_steps": 5})
    training = Training(run, epochs=6)
    filler = disk / "filler"

    def fill(step: int) -> None:
        if step == 15:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(4096))
        if step == 25:
            assert not (disk / "run" / "checkpoints" / "step-00000020.a1-l1").exists()
            filler.unlink()

    training.go(each=fill)
    assert training.steps == [*range(60)]
    everything = said(capsys)
    lines = [line for line in everything if "could not be written" in line]
    # Full for ten steps, tried at nearly each of them: one story.
    assert len(lines) == 1
    assert "checkpoint of step 20 could not be written" in lines[0]
    assert "No space left on device" in lines[0]
    assert "the training goes on without it" in lines[0]
    found = whole(life)
    assert 60 in found
    assert any(line.startswith("hpckit: checkpoints can be written again") for line in everything)
    made.close()


def test_a_checkpoint_that_is_not_needed_makes_room_on_a_full_disk(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    """Retention runs at each save already: only one that is abandoned can be in the way."""
    run = life.begin(checkpoint={"every": "1000 steps", "confirm_steps": 5, "keep": 1})
    training = Training(run, epochs=4)
    write, failed = writing._written, []
    useless = life.folder / "checkpoints" / "step-00000999.a1-l1"

    def full(path: Path, part: Any) -> dict[str, int]:
        if "00000021" in str(path) and not failed:
            failed.append(path)
            # One that was given up, further on than the run is now: it waits for its step.
            shutil.copytree(life.folder / "checkpoints" / "step-00000000.a1-l1", useless)
            (useless / "manifest.json").rename(useless / "abandoned.json")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, part)

    life.monkeypatch.setattr(writing, "_written", full)
    training.go(each=lambda step: run.save() if step == 20 else None)
    assert failed
    assert not useless.exists()
    assert told(capsys) == []
    assert 21 in whole(life) or 40 in whole(life)


def test_a_file_in_place_of_the_folder_is_told_and_the_training_ends_well(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin(checkpoint={"every": "1000 steps"})
    (life.folder / "checkpoints").write_text("in the way")
    training = Training(run, epochs=2).go()
    assert len(training.seen) == 20
    lines = told(capsys)
    # It is tried again and again, and told once; and once more when nothing comes after it.
    assert len(lines) == 2
    assert all("checkpoints" in line and "Not a directory" in line for line in lines)
    assert "will be lost" in lines[1]
    assert "will be lost" not in lines[0]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO, errno.ESTALE])
def test_whatever_a_disk_refuses_is_told_in_its_words_and_the_next_save_works(
    life: Lives, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    import os

    run = life.begin(checkpoint={"every": "10 steps", "keep": 9})
    write = writing._written

    def refuse(path: Path, part: Any) -> dict[str, int]:
        if "00000010" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return write(path, part)

    life.monkeypatch.setattr(writing, "_written", refuse)
    Training(run, epochs=3).go()
    lines = told(capsys)
    assert len(lines) == 1
    assert "of step 10 could not be written" in lines[0]
    assert os.strerror(number) in lines[0]
    assert any(10 < step < 20 for step in whole(life))
    assert not (life.folder / "checkpoints" / "step-00000010.a1-l1").exists()


def test_an_error_of_torchs_own_while_it_writes_is_told_and_the_next_save_works(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin(checkpoint={"every": "10 steps", "keep": 9})
    save = torch.save

    def refuse(part: Any, path: Any, *rest: Any, **more: Any) -> None:
        if "00000010" in str(path):
            raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos 64 vs 0")
        save(part, path, *rest, **more)

    life.monkeypatch.setattr(torch, "save", refuse)
    Training(run, epochs=3).go()
    lines = told(capsys)
    assert len(lines) == 1
    assert "unexpected pos" in lines[0]
    assert any(10 < step < 20 for step in whole(life))


def test_a_run_folder_that_vanishes_ends_no_training(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin(checkpoint={"every": "10 steps"})
    training = Training(run, epochs=5)

    def vanish(step: int) -> None:
        if step == 15:
            life.folder.rename(life.folder.with_name("elsewhere"))
        if step == 33:
            life.folder.with_name("elsewhere").rename(life.folder)

    training.go(each=vanish)
    assert training.steps == [*range(50)]
    lines = told(capsys)
    assert lines
    assert all("the run's folder is gone" in line for line in lines)
    assert 50 in whole(life)


def test_the_same_trouble_is_not_told_at_every_step(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin(checkpoint={"every": "5 steps"})
    training = Training(run, epochs=6)
    training.go(each=lambda s: life.folder.rename(f"{life.folder}-x") if s == 12 else None)
    lines = [line for line in told(capsys) if "is gone" in line]
    assert ["tries again" in line for line in lines] == [True, False]


def test_a_save_that_is_whole_stays_though_old_ones_cannot_be_looked_at(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin(checkpoint={"every": "10 steps", "confirm_steps": 5, "keep": 9})

    def refuse(*args: Any) -> Any:
        raise OSError(errno.ESTALE, "Stale file handle")

    life.monkeypatch.setattr("hpckit.checkpoint.retention.to_delete", refuse)
    Training(run, epochs=3).go()
    assert whole(life) == [0, 10, 20, 30, 30]
    assert [each.is_good for each in life.store.all()] == [True, True, True, False, False]
    lines = said(capsys)
    assert len([line for line in lines if "old checkpoints could not be looked at" in line]) >= 1
    assert not [line for line in lines if "failed" in line or "could not be written" in line]


def test_the_last_save_waits_for_room_and_says_nothing_of_it(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    life.monkeypatch.setattr(saving, "PATIENCE_S", 0.01)
    run = life.begin(checkpoint={"every": "1000 steps"})
    write, refused = writing._written, []

    def full(path: Path, part: Any) -> dict[str, int]:
        if "00000020" in str(path) and len(refused) < saving.LAST_CHANCES - 1:
            refused.append(path)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, part)

    life.monkeypatch.setattr(writing, "_written", full)
    Training(run, epochs=2).go()
    assert len(refused) == saving.LAST_CHANCES - 1
    assert whole(life) == [0, 20]
    assert told(capsys) == []


def test_with_two_saves_on_their_way_a_third_waits(life: Lives) -> None:
    writer = Writer(store=life.store, rank=0, world_size=1)
    made = Saver(writer=writer, rules=retention.Rules(), tell=print, drop=print)
    go_on, done = threading.Event(), []

    def slow(task: Any) -> None:
        assert go_on.wait(30)
        done.append(task)

    life.monkeypatch.setattr(made, "_save", slow)
    tasks: list[Any] = ["first", "second", "third"]
    for task in tasks[:2]:
        made.save(task)
    third = threading.Thread(target=made.save, args=tasks[2:])
    third.start()
    third.join(0.2)
    assert third.is_alive()
    assert done == []
    go_on.set()
    third.join(30)
    made.close()
    assert done == tasks


def test_a_saver_that_cannot_even_tell_goes_on(life: Lives) -> None:
    def mute(text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = Writer(store=life.store, rank=0, world_size=1)
    made = Saver(writer=writer, rules=retention.Rules(), tell=mute, drop=print)
    life.monkeypatch.setattr(made, "_save", lambda task: mute(""))
    life.monkeypatch.setattr(threading, "excepthook", lambda args: None)
    task: Any = "one"
    made.save(task)
    made.wait()
    assert made.is_idle


def test_a_folder_that_vanishes_is_told_and_made_anew(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin(checkpoint={"every": "10 steps"})

    def move(step: int) -> None:
        run._keeper.saver.wait()
        if step == 25:
            (life.folder / "checkpoints").rename(life.folder / "away")

    Training(run, epochs=4).go(each=move)
    assert [each.step for each in life.wait().all()] == [30, 40]
    told = [line for line in said(capsys) if "is gone" in line]
    assert len(told) == 1
    assert f"{life.folder}/checkpoints is gone" in told[0]


def test_nobody_waits_for_a_rank_when_another_ones_files_will_not_come(life: Lives) -> None:
    folder = life.folder / "checkpoints" / "step-00000010.a1-l1"
    folder.mkdir(parents=True)
    # Of rank 2 there is no word at all.
    Word(files={}, finite=False, failed="No space left on device").write(folder, 1)
    life.monkeypatch.setattr(writing, "WORDS_S", 2.0)
    with pytest.raises(OSError, match="rank 1: No space left on device"):
        Writer(store=life.store, rank=0, world_size=3)._others(folder)


def test_nothing_half_written_counts(life: Lives) -> None:
    """Every moment of a save: what is there then is no checkpoint, or a whole one."""
    moments: list[str] = []
    run = life.begin(checkpoint={"every": "10 steps", "confirm_steps": 5})
    training = Training(run, epochs=3)
    write, rename = writing._written, manifest.write

    def look(what: str) -> None:
        for each in life.store.all():
            assert manifest.problem(each) is None, what
        moments.append(what)

    def written(path: Path, part: Any) -> dict[str, int]:
        look(f"before {path.name}")
        found = write(path, part)
        look(f"after {path.name}")
        return found

    def concluded(made: Any) -> None:
        look("before the manifest")
        rename(made)
        look("after the manifest")

    life.monkeypatch.setattr(writing, "_written", written)
    life.monkeypatch.setattr(manifest, "write", concluded)
    training.go()
    life.wait()
    assert {"before state.pt", "after rank-0.pt", "before the manifest"} <= set(moments)


def test_what_a_dead_life_left_half_written_is_cleaned_away(life: Lives) -> None:
    Training(life.begin(), epochs=1).go()
    half = life.folder / "checkpoints" / "step-00000015.a1-l1"
    half.mkdir()
    (half / "state.pt").write_bytes(b"half")
    training = Training(life.begin(), epochs=2).go()
    assert training.steps[0] == 10
    assert not half.exists()


def test_a_mark_that_cannot_be_written_is_tried_again(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin(checkpoint={"every": "20 steps", "confirm_steps": 5, "keep": 9})
    confirm, refusals = manifest.confirm, [0]

    def refuse(checkpoint: Any, step: int) -> Any:
        if checkpoint.step == 20 and refusals[0] < 3:
            refusals[0] += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return confirm(checkpoint, step)

    life.monkeypatch.setattr(manifest, "confirm", refuse)
    Training(run, epochs=4).go()
    assert life.checkpoint(20).is_good
    # Once more after a save that worked in between, and not at each of the tries.
    assert 1 <= sum("could not be marked as good" in line for line in said(capsys)) <= 2


def test_anybody_can_load_it_with_weights_only(life: Lives) -> None:
    Training(life.begin(), epochs=1).go()
    path = life.wait().all()[-1].path
    state = torch.load(path / "state.pt", weights_only=True)
    assert state["format"] == 1
    assert state["items"]["model"]["state"]["0.weight"].shape == (8, 4)
    json.loads((path / "manifest.json").read_text())


def test_the_loop_does_not_wait_for_a_slow_disk(life: Lives) -> None:
    life.monkeypatch.setattr("hpckit.train.session.Session._show", lambda session: None)
    run = life.begin(checkpoint={"every": "10 steps", "keep": 9})
    go_on, reached = threading.Event(), []
    write = writing._written

    def slow(path: Path, part: Any) -> dict[str, int]:
        if "00000010" in str(path):
            go_on.wait(30)
        return write(path, part)

    life.monkeypatch.setattr(writing, "_written", slow)

    def free(step: int) -> None:
        if step == 5:
            # The one of the start.
            run._kept.saver.wait()
        if step == 28:
            reached.append(step)
            go_on.set()

    Training(run, epochs=3).go(each=free)
    # It came so far while the disk held the checkpoint of step 10.
    assert reached == [28]
    saved = life.state(life.checkpoint(10))
    assert saved["step"] == 10
    assert float(saved["items"]["main"]["state"]["state"][0]["step"]) == 10


def test_what_is_written_is_the_state_of_its_step_and_not_of_a_later_one(life: Lives) -> None:
    life.monkeypatch.setattr("hpckit.train.session.Session._show", lambda session: None)
    run = life.begin(checkpoint={"every": "10 steps", "keep": 9})
    training, copies = Training(run, epochs=5), {}
    write = writing._written

    def slow(path: Path, part: Any) -> dict[str, int]:
        threading.Event().wait(0.02)
        return write(path, part)

    life.monkeypatch.setattr(writing, "_written", slow)
    training.go(each=lambda step: copies.__setitem__(step, training.weights()))
    found = life.wait().all()
    assert len(found) >= 2
    for each in found:
        if each.step in copies:
            saved = life.state(each)["items"]["model"]["state"]
            for name, value in copies[each.step].items():
                assert torch.equal(saved[name], value), (each.step, name)


def test_a_state_that_is_not_finite_is_told_and_never_good(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin(checkpoint={"every": "10 steps", "confirm_steps": 5})
    training = Training(run, epochs=3)

    def spoil(step: int) -> None:
        if step == 9:
            training.model[4].bias.data.fill_(float("inf"))
        if step == 10:
            training.model[4].bias.data.fill_(0.0)

    training.go(each=spoil)
    bad = life.checkpoint(10)
    assert (bad.finite, bad.is_good) == (False, False)
    assert "model" in str(bad.bad)
    assert "4.bias" in str(bad.bad)
    assert any("step 10 is not finite" in line for line in said(capsys))


def test_the_end_and_the_best_hold_what_came_after_the_last_step(life: Lives) -> None:
    """An average of the weights, a validation: what a program does at an epoch's end."""
    run = life.begin(checkpoint={"every": "5 steps", "confirm_steps": 5, "keep": 30})
    training = Training(run, epochs=3)
    for epoch in run.epochs(3):
        for x, y in run.batches(training.loader):
            loss = (training.model(x) - y).square().mean()
            training.optimizer.zero_grad()
            loss.backward()
            run.step(training.optimizer, loss=loss)
        run.values["seen"] = epoch
        run.best(1.0 + abs(epoch - 1))
    on = life.wait().on_branch()
    (best,) = [each for each in on if each.best and each.step == 20]
    assert (best.why, best.metrics) == ("best", {"metric": 1.0})
    assert life.state(best)["own"]["values"] == {"seen": 1}
    assert (on[-1].step, on[-1].why) == (30, "end")
    assert life.state(on[-1])["own"]["values"] == {"seen": 2}
    # Of one step the newest is enough.
    assert len({each.step for each in on}) == len(on)


def test_every_file_is_on_the_disk_before_the_manifest(life: Lives) -> None:
    done: list[str] = []
    sync, write = os.fsync, manifest.write

    def synced(descriptor: int) -> None:
        sync(descriptor)
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    def concluded(made: Any) -> None:
        assert {"state.pt", "rank-0.pt", made.name} <= set(done)
        done.clear()
        write(made)

    life.monkeypatch.setattr(os, "fsync", synced)
    life.monkeypatch.setattr(manifest, "write", concluded)
    Training(life.begin(checkpoint={"every": "10 steps"}), epochs=2).go()
    assert len(life.wait().all()) >= 2


def test_an_end_that_is_written_after_all_is_not_said_to_be_lost(life: Lives) -> None:
    run = life.begin(checkpoint={"every": "1000 steps"})
    training = Training(run, epochs=1)
    write, broken = writing._written, [True]

    def full(path: Path, part: Any) -> Any:
        if broken[0] and "00000010" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, part)

    life.monkeypatch.setattr(writing, "_written", full)
    training.go()
    assert [each.data["step"] for each in life.events("unsaved")] == [10]
    broken[0] = False
    training.go()
    assert [each.data["step"] for each in life.events("unsaved")] == [10]

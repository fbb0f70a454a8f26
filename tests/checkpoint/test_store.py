"""Which checkpoint a run goes on from, on a disk where everything may have happened."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hpckit.checkpoint import manifest, retention
from hpckit.checkpoint.manifest import Checkpoint
from hpckit.checkpoint.names import Segment
from hpckit.checkpoint.search import Search
from tests.checkpoint.made import FIRST, SECOND, begin, make, steps, store_of

AFTER_ROLLBACK = Segment(1, 1, 1)


@pytest.fixture
def told() -> list[str]:
    return []


def flip(checkpoint: Checkpoint, name: str = "state.pt") -> None:
    data = bytearray((checkpoint.path / name).read_bytes())
    data[-1] ^= 128
    (checkpoint.path / name).write_bytes(data)


def test_no_folder_is_no_checkpoints(tmp_path: Path, told: list[str]) -> None:
    store = store_of(tmp_path)
    assert store.all() == store.on_branch() == store.parted()[1] == []
    assert store.incomplete() == store.damaged() == []
    assert store.newest_intact(told.append) is None
    assert store.newest_good(None, 0, told.append) is None
    (tmp_path / "checkpoints").write_text("not even a folder")
    assert store.all() == []


def test_they_come_oldest_first_by_step_then_segment(tmp_path: Path) -> None:
    make(tmp_path, 100, SECOND)
    make(tmp_path, 1000)
    make(tmp_path, 100)
    make(tmp_path, 20)
    found = store_of(tmp_path).all()
    assert [(each.step, each.segment) for each in found] == [
        (20, FIRST),
        (100, FIRST),
        (100, SECOND),
        (1000, FIRST),
    ]


def test_what_else_lies_there_is_no_checkpoint(tmp_path: Path) -> None:
    made = make(tmp_path, 1)
    shutil.copytree(made.path, made.path.with_name("my-copy"))
    shutil.copytree(made.path, made.path.with_name("step-00000001.a1-l1.damaged"))
    (made.path.parent / "notes.txt").write_text("hello")
    assert store_of(tmp_path).all() == [made]


def test_the_newest_intact_one_is_taken(tmp_path: Path, told: list[str]) -> None:
    make(tmp_path, 1, good=2)
    newest = make(tmp_path, 2)
    assert store_of(tmp_path).newest_intact(told.append) == newest
    assert told == []


def test_damaged_ones_are_set_aside_told_and_passed_over(tmp_path: Path, told: list[str]) -> None:
    intact = make(tmp_path, 1)
    flip(make(tmp_path, 2))
    os.truncate(make(tmp_path, 3).path / "state.pt", 12)
    store = store_of(tmp_path)
    assert store.newest_intact(told.append) == intact
    assert told == [
        "checkpoint step-00000003.a1-l1 is damaged: state.pt has 12 of 40 bytes; "
        "set aside as step-00000003.a1-l1.damaged",
        "checkpoint step-00000002.a1-l1 is damaged: state.pt has a wrong checksum; "
        "set aside as step-00000002.a1-l1.damaged",
    ]
    assert steps(store.all()) == [1]
    assert len(store.damaged()) == 2


def test_where_all_are_damaged_there_is_none(tmp_path: Path, told: list[str]) -> None:
    flip(make(tmp_path, 1))
    assert store_of(tmp_path).newest_intact(told.append) is None
    assert len(told) == 1


def test_one_that_died_while_it_was_written_is_passed_over(tmp_path: Path, told: list[str]) -> None:
    whole = make(tmp_path, 1)
    dying = make(tmp_path, 2)
    (dying.path / "manifest.json").unlink()
    store = store_of(tmp_path)
    assert store.newest_intact(told.append) == whole
    assert store.incomplete() == [dying.path]
    assert told == []


def test_a_torn_manifest_is_passed_over(tmp_path: Path, told: list[str]) -> None:
    whole = make(tmp_path, 1)
    os.truncate(make(tmp_path, 2).path / "manifest.json", 30)
    assert store_of(tmp_path).newest_intact(told.append) == whole
    name = "step-00000002.a1-l1"
    wrong = "manifest.json makes no sense"
    assert told == [f"checkpoint {name} is damaged: {wrong}; set aside as {name}.damaged"]


def test_a_zombie_is_not_believed(tmp_path: Path, told: list[str]) -> None:
    begin(tmp_path, FIRST, 0)
    make(tmp_path, 500)
    begin(tmp_path, SECOND, 500)
    own = make(tmp_path, 600, SECOND)
    # The first attempt's node was given up for lost, and lives.
    make(tmp_path, 700, FIRST, good=900)
    store = store_of(tmp_path)
    assert steps(store.on_branch()) == [500, 600]
    assert steps(store.parted()[1]) == [700]
    assert store.newest_intact(told.append) == own


def test_a_branch_that_was_rolled_back_does_not_count(tmp_path: Path) -> None:
    begin(tmp_path, FIRST, 0)
    for step in (100, 200, 300):
        make(tmp_path, step, good=step)
    begin(tmp_path, AFTER_ROLLBACK, 100, "rollback")
    store = store_of(tmp_path)
    assert steps(store.on_branch()) == [100]
    make(tmp_path, 200, AFTER_ROLLBACK)
    assert [each.segment for each in store.on_branch()] == [FIRST, AFTER_ROLLBACK]
    assert steps(store.parted()[1]) == [200, 300]


def test_an_abandoned_one_is_off_the_branch_and_not_incomplete(tmp_path: Path) -> None:
    gone = make(tmp_path, 200)
    manifest.abandon(gone)
    store = store_of(tmp_path)
    assert store.all() == []
    assert steps(store.parted()[1]) == [200]
    assert store.incomplete() == []


def test_the_newest_good_one_is_not_after_the_onset(tmp_path: Path, told: list[str]) -> None:
    for step in (0, 100, 200, 300):
        make(tmp_path, step, good=step + 50)
    make(tmp_path, 400)
    store = store_of(tmp_path)

    def taken(before: int | None, back: int = 0) -> int | None:
        found = store.newest_good(before, back, told.append)
        return None if found is None else found.step

    assert taken(None) == 300
    assert taken(250) == 200
    assert taken(200) == 200
    assert taken(199) == 100
    assert taken(250, back=1) == 100
    assert taken(250, back=2) == 0
    # There are not so many: the oldest.
    assert taken(250, back=9) == 0
    assert taken(-1) is None
    assert told == []


def test_one_that_is_not_finite_is_no_way_back(tmp_path: Path, told: list[str]) -> None:
    make(tmp_path, 100, good=200)
    make(tmp_path, 200, good=300, finite=False)
    found = store_of(tmp_path).newest_good(None, 0, told.append)
    assert found is not None
    assert found.step == 100


def test_of_damaged_good_ones_the_next_older_is_taken(tmp_path: Path, told: list[str]) -> None:
    made = {step: make(tmp_path, step, good=step + 50) for step in (0, 100, 200, 300)}
    flip(made[200])
    found = store_of(tmp_path).newest_good(None, 1, told.append)
    assert found is not None
    assert found.step == 100
    assert len(told) == 1


def test_if_all_that_is_older_is_damaged_one_less_far_back_is_taken(
    tmp_path: Path, told: list[str]
) -> None:
    made = {step: make(tmp_path, step, good=step + 50) for step in (0, 100, 200, 300)}
    flip(made[0])
    flip(made[100])
    found = store_of(tmp_path).newest_good(None, 2, told.append)
    assert found is not None
    assert found.step == 200
    assert len(told) == 2


def meddle(monkeypatch: pytest.MonkeyPatch, how: Callable[[Checkpoint], object]) -> None:
    """Another process does something to the newest between our listing and our reading."""
    look = Search.on_branch

    def on_branch(self: Search) -> list[Checkpoint]:
        found = look(self)
        how(found[-1])
        return found

    monkeypatch.setattr(Search, "on_branch", on_branch)


def test_what_another_process_set_aside_meanwhile_is_passed_over(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    older = make(tmp_path, 1)
    flip(make(tmp_path, 2))
    meddle(monkeypatch, manifest.set_aside)
    assert store_of(tmp_path).newest_intact(told.append) == older
    assert told == []
    assert len(store_of(tmp_path).damaged()) == 1


def test_what_is_being_deleted_is_not_damaged(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    older = make(tmp_path, 1)
    make(tmp_path, 2)

    def half_deleted(newest: Checkpoint) -> None:
        (newest.path / "manifest.json").unlink()
        (newest.path / "state.pt").unlink()

    meddle(monkeypatch, half_deleted)
    assert store_of(tmp_path).newest_intact(told.append) == older
    assert told == []
    assert store_of(tmp_path).damaged() == []


def test_a_damaged_one_that_cannot_be_renamed_is_told_and_passed_over(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    older = make(tmp_path, 1)
    flip(make(tmp_path, 2))

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    assert store_of(tmp_path).newest_intact(told.append) == older
    assert told == [
        "checkpoint step-00000002.a1-l1 is damaged: state.pt has a wrong checksum; "
        "it cannot be renamed: Permission denied"
    ]


def test_what_vanishes_at_the_last_moment_was_told_by_another(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    older = make(tmp_path, 1)
    flip(make(tmp_path, 2))
    monkeypatch.setattr(manifest, "set_aside", lambda found: None)
    assert store_of(tmp_path).newest_intact(told.append) == older
    assert told == []


def take(run: Path, answers: multiprocessing.Queue[tuple[int | None, int]]) -> None:
    said: list[str] = []
    found = store_of(run).newest_intact(said.append)
    answers.put((None if found is None else found.step, len(said)))


def test_two_processes_at_once_take_the_same_and_tell_each_damage_once(tmp_path: Path) -> None:
    make(tmp_path, 1)
    for step in range(2, 22):
        flip(make(tmp_path, step))
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[tuple[int | None, int]] = context.Queue()
    processes = [context.Process(target=take, args=(tmp_path, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert [step for step, _ in found] == [1] * 4
    assert sum(count for _, count in found) == 20
    assert len(store_of(tmp_path).damaged()) == 20


def delete_all(run: Path) -> None:
    for found in store_of(run).all():
        if found.step > 1:
            retention.delete(found)


def test_taking_while_another_process_deletes_never_fails(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    make(tmp_path, 1)
    for _ in range(5):
        for step in range(2, 30):
            make(tmp_path, step)
        process = context.Process(target=delete_all, args=(tmp_path,))
        process.start()
        while process.is_alive():
            assert store_of(tmp_path).newest_intact(lambda text: None) is not None
        process.join()
        assert process.exitcode == 0
        assert steps(store_of(tmp_path).all()) == [1]
        for left in store_of(tmp_path).damaged():
            shutil.rmtree(left)


def test_the_whole_folder_may_vanish(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, 1)
    make(tmp_path, 2)

    meddle(monkeypatch, lambda newest: shutil.rmtree(newest.path.parent))
    assert store_of(tmp_path).newest_intact(told.append) is None
    assert told == []

"""Checkpoints of programs that know nothing of hpckit: found, chosen, and moved out of the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hpckit.checkpoint import half, manifest, put_aside
from hpckit.checkpoint.own_sets import OwnSets, as_argument
from hpckit.errors import CannotWrite, HpckitError, UsageError

HIFI = ("cp/g_{step}", "cp/do_{step}")
FOLDERS = ("checkpoint-{step}/",)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "work" / "cp").mkdir(parents=True)
    return tmp_path


def save(run: Path, *paths: str, at: float | None = None, data: bytes = b"weights") -> None:
    for path in paths:
        file = run / "work" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        if at is not None:
            os.utime(file, (at, at))


def save_hifi(run: Path, *steps: int, at: float | None = None) -> None:
    for step in steps:
        save(run, f"cp/g_{step:08d}", f"cp/do_{step:08d}", at=at)


def own(run: Path, patterns: tuple[str, ...] = HIFI) -> OwnSets:
    return OwnSets.of_run(run, patterns)


def steps(found: OwnSets) -> list[int]:
    return [each.step for each in found.sets()]


def left(run: Path) -> list[str]:
    work = run / "work"
    return sorted(str(p.relative_to(work)) for p in work.rglob("*") if p.is_file())


def put(run: Path) -> list[str]:
    """What lies in set-aside, without the folders that tell when."""
    found = [p.relative_to(run / "set-aside").parts for p in (run / "set-aside").rglob("*")]
    return sorted("/".join(p[1:]) for p in found if len(p) > 1 and p[-1] != put_aside.ABOUT)


# What is a set


def test_files_of_one_step_are_one_set_and_the_newest_is_last(run: Path) -> None:
    save_hifi(run, 12000, 300)
    save(run, "cp/notes.txt", "cp/g_", "cp/g_12x", "cp/xg_12", "g_12", "cp/g_12.tmp")
    old, new = own(run).sets()
    assert (old.step, new.step) == (300, 12000)
    assert new.paths == new.tops == ("cp/g_00012000", "cp/do_00012000")
    assert new.complete


def test_where_nothing_was_saved_there_are_no_sets(tmp_path: Path) -> None:
    assert own(tmp_path).sets() == []
    assert own(tmp_path).newest() is None
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "cp").write_text("not even a folder")
    assert own(tmp_path).sets() == []
    assert own(tmp_path).go_back(None, why="a try") == []
    assert not (tmp_path / "set-aside").exists()


def test_zeros_in_front_of_a_number_say_nothing(run: Path) -> None:
    save(run, "cp/g_7", "cp/do_0007", "cp/g_10", "cp/do_010")
    assert [(each.step, each.complete) for each in own(run).sets()] == [(7, True), (10, True)]


def test_two_spellings_of_one_step_are_one_set(run: Path) -> None:
    save(run, "cp/g_7", "cp/g_007", "cp/do_7")
    (found,) = own(run).sets()
    assert sorted(found.tops) == ["cp/do_7", "cp/g_007", "cp/g_7"]


def test_signs_of_a_glob_or_an_expression_stand_for_themselves(run: Path) -> None:
    save(run, "cp/a*[1].b+_5.pt", "cp/axx1.b+_6.pt", "cp/a*[1]xb+_7.pt")
    assert steps(own(run, ("cp/a*[1].b+_{step}.pt",))) == [5]


def test_other_digits_than_ours_are_no_number(run: Path) -> None:
    save(run, "cp/g_٣")
    assert own(run, ("cp/g_{step}",)).sets() == []


def test_an_epoch_counts_as_well(run: Path) -> None:
    save(run, "cp/e3.pt", "cp/e12.pt")
    found = own(run, ("./cp//e{epoch}.pt",))
    assert (steps(found), found.counter) == ([3, 12], "epoch")
    assert own(run).counter == "step"


def test_a_folder_that_carries_the_step_is_moved_as_one(run: Path) -> None:
    save(run, "out/checkpoint-5/model.pt", "out/checkpoint-5/a/rng.pth", "out/checkpoint-5/x.txt")
    found = own(run, ("out/checkpoint-{step}/model.pt", "out/checkpoint-{step}/a/rng.pth"))
    (one,) = found.sets()
    assert one.paths == ("out/checkpoint-5/model.pt", "out/checkpoint-5/a/rng.pth")
    assert one.tops == ("out/checkpoint-5",)
    assert found.go_back(None, why="a try") == ["out/checkpoint-5"]
    assert left(run) == []
    assert "out/checkpoint-5/x.txt" in put(run)


def test_a_step_that_stands_twice_is_the_same_both_times(run: Path) -> None:
    save(run, "s5/g_5-5.pt", "s6/g_6-7.pt", "s7/g_8-8.pt")
    assert [each.complete for each in own(run, ("s{step}/g_{step}-{step}.pt",)).sets()] == [
        True,
        False,
        False,
    ]
    save(run, "cp/g_5-5", "cp/g_6-7")
    assert steps(own(run, ("cp/g_{step}-{step}",))) == [5]


def test_a_folder_without_what_the_pattern_wants_in_it_is_an_incomplete_set(run: Path) -> None:
    save(run, "checkpoint-5/model.pt")
    (run / "work" / "checkpoint-6").mkdir()
    found = own(run, ("checkpoint-{step}/model.pt",))
    assert [(each.step, each.complete) for each in found.sets()] == [(5, True), (6, False)]
    assert found.go_back(found.newest(), why="a try") == ["checkpoint-6"]
    assert not (run / "work" / "checkpoint-6").exists()


def test_links_are_no_checkpoints_and_stay(run: Path, tmp_path: Path) -> None:
    save(run, "cp/g_5", "checkpoint-6/model.pt", "checkpoint-7/notes.txt")
    work = run / "work"
    (tmp_path / "elsewhere").write_bytes(b"weights")
    (work / "cp" / "g_9").symlink_to(tmp_path / "elsewhere")
    (work / "cp" / "g_8").symlink_to("g_5")
    (work / "checkpoint-8").symlink_to(tmp_path)
    (work / "checkpoint-7" / "model.pt").symlink_to(tmp_path / "elsewhere")
    save(run, "deep/6/in/model.pt", "deep/7/a")
    (work / "deep" / "7" / "in").symlink_to(work / "deep" / "6" / "in")
    assert steps(own(run, ("cp/g_{step}",))) == [5]
    deep = own(run, ("checkpoint-{step}/model.pt",)).sets()
    assert [(each.step, each.complete) for each in deep] == [(6, True), (7, False)]
    deep = own(run, ("deep/{step}/in/model.pt",)).sets()
    assert [(each.step, each.complete) for each in deep] == [(6, True), (7, False)]
    own(run, ("cp/g_{step}",)).go_back(None, why="a try")
    assert (work / "cp" / "g_9").is_symlink()


def test_a_folder_that_leads_out_of_the_working_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "g_5").write_bytes(b"weights")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "cp").symlink_to(tmp_path / "ours")
    with pytest.raises(HpckitError, match=r"leads out of the working folder, to .*/ours"):
        own(tmp_path, ("cp/g_{step}",)).sets()
    (tmp_path / "work" / "inside").mkdir()
    (tmp_path / "work" / "inside" / "g_5").write_bytes(b"weights")
    (tmp_path / "work" / "link").symlink_to("inside")
    assert steps(own(tmp_path, ("link/g_{step}",))) == [5]


# What is complete


def test_a_set_of_which_a_file_is_missing_is_not_complete(run: Path) -> None:
    save_hifi(run, 1)
    save(run, "cp/g_2")
    whole, cut = own(run).sets()
    assert (whole.complete, cut.complete) == (True, False)
    assert cut.problem == "nothing matches cp/do_{step}"


def zipped(tmp_path: Path) -> bytes:
    """What torch.save writes is a zip file without compression."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("archive/data.pkl", b"pickle" * 20)
        archive.writestr("archive/data/0", bytes(200))
    return (tmp_path / "a.zip").read_bytes()


def tensors() -> bytes:
    header = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(16)


def test_a_zip_file_is_half_wherever_it_was_cut(tmp_path: Path) -> None:
    data, file = zipped(tmp_path), tmp_path / "g_5"
    for size in range(4, len(data)):
        file.write_bytes(data[:size])
        assert half.is_half(file, size), size
    file.write_bytes(data)
    assert not half.is_half(file, len(data))


def test_a_zip_file_with_a_comment_is_whole(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "g_5", "w") as archive:
        archive.writestr("a", b"b")
        archive.comment = b"by hand" * 5000
    size = (tmp_path / "g_5").stat().st_size
    assert not half.is_half(tmp_path / "g_5", size)
    os.truncate(tmp_path / "g_5", size - 1)
    assert half.is_half(tmp_path / "g_5", size - 1)


def test_the_end_of_a_zip_file_within_a_zip_file_is_not_its_end(tmp_path: Path) -> None:
    inner, file = zipped(tmp_path), tmp_path / "g_5"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("inner.npz", inner)
        archive.writestr("more", bytes(500))
    cut = file.read_bytes().index(inner) + len(inner) + 40
    os.truncate(file, cut)
    assert half.is_half(file, cut)


def test_a_safetensors_file_is_half_wherever_it_was_cut(tmp_path: Path) -> None:
    data, file = tensors(), tmp_path / "model.safetensors"
    for size in range(len(data)):
        file.write_bytes(data[:size])
        assert half.is_half(file, size), size
    file.write_bytes(data)
    assert not half.is_half(file, len(data))
    nothing = b"{}      "
    file.write_bytes(len(nothing).to_bytes(8, "little") + nothing)
    assert not half.is_half(file, 16)


@pytest.mark.parametrize("header", [b"[1]", b'{"a": 1}', b'{"a": {"data_offsets": ["x", "y"]}}'])
def test_a_safetensors_header_that_makes_no_sense_is_half(tmp_path: Path, header: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    assert half.is_half(file, file.stat().st_size)


def test_other_files_are_half_if_they_are_empty(run: Path) -> None:
    save(run, "cp/g_1", "cp/g_2")
    save(run, "cp/g_3", data=b"")
    found = own(run, ("cp/g_{step}",))
    assert [each.complete for each in found.sets()] == [True, True, False]
    assert found.sets()[-1].problem == "cp/g_3 is half"


def test_a_folder_is_whole_if_it_has_a_file_and_none_is_half(run: Path, tmp_path: Path) -> None:
    save(run, *(f"checkpoint-{n}/deep/model.pt" for n in (1, 2, 3)), data=zipped(tmp_path))
    os.truncate(run / "work" / "checkpoint-2" / "deep" / "model.pt", 100)
    save(run, "checkpoint-3/optimizer.pt", data=b"")
    (run / "work" / "checkpoint-4" / "empty").mkdir(parents=True)
    save(run, "checkpoint-5/DONE", data=b"")
    found = own(run, FOLDERS).sets()
    assert [each.complete for each in found] == [True, False, False, False, False]
    assert found[1].half == ("checkpoint-2/deep/model.pt",)
    assert found[2].half == ("checkpoint-3/optimizer.pt",)
    assert found[3].half == ("checkpoint-4",)


def test_an_empty_mark_beside_a_folders_files_is_not_half(run: Path) -> None:
    save(run, "checkpoint-1/model.pt")
    save(run, "checkpoint-1/DONE", "checkpoint-1/.lock", data=b"")
    assert own(run, FOLDERS).sets()[0].complete


def test_the_file_that_is_written_last_can_be_asked_for(run: Path) -> None:
    save(run, "checkpoint-1/model.pt", "checkpoint-1/state.json", "checkpoint-2/model.pt")
    found = own(run, ("checkpoint-{step}", "checkpoint-{step}/state.json"))
    assert [each.complete for each in found.sets()] == [True, False]
    assert as_argument(found.newest()) == "checkpoint-1"


def test_links_in_a_folder_say_nothing_of_it(run: Path, tmp_path: Path) -> None:
    save(run, "checkpoint-1/model.pt")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "full.pt").write_bytes(b"weights")
    (run / "work" / "checkpoint-1" / "last.pt").symlink_to(tmp_path / "empty.pt")
    (run / "work" / "checkpoint-2").mkdir()
    (run / "work" / "checkpoint-2" / "model.pt").symlink_to(tmp_path / "full.pt")
    assert [each.complete for each in own(run, FOLDERS).sets()] == [True, False]


@pytest.mark.parametrize("name", ["listdir", "lstat"])
def test_what_cannot_be_looked_at_is_neither_half_nor_absent(
    run: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    save_hifi(run, 1)
    real = getattr(os, name)

    def broken(path: Path, *more: object, **others: object) -> object:
        if str(path).endswith(("/cp", "/do_00000001")):
            raise OSError(5, "Input/output error", str(path))
        return real(path, *more, **others)

    monkeypatch.setattr(manifest, "PAUSES_S", (0.0,))
    monkeypatch.setattr(os, name, broken)
    with pytest.raises(HpckitError, match=r"cannot be looked at: .* cannot be read: Input/output"):
        own(run).go_back(None, why="a try")
    monkeypatch.undo()
    assert len(left(run)) == 2


# Which one to go on from


def test_the_newest_whole_one_is_gone_on_from(run: Path) -> None:
    save_hifi(run, 100, 200)
    save(run, "cp/g_300")
    found = own(run).newest()
    assert found is not None
    assert found.step == 200


@pytest.mark.parametrize(
    ("before", "saved_before", "step"),
    [
        (200, None, 200),
        (199, None, 100),
        (99, None, None),
        (None, 3000.0, 200),
        (None, 2000.0, 100),
        (300, 2500.0, 200),
        (100, 2500.0, 100),
        (None, 1000.0, None),
        (0, None, None),
    ],
)
def test_it_is_no_newer_than_the_trouble_by_step_and_by_time(
    run: Path, before: int | None, saved_before: float | None, step: int | None
) -> None:
    for number in (1, 2, 3):
        save_hifi(run, 100 * number, at=1000.0 * number)
    found = own(run).newest(before, saved_before)
    assert (None if found is None else found.step) == step


def test_all_its_files_were_written_before(run: Path) -> None:
    save_hifi(run, 100, at=1000.0)
    save(run, "cp/g_200", at=2000.0)
    save(run, "cp/do_200", at=4000.0)
    save(run, "checkpoint-1/a", "checkpoint-1/b/c", at=1000.0)
    save(run, "checkpoint-1/b/d", at=5000.0)
    found = own(run).newest(saved_before=3000.0)
    assert found is not None
    assert found.step == 100
    assert own(run, FOLDERS).newest(saved_before=3000.0) is None
    assert own(run, FOLDERS).sets()[0].when == 5000.0


def test_the_argument_is_the_first_patterns_file_or_empty(run: Path) -> None:
    assert as_argument(own(run).newest()) == ""
    save_hifi(run, 7)
    assert as_argument(own(run).newest()) == "cp/g_00000007"
    assert as_argument(own(run, HIFI[::-1]).newest()) == "cp/do_00000007"


# Going back


def test_what_is_newer_is_moved_with_its_path_and_nothing_is_lost(run: Path) -> None:
    save_hifi(run, 1, 2, 3)
    save(run, "cp/g_4", "other.txt")
    found = own(run)
    moved = found.go_back(found.newest(before=1), why="explosion at step 2")
    assert moved == ["cp/g_4", "cp/g_00000003", "cp/do_00000003", "cp/g_00000002", "cp/do_00000002"]
    assert left(run) == ["cp/do_00000001", "cp/g_00000001", "other.txt"]
    assert [each for each in put(run) if each != "cp"] == sorted(moved)
    assert steps(found) == [1]
    (folder,) = (run / "set-aside").iterdir()
    assert (folder / "cp/g_00000003").read_bytes() == b"weights"


def test_why_and_when_and_from_where_is_written_beside_it(run: Path) -> None:
    save_hifi(run, 1, 2)
    found = own(run)
    found.go_back(found.newest(before=1), why="explosion at step 2")
    (folder,) = (run / "set-aside").iterdir()
    about = json.loads((folder / put_aside.ABOUT).read_text())
    assert about["why"] == "explosion at step 2"
    assert about["from"] == str(run / "work")
    assert about["gone_on_from"] == "cp/g_00000001"
    assert about["sets"] == [{"step": 2, "paths": ["cp/g_00000002", "cp/do_00000002"]}]
    assert about["time"][:19].replace(":", "-") == folder.name


def test_without_one_to_go_back_to_all_are_moved(run: Path) -> None:
    save_hifi(run, 1, 2)
    found = own(run)
    assert len(found.go_back(found.newest(before=0), why="a try")) == 4
    assert (left(run), found.sets()) == ([], [])
    assert (run / "work" / "cp").is_dir()


def test_where_nothing_is_in_the_way_nothing_happens(run: Path) -> None:
    save_hifi(run, 1, 2)
    found = own(run)
    assert found.go_back(found.newest(), why="a try") == []
    assert not (run / "set-aside").exists()


def test_an_older_one_goes_if_it_is_half_and_stays_if_the_program_thinned_it_out(run: Path) -> None:
    save(run, "cp/g_1", "cp/g_2", "cp/do_2")
    save(run, "cp/g_2", data=b"")
    save_hifi(run, 3)
    found = own(run)
    assert found.go_back(found.newest(), why="a try") == ["cp/g_2", "cp/do_2"]
    assert steps(found) == [1, 3]


def test_a_step_that_is_set_aside_again_overwrites_nothing(run: Path) -> None:
    found = own(run)
    for life in (b"first", b"second", b"third"):
        save(run, "cp/g_5", "cp/do_5", data=life)
        found.go_back(None, why=life.decode())
    kept = {path.read_bytes() for path in (run / "set-aside").glob("*/cp/g_5")}
    assert kept == {b"first", b"second", b"third"}


@pytest.mark.parametrize("moves", range(6))
def test_a_death_in_the_midst_is_finished_by_the_next(
    run: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    save_hifi(run, 1, 2, 3, 4)
    everything = left(run)
    found, real, done = own(run), os.rename, iter(range(moves))

    def rename(source: Path, target: Path) -> None:
        if next(done, None) is None:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    to = found.newest(before=1)
    with pytest.raises(KeyboardInterrupt):
        found.go_back(to, why="killed")
    monkeypatch.undo()
    # Of what is left the newest is what the program would take: none newer than what is gone.
    whole = [each.step for each in found.sets() if each.complete]
    assert whole == list(range(1, len(whole) + 1))
    assert to is not None
    again = found.newest(before=1)
    assert again == to
    assert len(found.go_back(again, why="again")) == 6 - moves
    assert steps(found) == [1]
    there = [*left(run), *(each for each in put(run) if each != "cp")]
    assert sorted(there) == everything


def test_two_that_go_back_at_once_move_each_file_once(run: Path) -> None:
    save_hifi(run, *range(1, 60))
    everything = left(run)
    moved: list[str] = []
    failed: list[Exception] = []

    def go() -> None:
        try:
            moved.extend(own(run).go_back(None, why="a race"))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=go) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failed == []
    assert sorted(moved) == everything
    assert sorted(each for each in put(run) if each != "cp") == everything


def test_another_filesystem_is_told_and_nothing_is_lost(
    run: Path, small_disk: Callable[[str], Path]
) -> None:
    save_hifi(run, 1)
    found = OwnSets(run / "work", HIFI, small_disk("1m") / "set-aside")
    with pytest.raises(CannotWrite, match=r"cannot write .*/set-aside/.*: Invalid cross-device"):
        found.go_back(None, why="a try")
    assert steps(found) == [1]


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        ((), "needs a pattern such as"),
        (("best.pt",), "best.pt has no {step}"),
        (("a_{step}", "b_{epoch}"), "counts steps and epochs"),
        (("/a_{step}",), "not an absolute one"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(
    tmp_path: Path, patterns: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UsageError) as error:
        own(tmp_path, patterns)
    assert said in error.value.message


def test_none_of_it_needs_torch() -> None:
    code = "import sys, hpckit.checkpoint.own_sets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

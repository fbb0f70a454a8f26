"""The copy of a job's folder that a run keeps."""

from __future__ import annotations

import os

import pytest

from hpckit.errors import UsageError
from hpckit.submission import snapshot


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "it's a job"
    (folder / "lib").mkdir(parents=True)
    (folder / "train.py").write_text("print(1)\n")
    (folder / "lib" / "model.py").write_text("x = 1\n")
    return folder


def taken(source, tmp_path):
    found = snapshot.look(source, exclude=tmp_path / "runs")
    home = tmp_path / "home"
    home.mkdir()
    snapshot.copy(found, home / "code")
    return home, found


def test_later_edits_do_not_reach_the_copy(source, tmp_path):
    home, _ = taken(source, tmp_path)
    (source / "train.py").write_text("print(2)\n")
    (source / "lib" / "model.py").unlink()
    assert (home / "code" / "train.py").read_text() == "print(1)\n"
    assert (home / "code" / "lib" / "model.py").read_text() == "x = 1\n"


def test_what_is_left_out_is_told_and_linked_in_the_working_folder(source, tmp_path):
    (source / "data").mkdir()
    (source / "data" / "a.wav").write_text("sound")
    (source / ".gitignore").write_text("data/\n")
    with open(source / "big.ckpt", "wb") as stream:
        stream.truncate(30_000_000)
    (source / ".venv").mkdir()
    (source / ".venv" / "pyvenv.cfg").touch()
    os.mkfifo(source / "pipe")
    home, found = taken(source, tmp_path)
    assert {(item.path, item.why) for item in found.left_out} == {
        ("data", "ignored"),
        ("big.ckpt", "larger than 20 MB"),
        (".venv", "virtual environment"),
        ("pipe", "not a plain file"),
    }
    assert not (home / "code" / "data").exists()
    snapshot.make_work_folder(home, home / "work")
    assert (home / "work" / "data" / "a.wav").read_text() == "sound"
    assert (home / "work" / "big.ckpt").is_symlink()
    assert not (home / "work" / "train.py").is_symlink()


def test_what_a_program_writes_does_not_change_the_snapshot(source, tmp_path):
    home, _ = taken(source, tmp_path)
    snapshot.make_work_folder(home, home / "work")
    (home / "work" / "train.py").write_text("changed")
    snapshot.make_work_folder(home, home / "work")
    assert (home / "work" / "train.py").read_text() == "changed"
    assert (home / "code" / "train.py").read_text() == "print(1)\n"


def test_the_run_root_inside_the_folder_is_never_copied(source, tmp_path):
    (source / "runs" / "old").mkdir(parents=True)
    found = snapshot.look(source, exclude=source / "runs")
    assert found.files == ("lib/model.py", "train.py")
    assert found.left_out == ()


def test_links_inside_stay_and_links_to_the_outside_go_on_pointing_there(source, tmp_path):
    (tmp_path / "shared.txt").write_text("shared")
    (source / "inside").symlink_to("train.py")
    (source / "lib" / "outside").symlink_to("../../shared.txt")
    home, _ = taken(source, tmp_path)
    assert os.readlink(home / "code" / "inside") == "train.py"
    assert (home / "code" / "lib" / "outside").read_text() == "shared"


def test_a_folder_full_of_data_is_refused_with_what_to_do(source, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "MANY_FILES", 10)
    for number in range(11):
        (source / f"{number}.txt").touch()
    with pytest.raises(UsageError, match="hpckitignore"):
        snapshot.look(source, exclude=tmp_path / "runs")


def test_a_nested_ignore_file_speaks_of_its_own_folder_only(source, tmp_path):
    (source / "lib" / ".gitignore").write_text("*.py\n")
    found = snapshot.look(source, exclude=tmp_path / "runs")
    assert found.files == ("lib/.gitignore", "train.py")


def test_the_half_of_a_copy_that_was_cut_off_is_cleared_away(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / ".work.7.abc.tmp").mkdir()
    snapshot.make_work_folder(tmp_path, tmp_path / "work")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code", "work"]


def renewed(source, home):
    """The working folder, once it has the job's folder as it is now."""
    snapshot.copy(snapshot.look(source, exclude=home), home / "code-002")
    snapshot.renew_work_folder(home, home / "work", "code-002")
    return home / "work"


def test_a_newer_snapshot_never_writes_through_a_link_into_the_source(source, tmp_path):
    (source / "data").mkdir()
    (source / "data" / "list.txt").write_text("old")
    (source / ".gitignore").write_text("data/\n")
    home, _ = taken(source, tmp_path)
    snapshot.make_work_folder(home, home / "work")
    (source / ".gitignore").unlink()
    snapshot.copy(snapshot.look(source, exclude=home), home / "code-002")
    (source / "data" / "list.txt").write_text("edited after that")
    snapshot.renew_work_folder(home, home / "work", "code-002")
    assert (source / "data" / "list.txt").read_text() == "edited after that"
    assert (home / "work" / "data" / "list.txt").read_text() == "old"


def test_a_file_may_become_a_folder_and_a_folder_a_file_and_nothing_is_lost(source, tmp_path):
    home, _ = taken(source, tmp_path)
    snapshot.make_work_folder(home, home / "work")
    (home / "work" / "lib" / "written.txt").write_text("by the program")
    (source / "lib" / "model.py").unlink()
    (source / "lib").rmdir()
    (source / "lib").write_text("a file now")
    (source / "train.py").unlink()
    (source / "train.py").mkdir()
    (source / "train.py" / "main.py").write_text("print(2)\n")
    work = renewed(source, home)
    assert (work / "lib").read_text() == "a file now"
    assert (work / "train.py" / "main.py").read_text() == "print(2)\n"
    (kept,) = home.glob("set-aside/*/lib/written.txt")
    assert kept.read_text() == "by the program"


def test_what_a_newer_snapshot_leaves_out_is_linked_where_nothing_stands(source, tmp_path):
    home, _ = taken(source, tmp_path)
    snapshot.make_work_folder(home, home / "work")
    (home / "work" / "out").mkdir()
    for name in ("data", "out"):
        (source / name).mkdir()
    (source / ".gitignore").write_text("data/\nout/\n")
    work = renewed(source, home)
    assert (work / "data").readlink() == source / "data"
    assert not (work / "out").is_symlink()

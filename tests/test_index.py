"""Listing runs: ended ones are remembered, and never believed longer than they hold."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from hpckit.ledger import Ledger
from hpckit.status.index import CacheOf, Index

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from many_runs import make_runs


@pytest.fixture
def root(tmp_path):
    make_runs(tmp_path / "runs", 20)
    return tmp_path / "runs"


def rows(root):
    return Index(root).rows(CacheOf())


def test_all_runs_are_listed_the_oldest_first(root):
    found = rows(root)
    assert len(found) == 20
    assert [row["created"] for row in found] == sorted(row["created"] for row in found)
    assert {row["state"] for row in found} == {"done"}


def test_what_is_remembered_is_the_same_as_what_was_read(root, monkeypatch):
    first = rows(root)

    def unread(*_):
        raise AssertionError("an ended run was read again")

    monkeypatch.setattr("hpckit.status.index.open_run", unread)
    assert rows(root) == first


def test_a_run_that_is_written_to_again_is_read_again(root):
    rows(root)
    folder = root / "agent3" / "0720-b00003"
    Ledger(folder / "ledger").write("submit", chains=[2])
    Ledger(folder / "ledger").write("finished", state="failed", reason="later")
    found = {row["run"]: row for row in rows(root)}
    assert found["agent3/0720-b00003"]["state"] == "failed"


def test_a_deleted_run_is_forgotten(root):
    import shutil

    rows(root)
    shutil.rmtree(root / "agent3" / "0720-b00003")
    assert len(rows(root)) == 19


@pytest.mark.parametrize("damage", ["", "{", '{"version": 0, "runs": []}', "[]"])
def test_a_damaged_cache_costs_time_and_nothing_else(root, damage):
    first = rows(root)
    Index(root).path.write_text(damage)
    assert rows(root) == first


def test_a_cache_that_cannot_be_written_is_done_without(root, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert len(rows(root)) == 20


def test_ls_shows_the_newest_and_says_how_many_there_are(cli, root):
    make_runs(root.parent / "more", 45)
    done = cli("ls", "--root", root.parent / "more")
    assert len(done.stdout.splitlines()) == 31
    assert "30 of 45 runs" in done.stderr
    told = json.loads(cli("ls", "--all", "--json", "--root", root.parent / "more").stdout)
    assert (told["total"], len(told["runs"])) == (45, 45)


def test_other_folders_under_the_root_do_not_disturb(root):
    (root / "notes").mkdir()
    (root / "agent0" / "plots").mkdir()
    (root / "file.txt").touch()
    os.symlink("/nowhere", root / "agent0" / "broken")
    assert len(rows(root)) == 20

"""What may be deleted, and what is kept, with the reason for each."""

from __future__ import annotations

import json
import os
import time

import pytest

from hpckit.clock import iso
from hpckit.pruning import Rules, Verdict, decide, delete, leftovers

NOW = time.time()
DAY = 86_400.0


def row(number, *, days=100.0, state="done", name="a", mb=10.0):
    when = iso(NOW - days * DAY)
    about = {"dir": f"/r/{name}/{number}", "run": f"{name}/{number}", "name": name}
    return {**about, "state": state, "created": when, "ended": when, "mb": mb}


def going(rows, **rules):
    rules = {"older_s": 30 * DAY, "keep": 1, **rules}
    return [v.run for v in decide(rows, Rules(**rules), NOW) if v.goes]


def test_old_runs_go_and_the_newest_of_each_name_stay():
    rows = [row(1, days=90), row(2, days=80), row(1, days=70, name="b"), row(3, days=60)]
    assert going(rows) == ["a/1", "a/2"]
    assert going(rows, keep=0) == ["a/1", "a/2", "b/1", "a/3"]


def test_what_ended_lately_stays():
    assert going([row(1, days=31), row(2, days=29), row(3, days=1)], keep=0) == ["a/1"]


@pytest.mark.parametrize("state", ["running", "pending", "unknown", "healing"])
def test_what_is_not_known_to_have_ended_is_never_deleted(state):
    assert going([row(1, state=state)], keep=0, max_mb=0.0) == []


def test_over_the_quota_the_oldest_go_whatever_their_age():
    rows = [row(1, days=5, mb=50), row(2, days=4, mb=50), row(3, days=3, mb=50)]
    assert going(rows, keep=3, max_mb=100.0) == ["a/1"]
    assert going(rows, keep=3, max_mb=200.0) == []


def test_a_verdict_says_why():
    (verdict,) = decide([row(1, state="running")], Rules(older_s=0, keep=0), NOW)
    assert (verdict.goes, verdict.why) == (False, "it is running")


def test_what_a_cut_off_submission_left_goes_after_an_hour(tmp_path):
    left = tmp_path / "agent" / "0720-p7d"
    (left / "code").mkdir(parents=True)
    strange = tmp_path / "agent" / "my notes"
    strange.mkdir()
    assert leftovers(tmp_path) == []
    found = leftovers(tmp_path, now=time.time() + 7200)
    assert [verdict.run for verdict in found] == ["agent/0720-p7d"]


def test_a_deletion_that_is_cut_off_leaves_no_half_run_and_is_finished_later(tmp_path, monkeypatch):
    folder = tmp_path / "agent" / "0720-p7d"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    verdict = Verdict(dir=str(folder), run="agent/0720-p7d", state="done", mb=1, goes=True, why="")

    def killed(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            delete(verdict)
    assert not folder.exists()
    (rest,) = leftovers(tmp_path)
    assert rest.why == "a deletion that was cut off"
    delete(rest)
    assert os.listdir(tmp_path / "agent") == []


def test_prune_tells_first_and_deletes_only_when_told(cli, job):
    spec = job()
    for _ in range(2):
        cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent)
    args = ("prune", "--older", "0s", "--keep", "1")
    told = cli(*args, cwd=spec.parent)
    assert "1 of 2 may go" in told.stderr
    assert "nothing was deleted" in told.stderr
    assert len(json.loads(cli("ls", "--json", cwd=spec.parent).stdout)["runs"]) == 2
    cli(*args, "--yes", cwd=spec.parent)
    assert len(json.loads(cli("ls", "--json", cwd=spec.parent).stdout)["runs"]) == 1

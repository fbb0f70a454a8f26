"""The run directory, and finding the run that a person means."""

from __future__ import annotations

import concurrent.futures
import re

import pytest

from hpckit import run as runs
from hpckit.errors import NotFound, UsageError
from hpckit.files import write_json


def make(root, name="agent", points=None):
    folder = runs.new_run_folder(root, name)
    run_id = f"{name}/{folder.name}"
    more = {} if points is None else {"points": points, "varied": ["lr"]}
    about = runs.identity(run_id=run_id, name=name, scheduler="local", params={}, **more)
    if points is not None:
        listed = [{"index": i, "values": {}, "params": {"lr": i}} for i in range(points)]
        write_json(folder / "sweep.json", {"points": listed})
    write_json(folder / runs.IDENTITY, about)
    found = runs.open_run(folder)
    assert found is not None
    return found


def test_ids_are_a_day_and_letters_that_nobody_mistakes(tmp_path):
    ids = {runs.new_run_folder(tmp_path, "a").name for _ in range(200)}
    assert len(ids) == 200
    assert all(re.fullmatch(r"\d{4}-[bcdfghjkmnpqrstvwxz][b-z2-9]{2,}", i) for i in ids)


def test_many_who_choose_at_once_get_different_ids(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: runs.new_run_folder(tmp_path, "a"), range(400)))
    assert len(set(found)) == 400


def test_a_run_is_found_by_id_prefix_folder_or_as_the_latest(tmp_path):
    one, two = make(tmp_path, "agent"), make(tmp_path, "vocoder")
    for wanted in (one.id, "agent", "agent/", one.dir.name, str(one.dir)):
        assert runs.find(tmp_path, wanted).id == one.id
    assert runs.find(tmp_path, None).id == two.id


def test_a_prefix_of_several_runs_is_asked_about(tmp_path):
    make(tmp_path, "agent")
    make(tmp_path, "agent")
    with pytest.raises(UsageError, match="could be 2 runs"):
        runs.find(tmp_path, "agent")


def test_no_such_run_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="no runs under"):
        runs.find(tmp_path, None)
    make(tmp_path)
    with pytest.raises(NotFound, match="no run called 'other'"):
        runs.find(tmp_path, "other")
    with pytest.raises(NotFound):
        runs.find(tmp_path, "../../etc")


def test_a_point_of_a_sweep_is_a_run_with_its_own_parameters(tmp_path):
    sweep = make(tmp_path, points=3)
    point = runs.find(tmp_path, f"{sweep.id}/002")
    assert (point.params, point.point, point.home) == ({"lr": 2}, 2, sweep.dir)
    assert point.home_id == sweep.id
    with pytest.raises(NotFound):
        runs.find(tmp_path, f"{sweep.id}/003")


def test_attempts_are_claimed_once_each(tmp_path):
    run = make(tmp_path)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda n: run.claim_attempt({"job_id": str(n)}), range(24)))
    assert sorted(attempt.number for attempt in claimed) == list(range(1, 25))


def test_what_the_next_attempt_found_out_stands_above_what_a_lost_one_says(tmp_path):
    run = make(tmp_path)
    first, second = run.claim_attempt({}), run.claim_attempt({})
    assert first.ended() is None
    write_json(second.dir / "previous.json", {"ended": "x", "reason": "node failed"})
    write_json(first.dir / "ended.json", {"ended": "x", "reason": "done"})
    assert first.ended()["reason"] == "node failed"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": "a/b"}'])
def test_a_damaged_identity_is_no_run_and_no_traceback(tmp_path, text):
    run = make(tmp_path)
    (run.dir / "run.json").write_text(text)
    assert runs.open_run(run.dir) is None


def test_a_folder_without_an_identity_is_no_run(tmp_path):
    folder = runs.new_run_folder(tmp_path, "agent")
    assert runs.open_run(folder) is None
    with pytest.raises(NotFound):
        runs.find(tmp_path, f"agent/{folder.name}")


def test_the_tenth_launch_comes_after_the_ninth(tmp_path):
    assert runs.launches_in(tmp_path / "none") == []
    for number in (10, 9, 1):
        (tmp_path / f"launch-{number}").mkdir()
    for name in ("notes", "launch-1-copy", "launch-"):
        (tmp_path / name).mkdir()
    found = [each.name for each in runs.launches_in(tmp_path)]
    assert found == ["launch-1", "launch-9", "launch-10"]


def test_of_many_runs_that_are_asked_about_six_are_named(tmp_path):
    ids = sorted(make(tmp_path, "agent").id for _ in range(8))
    with pytest.raises(UsageError) as asked:
        runs.find(tmp_path, "agent")
    named = f"{', '.join(ids[:6])} and 2 more"
    assert asked.value.message == f"'agent' could be 8 runs: {named}"

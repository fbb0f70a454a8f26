"""What a run may spend at most, and what it has spent."""

from __future__ import annotations

import time

import pytest

from hpckit.clock import iso, seconds_of
from hpckit.errors import SpecError
from hpckit.files import write_json
from hpckit.limits import hours_used, resolve_limits, unit_name, units
from hpckit.run import Attempt
from hpckit.spec import load_limits, spec_from_json
from hpckit.worker.settling import _end_time


def spec(**sections):
    program = {"command": "x", "processes": "one"}
    return spec_from_json({"name": "a", "program": program, **sections})


def attempt(folder, number, started, ended=None):
    path = folder / f"{number:03d}"
    path.mkdir()
    write_json(path / "attempt.json", {"started": iso(started)})
    if ended is not None:
        write_json(path / "ended.json", {"ended": iso(ended), "reason": "x"})
    return Attempt(number=number, dir=path)


def test_a_node_without_gpus_counts_as_one():
    assert (units(spec(resources={"nodes": 3})), unit_name(spec())) == (3, "node h")
    gpus = spec(resources={"nodes": 2, "gpus_per_node": 4})
    assert (units(gpus), unit_name(gpus)) == (8, "GPU h")


def test_hours_pile_up_over_attempts(tmp_path):
    now = time.time()
    done = attempt(tmp_path, 1, now - 7200, now - 3600)
    alive = attempt(tmp_path, 2, now - 1800)
    assert hours_used([done, alive], 4, alive=2) == pytest.approx(4 * 1.5, abs=0.01)


def test_an_attempt_that_was_cut_off_counts_to_its_last_sign_of_life(tmp_path):
    import os

    now = time.time()
    lost = attempt(tmp_path, 1, now - 7200)
    (lost.dir / "heartbeat").touch()
    os.utime(lost.dir / "heartbeat", (now - 3600, now - 3600))
    assert hours_used([lost], 1) == pytest.approx(1.0, abs=0.01)
    # Its program came further than its last heartbeat.
    logs = lost.dir / "logs" / "launch-1"
    logs.mkdir(parents=True)
    (logs / "rank-0.pulse").touch()
    os.utime(logs / "rank-0.pulse", (now - 1800, now - 1800))
    assert hours_used([lost], 1) == pytest.approx(1.5, abs=0.01)
    assert seconds_of(_end_time(None, lost)) == pytest.approx(now - 1800, abs=1)


def test_a_site_s_ceilings_stand_above_every_spec(tmp_path):
    site = tmp_path / "site.yaml"
    site.write_text("limits: {gpu_hours: 10, total: 1d}\n")
    asked = spec(limits={"gpu_hours": 100, "attempts": 7})
    found = resolve_limits(asked, site)
    assert (found.gpu_hours, found.attempts, found.total) == (10, 7, 86_400)
    lower = resolve_limits(spec(limits={"gpu_hours": 5}), site)
    assert lower.gpu_hours == 5


def test_a_site_s_file_that_is_wrong_is_said_and_not_passed_over(tmp_path):
    site = tmp_path / "site.yaml"
    site.write_text("limits: {gpu_hour: 10}\n")
    with pytest.raises(SpecError, match="gpu_hours"):
        resolve_limits(spec(), site)


@pytest.mark.parametrize("text", ["", "limits:\n", "limits: {attempts: }\n", "# none yet\n"])
def test_a_site_that_says_nothing_limits_nothing(tmp_path, text):
    (tmp_path / "site.yaml").write_text(text)
    assert load_limits(tmp_path / "site.yaml").attempts == 1000

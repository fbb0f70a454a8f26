"""Runs that are struck on purpose: what is told of them, and what is left behind."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpckit.cli.rehearse import _wanted
from hpckit.clock import iso
from hpckit.errors import UsageError
from hpckit.heal.plan import Plan
from hpckit.ledger import Event
from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.rehearsal import clearing
from hpckit.rehearsal import place as places
from hpckit.rehearsal.course import Course, Struck, course_of, held_s
from hpckit.rehearsal.faults import INCIDENTS, Stage, why_not
from hpckit.rehearsal.program import has_session
from hpckit.rehearsal.rehearsal import Wish, _Rehearsal
from hpckit.rehearsal.result import Cost, Ending, Result, result_of
from hpckit.rehearsed import KINDS
from hpckit.scheduler.base import JobStatus, Phase
from hpckit.spec import load_spec, spec_from_json
from hpckit.spec.parts import Hooks
from hpckit.status.state import State
from tests.made_runs import make_run
from tests.test_outcome import status

TRAINED = Path(__file__).with_name("cluster") / "trained.py"
KEYS = {
    *("fault", "healed", "as_expected", "state", "seconds", "steps_lost", "hours_lost", "unit"),
    *("plan", "sentence", "run", "dir"),
}


@pytest.fixture
def trainer(job):
    """A small training that saves every 20 steps."""
    spec = job(
        "{trainer: trained.py:Small}",
        "checkpoint: {every: 20 steps, confirm_steps: 10}",
        "params: {step_s: 0.01, epochs: 20}",
    )
    shutil.copy(TRAINED, spec.parent)
    return spec


@pytest.fixture
def plain(job):
    """A program that knows nothing of hpckit, and saves nothing."""
    spec = job("bash work.sh")
    script = "trap 'exit 0' TERM\nfor i in $(seq 300); do echo $i; sleep 0.2; done\n"
    (spec.parent / "work.sh").write_text(script)
    return spec


def rehearsed(cli: Any, spec: Path, *args: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """The one rehearsal that was asked for, and what was said meanwhile."""
    done = cli("rehearse", spec, "--cluster", "local", "--json", *args, cwd=spec.parent, code=code)
    (found,) = json.loads(done.stdout)["rehearsals"]
    assert found.keys() == KEYS
    return found, done.stderr


def test_a_training_that_heals_is_told_with_what_it_cost_and_leaves_nothing(cli, trainer):
    found, said = rehearsed(cli, trainer, "--fault", "crash", "--step", "50")
    assert (found["fault"], found["healed"], found["as_expected"]) == ("crash", True, True)
    assert (found["plan"], found["state"], found["dir"]) == ("relaunch", "running", None)
    # From the checkpoint at 40, and the time until the program was up again.
    assert found["steps_lost"] == 10
    assert found["seconds"] > 0.5
    assert found["seconds"] / 3600 <= found["hours_lost"] < 0.1
    assert "RehearsedCrash: at step 50" in found["sentence"]
    assert "strikes at step 50" in said
    assert "struck at step 50" in said
    assert not list((trainer.parent / "runs").iterdir())


def test_an_explosion_is_healed_in_process_and_goes_on_to_the_end_if_asked(cli, trainer):
    args = ["--fault", "explosion", "--to-end", "-s", "params.epochs=4", "--cluster", "local"]
    told = cli("rehearse", trainer, *args, cwd=trainer.parent).stdout
    first, second, third = told.splitlines()
    assert first.startswith("explosion: healed in 0.")
    assert "go back to the newest good state" in second
    assert "steps done again" in third
    assert "clip x0.5, lr x0.5" in second


def test_where_the_policy_says_stop_a_run_that_stopped_is_as_expected(cli, plain):
    found, _ = rehearsed(cli, plain, "--fault", "kill", "-s", "heal.crash.do=stop")
    assert (found["healed"], found["as_expected"], found["state"]) == (False, True, "stopped")
    assert (found["plan"], found["seconds"], found["dir"]) == ("stop", None, None)


def test_what_never_came_to_its_fault_is_no_success_and_is_kept(cli, job):
    log = r"monitor: {log: {patterns: ['step (?P<step>\d+)']}}"
    spec = job('"for i in 1 2 3; do echo step $i; done"', log)
    found, said = rehearsed(cli, spec, "--fault", "timeout", "--step", "5000", code=4)
    assert (found["healed"], found["as_expected"], found["state"]) == (False, False, "done")
    assert "the run did not come to step 5000: the run is done" in found["sentence"]
    kept = Path(found["dir"])
    assert f"hpckit show {kept}" in said
    assert json.loads(cli("show", kept, "--json", cwd=spec.parent).stdout)["state"] == "done"
    # It is no run of the person's.
    assert json.loads(cli("ls", "--json", cwd=spec.parent).stdout)["runs"] == []


def test_several_faults_are_struck_one_after_the_other_each_once():
    assert _wanted(("kill", "timeout", "kill"), {"node": "x"}) == ["kill", "timeout"]
    assert _wanted((), {"node": "x"}) == [each for each in KINDS if each != "node"]
    with pytest.raises(UsageError, match="node cannot be rehearsed: no root"):
        _wanted(("kill", "node"), {"node": "no root"})


def test_nobody_waits_longer_than_was_said(cli, job):
    spec = job('"true"', "environment: {setup: [sleep 300]}")
    began = time.monotonic()
    found, _ = rehearsed(cli, spec, "--fault", "kill", "--timeout", "3s", code=4)
    assert time.monotonic() - began < 60
    assert found["sentence"].endswith("the program did not begin: running after 3 s")
    shown = json.loads(cli("show", found["dir"], "--json", cwd=spec.parent).stdout)
    assert shown["state"] == "cancelled"


def test_of_a_plain_program_all_is_rehearsed_that_can_be_and_the_rest_is_named(cli, plain):
    done = cli("rehearse", plain, "--cluster", "local", cwd=plain.parent, code=4)
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert list(rows)[1:] == list(KINDS)
    assert "NOT healed" in rows["kill"]
    assert "the run is failed: the program was killed by SIGKILL" in rows["kill"]
    assert "resubmit" in rows["timeout"]
    for fault in ("explosion", "nan", "crash", "hang", "oom"):
        assert "no file of its folder imports hpckit" in rows[fault]
    for fault in ("preempt", "node"):
        assert "needs the development cluster" in rows[fault]


def test_a_plain_program_that_may_begin_again_does_so_when_it_is_killed(cli, plain):
    args = ["--fault", "kill", "-s", "heal.crash.do=relaunch", "-s", "resources.gpus_per_node=1"]
    environ = {"CUDA_VISIBLE_DEVICES": ""}
    command = ["rehearse", plain, "--cluster", "local", "--json", *args]
    done = cli(*command, cwd=plain.parent, env=environ)
    (found,) = json.loads(done.stdout)["rehearsals"]
    assert (found["healed"], found["plan"], found["steps_lost"]) == (True, "relaunch", None)
    assert found["unit"] == "node h"
    assert "rehearsed with gpus_per_node=0, where the spec asks for 1" in done.stderr


def test_what_cannot_be_rehearsed_is_refused_with_the_reason(cli, plain):
    at = ["--cluster", "local"]
    both = ["--fault", "nan", "--fault", "kill"]
    done = cli("rehearse", plain, *both, *at, cwd=plain.parent, code=2)
    assert "nan cannot be rehearsed: the program is not a Trainer" in done.stderr
    done = cli("rehearse", plain, "--step", "5", *at, cwd=plain.parent, code=2)
    assert "nobody tells the program's steps" in done.stderr
    swept = ["--fault", "kill", "-s", "sweep.seeds=2"]
    done = cli("rehearse", plain, *swept, *at, cwd=plain.parent, code=2)
    assert "-s sweep=null" in done.stderr
    assert not (plain.parent / "runs").exists()


def test_whoever_interrupts_a_rehearsal_ends_its_run(cli, plain):
    command = [sys.executable, "-m", "hpckit", "rehearse", "--fault", "kill", "--cluster", "local"]
    process = subprocess.Popen(
        command, cwd=plain.parent, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    attempts = plain.parent / "runs" / ".rehearsals" / "tiny"
    end = time.monotonic() + 30
    while not list(attempts.glob("*/attempts/001/logs/launch-1/rank-0.started")):
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    (run,) = attempts.iterdir()
    assert f"kept for you to look at: hpckit show {run}" in said
    shown = json.loads(cli("show", run, "--json", cwd=plain.parent).stdout)
    assert shown["state"] == "cancelled"


class OfOthers:
    """A Slurm that others use, too, with one job."""

    kind = "slurm"
    asked = 0

    def __init__(self, job: JobStatus) -> None:
        self.job = job

    def place(self) -> str:
        return "a cluster"

    def queue(self) -> list[JobStatus]:
        self.asked += 1
        return [self.job]


def rehearsal(root: Path, scheduler: Any, said: Any = None, **spec: Any) -> _Rehearsal:
    """One that has not begun."""
    wish = Wish(
        spec=spec_from_json({"name": "a", "program": "x", **spec}),
        source=root,
        text="",
        root=root,
        place=places.Place(scheduler=scheduler, name="slurm"),
        stage=STAGE,
        timeout_s=1.0,
        say=said,
    )
    return _Rehearsal(wish=wish, fault="crash", step=20)


def test_nobody_is_woken_by_a_rehearsal_and_nothing_is_published(tmp_path):
    commands = {name: ["echo"] for name in ("before_launch", "on_incident", "on_finish")}
    asked = rehearsal(tmp_path, OfOthers(status(None)), hooks=commands)
    assert asked._spec.hooks == Hooks(before_launch=("echo",))


def test_a_folder_whose_job_has_not_ended_stays_and_others_queue_is_not_asked_often(
    tmp_path, monkeypatch
):
    slurm = OfOthers(dataclasses.replace(status(None), name="a/b", phase=Phase.ENDING))
    clock = itertools.count(step=5.0)
    time_ = SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None)
    monkeypatch.setattr(clearing, "time", time_)
    said: list[str] = []
    run = make_run(tmp_path / "a" / "b", "a/b")
    rehearsal(tmp_path, slurm, said.append)._clear(run)
    assert run.dir.exists()
    assert f"{run.dir} stays" in said[0]
    assert slurm.asked == 1


# Where.


def test_a_slurm_that_is_no_development_cluster_is_not_taken_unasked(monkeypatch):
    monkeypatch.setattr("hpckit.scheduler.slurm.is_here", lambda: True)
    monkeypatch.delenv("SLURM_CONF", raising=False)
    for setting in ("slurm", "lab", None):
        if setting is None:
            monkeypatch.delenv("HPCKIT_CLUSTER")
        else:
            monkeypatch.setenv("HPCKIT_CLUSTER", setting)
        with pytest.raises(UsageError, match="nothing is rehearsed there unasked"):
            places.choose(None)
    assert places.choose("slurm").scheduler.kind == "slurm"
    monkeypatch.setenv("HPCKIT_CLUSTER", "local")
    assert places.choose(None).is_here


def test_a_configuration_that_hpckit_did_not_write_is_no_development_cluster(tmp_path, monkeypatch):
    up = SimpleNamespace(daemons=[SimpleNamespace(name="slurmctld", pid=1)])
    monkeypatch.setattr("hpckit.devcluster.DevCluster.status", lambda _: up)
    conf = tmp_path / "etc" / "slurm.conf"
    conf.parent.mkdir()
    conf.write_text("ClusterName=hpckit\n")
    assert places.development_cluster({"SLURM_CONF": str(conf)}) is None
    assert places.development_cluster({}) is None


STAGE = Stage(has_session=True, has_steps=True, is_here=True)


@pytest.mark.parametrize(
    ("stage", "cannot"),
    [
        (STAGE, {"preempt", "node"}),
        (Stage(has_session=True, has_steps=True, is_here=False), {"timeout", "preempt", "node"}),
        (Stage(has_session=True, has_steps=True, is_here=True, nodes=2, is_root=True), set()),
        (Stage(has_session=True, has_steps=True, is_here=True, nodes=2), {"node"}),
        (
            Stage(
                has_session=True, has_steps=True, is_here=True, nodes=2, asks_nodes=2, is_root=True
            ),
            {"node"},
        ),
        (
            Stage(has_session=False, has_steps=False, is_here=False),
            {*KINDS},
        ),
    ],
)
def test_what_can_be_rehearsed_where(stage, cannot):
    assert set(INCIDENTS) == set(KINDS)
    assert {fault for fault in KINDS if why_not(fault, stage) is not None} == cannot


def test_the_library_is_looked_for_in_the_jobs_own_files(job):
    spec = job("python train.py")
    script, root = spec.parent / "train.py", spec.parent / "runs"
    texts = {
        "import torch\n# import hpckit\n": False,
        "import torch  # , hpckit": False,
        "from hpckit import x": True,
        "import time, torch, hpckit": True,
    }
    for text, found in texts.items():
        script.write_text(text)
        assert has_session(load_spec(spec), spec.parent, root) is found
    (spec.parent / ".hpckitignore").write_text("train.py\n")
    assert not has_session(load_spec(spec), spec.parent, root)


# What came of it.


def decision(do: str, at: float, kind: str = "explosion", step: int = 104) -> Event:
    incident = Incident(kind=kind, step=step, answer="act", said="so").to_json()
    plan = Plan(do=do, reason="so").to_json()  # type: ignore[arg-type]
    return Event(
        time=iso(at, 6), writer="a", kind="incident", data={"incident": incident, "plan": plan}
    )


def reading(step: int, at: float, gated: float = 0.0) -> Reading:
    return Reading(step=step, time=at, values={"grad/gated/main": gated})


def test_only_steps_that_were_applied_after_the_decision_count():
    events = [
        decision("rollback", 40.0),
        decision("rollback", 110.0),
        Event(time=iso(110.1, 6), writer="a", kind="rollback", data={"step": 75}),
    ]
    readings = [
        reading(74, 90.0),
        reading(75, 111.0, gated=1.0),
        reading(76, 112.0),
        *(reading(step, 10.0 + step) for step in (103, 104, 105)),
    ]
    course = course_of(Struck(at=100.0, step=100), ("explosion",), events, readings)
    assert (course.resumed, course.applied, course.past) == (75, 112.0, 2)
    other = course_of(Struck(at=100.0, step=100), ("crash",), events, readings)
    assert other == Course()


def test_of_a_program_that_tells_no_steps_its_next_start_counts():
    events = [decision("relaunch", 110.0, "crash", 0)]
    course = course_of(Struck(at=100.0), ("crash",), events, [], [90.0, 111.0, 120.0])
    assert course.applied == 111.0


def test_hours_are_those_in_which_an_allocation_was_held():
    assert held_s([(0.0, 10.0), (20.0, 50.0)], 5.0, 25.0) == 10.0


def verdict(do: str, expected: str, *, healed: bool, state: str = "running") -> Result:
    plan = Plan(do=do, reason="so")  # type: ignore[arg-type]
    incident = Incident(kind="crash", step=5, answer="act", said="so")
    ending = Ending(
        fault="crash",
        wanted_step=5,
        struck=Struck(at=100.0, step=5),
        course=Course(incident=incident, plan=plan, resumed=3, applied=102.5, past=9),
        expected=expected,  # type: ignore[arg-type]
        is_healed=healed,
        state=State(state=state),
    )
    return result_of(ending, Cost(steps=2, hours=0.1), run="tiny/1", folder=Path("/runs/1"))


def test_the_verdict_is_the_policys():
    good = verdict("relaunch", "relaunch", healed=True)
    assert (good.as_expected, good.seconds, good.steps_lost, good.dir) == (True, 2.5, 2, None)
    otherwise = verdict("resubmit", "relaunch", healed=True)
    assert not otherwise.as_expected
    assert "and not relaunch, as heal.crash says" in otherwise.sentence
    assert not verdict("relaunch", "relaunch", healed=False).as_expected
    assert not verdict("relaunch", "relaunch", healed=True, state="failed").as_expected
    assert verdict("stop", "stop", healed=False, state="stopped").as_expected
    assert not verdict("stop", "stop", healed=False, state="failed").as_expected
    told = verdict("tell", "tell", healed=False)
    assert (told.as_expected, told.healed, told.word) == (True, False, "told, as said")


def test_what_is_undone_is_undone_whatever_is_pressed_meanwhile(capsys):
    from hpckit.errors import ClusterError
    from hpckit.rehearsal.clearing import unhurried

    seen = SimpleNamespace(done=False)

    def act() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        seen.done = True
        raise ClusterError("no node")

    unhurried(act)()
    assert seen.done
    assert "not undone: no node" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN

"""A submission that is cut off anywhere executes once or not at all, on a real Slurm."""

from __future__ import annotations

import collections
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpckit.run import open_run, run_folders
from hpckit.scheduler.base import Phase
from hpckit.scheduler.slurm import Slurm
from hpckit.status import state as status
from hpckit.status.index import CacheOf
from hpckit.status.state import states_of

KILLER = Path(__file__).with_name("killed.py")


@pytest.fixture
def spec(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "train.py").write_text("print('training')\n")
    executed = tmp_path / "executed"
    executed.touch()
    (folder / "job.yaml").write_text(
        f"name: killed\nprogram: echo $HPCKIT_RUN >> {executed}\nresources: {{time: 1m}}\n"
    )
    return folder / "job.yaml"


def submit_killed(spec, root, at, env=None):
    count = root.parent / "acts"
    words = ["submit", str(spec), "--cluster", "slurm", "--root", str(root), "--json"]
    subprocess.run(
        [sys.executable, str(KILLER), str(at), str(count), str(root), *words],
        capture_output=True,
        timeout=90,
        env=env,
        check=False,
    )
    return count.read_text().splitlines() if at == 0 else []


def wait_until_settled(names, seconds=60.0):
    """Until Slurm has nothing of ours any more; a minute is what is promised."""
    slurm, end = Slurm(), time.monotonic() + seconds
    while time.monotonic() < end:
        alive = [job for job in slurm.queue() if job.phase is not Phase.ENDED]
        if not [job for job in alive if job.name in names]:
            return
        time.sleep(0.5)
    raise AssertionError(f"still in the queue after {seconds} s: {alive}")


def judge(root, executed, monkeypatch):
    """Every run executed at most once, and is shown as what came of it."""
    runs = [run for folder in run_folders(root) if (run := open_run(folder)) is not None]
    wait_until_settled({run.id for run in runs})
    counted = collections.Counter(executed.read_text().split())
    assert not [run for run, times in counted.items() if times > 1]
    monkeypatch.setattr(status, "CUT_OFF_S", 0.0)
    states = {facts.run.id: state for facts, state in states_of(runs, CacheOf()("slurm"))}
    for run in runs:
        state = states[run.id]
        if counted[run.id]:
            assert state.state == "done", f"{run.id}: {state}"
        else:
            assert (state.state, state.reason[:31]) == ("failed", "the submission was cut off: not")
    return counted, states


def test_killed_before_each_step_a_submission_runs_once_or_not_at_all(slurm, spec, monkeypatch):
    root = spec.parent.parent / "runs"
    # The first submission makes folders that the others find: the second is like the rest.
    submit_killed(spec, root, 0)
    acts = submit_killed(spec, root, 0)
    handing_over = [n for n, act in enumerate(acts, 1) if "sbatch" in act]
    assert len(acts) > 20
    assert handing_over
    for at in range(1, len(acts) + 1):
        submit_killed(spec, root, at)
    counted, states = judge(root, spec.parent.parent / "executed", monkeypatch)
    # Two whole runs, and those that were killed after sbatch had been called.
    assert len(counted) == 2 + len(acts) - max(handing_over)
    assert len(states) > len(counted)


SBATCH = """#!/bin/bash
# The real sbatch, and a death before it, in the middle of it, or after it and before its answer.
case "{where}" in
    before) kill -9 $PPID; kill -9 $$ ;;
    inside) {real} "$@" & sleep {delay}; kill -9 $PPID $! ; kill -9 $$ ;;
    after) answer=$({real} "$@"); kill -9 $PPID; kill -9 $$ ;;
    alone) {real} "$@" >/dev/null & sleep {delay}; kill -9 $! ; kill -9 $$ ;;
esac
"""


def moments():
    chosen = random.Random(5)
    yield "before", 0.0
    yield "after", 0.0
    for _ in range(8):
        yield "inside", chosen.uniform(0.0, 0.03)
    for _ in range(6):
        yield "alone", chosen.uniform(0.0, 0.03)


def test_killed_around_sbatch_a_submission_runs_once_or_not_at_all(slurm, spec, monkeypatch):
    """`inside` kills both, `alone` only sbatch, whose answer is then lost."""
    tmp_path = spec.parent.parent
    root, tools = tmp_path / "runs", tmp_path / "tools"
    tools.mkdir()
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True).stdout.strip()
    for where, delay in moments():
        (tools / "sbatch").write_text(SBATCH.format(where=where, delay=delay, real=real))
        (tools / "sbatch").chmod(0o755)
        env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
        submit_killed(spec, root, 0 if where == "alone" else 10_000, env=env)
    counted, states = judge(root, tmp_path / "executed", monkeypatch)
    assert len(states) == 16
    # The one whose sbatch had done its work before both died.
    assert counted


def test_a_lost_terminal_does_not_matter(slurm, spec, monkeypatch):
    """Hang-ups at random moments, as a dropped connection sends them."""
    root = spec.parent.parent / "runs"
    chosen = random.Random(7)
    for _ in range(12):
        command = [sys.executable, "-m", "hpckit", "submit", str(spec), "--root", str(root)]
        submitter = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(chosen.uniform(0.2, 0.7))
        if submitter.poll() is None:
            os.killpg(submitter.pid, signal.SIGHUP)
        submitter.wait()
    judge(root, spec.parent.parent / "executed", monkeypatch)

"""A training on a real Slurm: over two nodes it is told of its limit, saves, and goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

from tests.cluster.test_chain import call, show, submit, wait_for


def test_at_its_time_limit_a_training_over_two_nodes_saves_and_the_next_attempt_goes_on(slurm, job):
    spec = job(
        "{trainer: trained.py:Small}",
        "params: {step_s: 0.05}",
        "resources: {nodes: 2, gpus_per_node: 1}",
    )
    shutil.copy(Path(__file__).with_name("trained.py"), spec.parent)
    run = submit(spec)[0]
    told = wait_for(
        run["run"],
        spec.parent,
        until=lambda told: told["attempts"] and (told["step"] or 0) > 20,
    )
    about = json.loads(Path(told["attempts"][0]["dir"], "attempt.json").read_text())
    os.kill(about["worker_pid"], signal.SIGUSR2)
    told = wait_for(run["run"], spec.parent, seconds=120.0)
    assert [attempt["reason"] for attempt in told["attempts"]] == ["time limit", "done"]
    first, second = told["attempts"]
    # Both ranks saved at one step; nothing was done twice, and nothing left out.
    assert first["to_step"] == second["from_step"] > 20
    assert (second["to_step"], told["gpu_hours"]["lost"]) == (120, 0.0)
    saved = told["checkpoints"]
    assert "told to end" in [each["why"] for each in saved] or len(saved) >= 3
    assert saved[-1]["step"] == 120


def test_a_bad_node_is_left_out_in_the_same_job_where_fewer_are_enough(slurm, job):
    # The first node is the worker's own.
    spec = job(
        "{trainer: trained.py:OnBadNode}",
        "params: {bad: n1, step_s: 0.02}",
        "checkpoint: {every: 10 steps, confirm_steps: 5}",
        "resources: {nodes: 2, min_nodes: 1, gpus_per_node: 1}",
    )
    shutil.copy(Path(__file__).with_name("trained.py"), spec.parent)
    run = submit(spec)[0]["run"]
    told = wait_for(run, spec.parent, seconds=120.0)
    (attempt,) = told["attempts"]
    (incident,) = (each for each in told["incidents"] if each["plan"] is not None)
    assert (told["state"], attempt["changes"]) == ("done", ["n1 left out"])
    assert (incident["kind"], incident["plan"]) == ("node_failure", "relaunch")
    # Two ranks, and then one that goes on from what both had saved.
    assert sorted(path.name for path in Path(told["dir"], "told").iterdir()) == [
        "1-1-0",
        "1-1-1",
        "1-2-0",
    ]


def test_a_growth_that_no_restart_heals_stops_the_run_and_says_so(slurm, job):
    spec = job("{trainer: trained.py:Exploding}")
    shutil.copy(Path(__file__).with_name("trained.py"), spec.parent)
    run = submit(spec)[0]["run"]
    told = wait_for(run, spec.parent, seconds=120.0)
    assert (told["state"], told["exit_code"]) == ("stopped", 3)
    assert told["reason"].startswith("structural")
    acted = [each for each in told["incidents"] if each["plan"] in ("rollback", "stop")]
    assert [each["plan"] for each in acted] == ["rollback", "rollback", "stop"]
    assert [each["applied"] for each in acted] == [True, True, False]
    assert told["gpu_hours"]["lost"] > 0
    assert "structural" in call("show", run, cwd=spec.parent)
    assert show(run, spec.parent)["attempts"][0]["changes"]

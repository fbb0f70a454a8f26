"""Runs on a real Slurm: the chain of attempts, sweeps, cancelling, and what is told of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpckit.clock import iso
from hpckit.files import write_json
from hpckit.scheduler.base import Cause
from hpckit.scheduler.slurm import Slurm
from hpckit.spec.sbatch_options import refusal


def call(*args, cwd, code=0, **env):
    done = subprocess.run(
        [sys.executable, "-m", "hpckit", *map(str, args)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=180,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def submit(spec, *args):
    return json.loads(call("submit", spec, "--json", *args, cwd=spec.parent))["runs"]


def show(run, cwd):
    # What is cached for half a minute would make each of these tests half a minute longer.
    cache = Path(os.environ["XDG_CACHE_HOME"], "hpckit")
    for file in cache.glob("queue-*.json"):
        known = json.loads(file.read_text())
        write_json(file, {**known, "queue_time": 0.0, "history_time": 0.0})
    return json.loads(call("show", run, "--json", cwd=cwd))


def wait_for(run, cwd, *, until=lambda told: told["exit_code"] is not None, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        told = show(run, cwd)
        if until(told):
            return told
        time.sleep(0.3)
    raise AssertionError(f"not in {seconds} s: {told}")


def test_ranks_over_two_nodes_know_each_other_and_have_their_gpus(slurm, job):
    spec = job(
        "{command: 'echo $RANK/$WORLD_SIZE $LOCAL_RANK $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES', "
        "processes: per_gpu}",
        "resources: {nodes: 2, gpus_per_node: a100:2, memory: 500M, time: 5m}",
    )
    call("submit", spec, "--follow", cwd=spec.parent)
    lines = [call("logs", "--rank", rank, cwd=spec.parent).strip() for rank in range(4)]
    assert lines == ["0/4 0 n1 0,1", "1/4 1 n1 0,1", "2/4 0 n2 0,1", "3/4 1 n2 0,1"]


@pytest.mark.parametrize(
    ("processes", "expected"), [("one", ["0/1"]), ("per_node", ["0/2", "1/2"])]
)
def test_processes_are_as_many_as_asked_for(slurm, job, processes, expected):
    spec = job(
        f"{{command: 'echo $RANK/$WORLD_SIZE', processes: {processes}}}",
        "resources: {nodes: 2, gpus_per_node: 2}",
    )
    call("submit", spec, "--follow", cwd=spec.parent)
    told = json.loads(call("show", "--json", cwd=spec.parent))
    logs = Path(told["attempts"][0]["dir"], "logs", "launch-1").glob("rank-*.log")
    assert sorted(log.read_text().strip() for log in logs) == expected


def test_one_rank_that_dies_ends_the_launch_and_is_named(slurm, job):
    spec = job(
        "{command: 'if [ $RANK = 2 ]; then exit 5; fi; sleep 100', processes: per_gpu}",
        "resources: {nodes: 2, gpus_per_node: 2}",
    )
    call("submit", spec, "--follow", cwd=spec.parent, code=4)
    told = json.loads(call("show", "--json", cwd=spec.parent))
    assert told["reason"] == "rank 2 ended with exit code 5"
    assert told["attempts"][0]["program"]["rank"] == 2


def test_a_rank_that_saves_is_not_ended_because_another_has_ended(slurm, job):
    """Told of the time limit, rank 0 saves for long, and the other dies of SIGTERM at once."""
    spec = job(
        "{command: bash ranks.sh, processes: per_gpu}",
        "resources: {nodes: 2, gpus_per_node: 1}",
    )
    # Longer than this Slurm's KillWait, after which the end of another would have it killed.
    (spec.parent / "ranks.sh").write_text(
        'if [ -e saved ]; then exit 0; fi\ntouch "ready.$RANK"\n'
        'if [ "$RANK" = 0 ]; then trap "sleep 9; touch saved; exit 0" TERM; fi\n'
        "while true; do sleep 0.1; done\n"
    )
    run = submit(spec)[0]
    work = Path(run["dir"], "work")
    ready = [work / "ready.0", work / "ready.1"]
    wait_for(run["run"], spec.parent, until=lambda _: all(path.exists() for path in ready))
    attempt = show(run["run"], spec.parent)["attempts"][0]
    about = json.loads(Path(attempt["dir"], "attempt.json").read_text())
    os.kill(about["worker_pid"], signal.SIGUSR2)
    told = wait_for(run["run"], spec.parent, seconds=90.0)
    assert [attempt["reason"] for attempt in told["attempts"]] == ["time limit", "done"]


def test_a_folder_with_spaces_and_quotes_in_its_name_works_on_slurm(slurm, job, tmp_path):
    spec = job("pwd")
    strange = tmp_path / 'it\'s a "job" $(touch broken) & more; é'
    shutil.copytree(spec.parent, strange)
    done = call("submit", "--follow", cwd=strange)
    assert done.splitlines()[-1].startswith(str(strange))
    assert not list(tmp_path.rglob("broken"))


def test_values_of_the_header_reach_slurm_as_they_are(slurm, job):
    comment = "two words; $(touch broken) 'quoted' \"twice\""
    spec = job("sleep 30", "slurm: {comment: " + json.dumps(comment) + ", nice: 5}")
    run = submit(spec)[0]
    array = run["job_id"].partition("_")[0]
    told = subprocess.run(
        ["scontrol", "show", "job", array], capture_output=True, text=True, check=True
    ).stdout
    call("cancel", run["run"], cwd=spec.parent)
    assert f"Comment={comment}" in told
    assert f"JobName={run['run']}" in told
    assert not list(spec.parent.parent.rglob("broken"))


def test_what_slurm_refuses_is_told_in_its_words_and_leaves_nothing(slurm, job):
    spec = job("true", "resources: {partition: nowhere}")
    done = subprocess.run(
        [sys.executable, "-m", "hpckit", "submit", str(spec)],
        cwd=spec.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "nvalid partition" in done.stderr
    assert "main" in done.stderr
    assert not list(spec.parent.glob("runs/tiny/*"))


def test_a_plain_scancel_of_the_running_attempt_is_final(slurm, job):
    spec = job("sleep 100")
    run = submit(spec)[0]
    wait_for(run["run"], spec.parent, until=lambda told: told["attempts"])
    subprocess.run(["scancel", run["job_id"]], check=True)
    told = wait_for(run["run"], spec.parent)
    assert (told["state"], told["reason"]) == ("cancelled", "cancelled by scancel")
    assert len(told["attempts"]) == 1


def test_a_plain_scancel_of_the_whole_chain_is_final(slurm, job):
    spec = job("sleep 100")
    run = submit(spec)[0]
    wait_for(run["run"], spec.parent, until=lambda told: told["attempts"])
    subprocess.run(["scancel", run["job_id"].partition("_")[0]], check=True)
    assert wait_for(run["run"], spec.parent)["state"] == "cancelled"


def test_accounting_tells_of_a_chain_that_was_scancelled_before_it_could_start(slurm, job):
    run = submit(job("sleep 100", "slurm: {begin: now+1hour}"))[0]
    subprocess.run(["scancel", run["job_id"].partition("_")[0]], check=True)
    name, since = run["run"], iso(time.time() - 60)
    end = time.monotonic() + 30
    while not (found := Slurm().history([name], since)):
        assert time.monotonic() < end
        time.sleep(0.3)
    assert {(each.name, each.cause, each.started) for each in found} == {
        (name, Cause.CANCELLED, None)
    }


def test_hpckit_cancel_ends_a_pending_run_and_its_jobs(slurm, job):
    spec = job("sleep 100", "slurm: {begin: now+1hour}")
    run = submit(spec)[0]
    told = wait_for(run["run"], spec.parent, until=lambda told: told["reason"])
    assert (told["state"], told["reason"]) == ("pending", "BeginTime")
    assert told["next"]["job_id"] == run["job_id"]
    assert told["next"]["expected"]
    assert "cancelled" in call("cancel", run["run"], cwd=spec.parent)
    assert show(run["run"], spec.parent)["state"] == "cancelled"
    queue = subprocess.run(["squeue", "-h", "-n", run["run"]], capture_output=True, text=True)
    assert queue.stdout == ""


def test_a_scancel_is_final_even_while_the_program_is_still_saving(slurm, job):
    """The next link starts at once, beside an attempt that takes its time to end."""
    spec = job("bash slow.sh")
    (spec.parent / "slow.sh").write_text(
        "trap 'sleep 3; exit 0' TERM\ntouch ready; while true; do sleep 0.1; done\n"
    )
    run = submit(spec)[0]
    ready = Path(run["dir"], "work", "ready")
    wait_for(run["run"], spec.parent, until=lambda _: ready.exists())
    subprocess.run(["scancel", run["job_id"]], check=True)
    told = wait_for(run["run"], spec.parent)
    assert (told["state"], len(told["attempts"])) == ("cancelled", 1)


@pytest.mark.parametrize("ends", ["exit 0", "exit 3"])
def test_a_preempted_run_goes_on_whatever_its_program_ends_with(slurm, job, ends):
    spec = job("bash resumable.sh", "resources: {partition: low, cpus_per_node: 8, time: 5m}")
    (spec.parent / "resumable.sh").write_text(
        f"if [ -e saved ]; then echo second; exit 0; fi\ntrap 'touch saved; {ends}' TERM\n"
        "touch ready; while true; do sleep 0.1; done\n"
    )
    run = submit(spec)[0]
    ready = Path(run["dir"], "work", "ready")
    wait_for(run["run"], spec.parent, until=lambda _: ready.exists())
    wrap = ["--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 3"]
    subprocess.run(["sbatch", *wrap], check=True, capture_output=True)
    told = wait_for(run["run"], spec.parent, seconds=90)
    assert (told["state"], len(told["attempts"])) == ("done", 2), told
    assert call("logs", run["run"], cwd=spec.parent) == "second\n"


def test_points_that_a_person_cancels_are_cancelled(slurm, job):
    spec = job('"sleep 100"', "sweep: {seeds: 2}")
    runs = submit(spec)
    for run in runs:
        wait_for(run["run"], spec.parent, until=lambda told: told["attempts"])
    subprocess.run(["scancel", runs[0]["job_id"]], check=True)
    assert wait_for(runs[0]["run"], spec.parent)["state"] == "cancelled"
    assert show(runs[1]["run"], spec.parent)["state"] == "running"


def test_a_lost_node_is_no_reason_to_stop(slurm, job):
    """The next link starts by itself, elsewhere; the attempt before is told as what it was."""
    spec = job(
        "bash resumable.sh",
        "resources: {time: 5m}",
    )
    (spec.parent / "resumable.sh").write_text(
        "if [ -e started ]; then echo again on $SLURMD_NODENAME; exit 0; fi\n"
        "echo $SLURMD_NODENAME > started; exec sleep 200\n"
    )
    run = submit(spec)[0]
    started = Path(run["dir"], "work", "started")
    wait_for(run["run"], spec.parent, until=lambda _: started.exists() and started.read_text())
    node = started.read_text().strip()
    slurm.stop(f"slurmd-{node}")
    try:
        told = wait_for(run["run"], spec.parent, seconds=100)
        assert [attempt["reason"] for attempt in told["attempts"]] == ["node failed", "done"]
        other = {"n1": "n2", "n2": "n1"}[node]
        assert call("logs", run["run"], cwd=spec.parent) == f"again on {other}\n"
    finally:
        slurm.start(f"slurmd-{node}")


def test_when_slurm_does_not_answer_what_lives_is_running_and_nothing_hangs(slurm, job):
    spec = job("sleep 20")
    run = submit(spec)[0]["run"]
    wait_for(run, spec.parent, until=lambda told: told["state"] == "running")
    slurm.stop("slurmctld")
    try:
        began = time.monotonic()
        told = show(run, spec.parent)
        assert told["state"] == "running"
        assert "squeue" in told["reason"]
        assert time.monotonic() - began < 30
        refused = subprocess.run(
            [sys.executable, "-m", "hpckit", "submit", str(spec)],
            cwd=spec.parent,
            capture_output=True,
            text=True,
        )
        assert refused.returncode == 1
        assert "does not answer" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert len(list(spec.parent.glob("runs/tiny/*"))) == 1
    finally:
        slurm.start("slurmctld")
    told = wait_for(run, spec.parent)
    assert told["state"] == "done", told


def test_a_deleted_run_directory_ends_its_job_within_a_minute(slurm, job):
    spec = job("sleep 1", "slurm: {begin: now+3}", "limits: {attempts: 3}")
    run = submit(spec)[0]
    shutil.rmtree(run["dir"])
    array = run["job_id"].partition("_")[0]
    end = time.monotonic() + 60
    while subprocess.run(["squeue", "-h", "-j", array], capture_output=True).stdout:
        assert time.monotonic() < end
        time.sleep(0.5)


def test_a_sweep_on_slurm_is_one_array_with_its_throttle(slurm, job):
    spec = job(
        '"echo {params.lr}; sleep 1"',
        "params: {lr: 1}",
        "sweep: {grid: {lr: [1, 2, 3]}, at_most: 2}",
    )
    runs = submit(spec)
    arrays = {run["job_id"].partition("_")[0] for run in runs}
    assert len(arrays) == 1
    limit = subprocess.run(
        ["scontrol", "show", "job", arrays.pop()], capture_output=True, text=True, check=True
    ).stdout
    assert "ArrayTaskThrottle=2" in limit
    for run in runs:
        assert wait_for(run["run"], spec.parent)["state"] == "done"
    assert [call("logs", run["run"], cwd=spec.parent).strip() for run in runs] == ["1", "2", "3"]


def test_inside_salloc_a_foreground_run_uses_the_allocation(slurm, job):
    spec = job(
        "{command: 'echo $RANK/$WORLD_SIZE on $SLURMD_NODENAME', processes: per_node}",
        "resources: {nodes: 2}",
    )
    done = subprocess.run(
        ["salloc", "-N2", "-t1", sys.executable, "-m", "hpckit", "run", str(spec)],
        cwd=spec.parent,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    logs = sorted(spec.parent.rglob("rank-*.log"))
    assert [log.read_text() for log in logs] == ["0/2 on n1\n", "1/2 on n2\n"]


def test_the_environment_of_an_outer_job_does_not_leak_into_an_inner_one(slurm, job):
    spec = job('"env | grep ^SLURM_ | sort"')
    outer = {"SLURM_CPU_BIND": "mask_cpu:0x1", "SBATCH_PARTITION": "nowhere", "SLURM_NTASKS": "64"}
    call("submit", spec, "--follow", cwd=spec.parent, **outer)
    text = call("logs", cwd=spec.parent)
    assert "mask_cpu" not in text
    assert "SLURM_NTASKS=1\n" in text


def test_the_doctor_looks_at_a_node_and_finds_this_cluster_well(slurm, job):
    spec = job("true", "resources: {partition: main}")
    told = json.loads(call("doctor", spec, "--json", cwd=spec.parent))
    found = {finding["check"]: finding["status"] for finding in told["findings"]}
    assert told["ok"]
    for check in ("shared folder", "python on the nodes", "sbatch on nodes", "scontrol update"):
        assert found[check] == "ok"
    assert not [f for f in told["findings"] if f["status"] != "ok" and not f["remedy"]]


def test_the_doctor_says_what_a_spec_asks_in_vain(slurm, job):
    spec = job(
        "{command: 'true', processes: one}", "resources: {partition: main, time: 90d, nodes: 9}"
    )
    told = json.loads(call("doctor", spec, "--json", "--no-probe", cwd=spec.parent, code=1))
    messages = [f["message"] for f in told["findings"] if f["status"] == "fail"]
    assert messages == [
        "resources.time is longer than the partition's 2d",
        "resources.nodes: the partition has 2",
    ]


def test_no_option_of_this_slurm_is_taken_for_a_slip(slurm):
    told = subprocess.run(["sbatch", "--help"], capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"--([a-z][a-z0-9-]+)", told))
    assert len(options) > 80
    assert [option for option in options if "did you mean" in refusal(option)] == []

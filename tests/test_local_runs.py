"""From a spec to its end and back, under the local scheduler, with real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def submit(cli, spec, *args, code=0, **more):
    done = cli(
        "submit", spec, "--cluster", "local", "--json", *args, cwd=spec.parent, code=code, **more
    )
    return json.loads(done.stdout)["runs"]


def show(cli, run, cwd):
    return json.loads(cli("show", run, "--json", cwd=cwd).stdout)


def wait_for(cli, run, cwd, *, until=lambda told: told["exit_code"] is not None, seconds=40.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        told = show(cli, run, cwd)
        if until(told):
            return told
        time.sleep(0.2)
    raise AssertionError(f"not in {seconds} s: {told}")


def test_a_job_runs_to_its_end_and_is_remembered(cli, job):
    spec = job('"echo rank $RANK of $WORLD_SIZE, lr {params.lr}"', "params: {lr: 1e-3}")
    followed = cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent)
    assert "rank 0 of 1, lr 0.001" in followed.stdout
    assert "-- done" in followed.stderr
    told = json.loads(cli("show", "--json", cwd=spec.parent).stdout)
    assert (told["state"], told["exit_code"], told["params"]) == ("done", 0, {"lr": 0.001})
    assert [attempt["reason"] for attempt in told["attempts"]] == ["done"]
    assert Path(told["dir"], "spec.yaml").read_text() == spec.read_text()
    assert cli("logs", cwd=spec.parent).stdout == "rank 0 of 1, lr 0.001\n"
    printed = json.loads(cli("logs", "--json", cwd=spec.parent).stdout)
    assert (printed["rank"], printed["lines"]) == (0, ["rank 0 of 1, lr 0.001"])
    assert "tiny/" in cli("ls", cwd=spec.parent).stdout


def test_a_program_that_fails_ends_the_run_with_its_last_words(cli, job):
    spec = job('"echo it broke here; exit 7"')
    cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent, code=4)
    told = show(cli, "tiny", spec.parent)
    assert (told["state"], told["exit_code"]) == ("failed", 4)
    assert told["attempts"][0]["program"] == {"rank": 0, "code": 7, "stage": "program"}
    assert len(told["attempts"]) == 1
    text = cli("show", cwd=spec.parent).stdout
    assert "the program ended with exit code 7" in text
    assert "it broke here" in text


def test_a_setup_line_that_fails_stops_the_launch(cli, job):
    spec = job('"touch started"', 'environment: {setup: ["false", "touch went_on"]}')
    cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent, code=4)
    told = show(cli, "tiny", spec.parent)
    assert told["reason"] == "the environment's setup ended with exit code 1"
    assert "hpckit: setup ended at: false" in cli("logs", cwd=spec.parent).stdout
    assert not list(Path(told["dir"], "work").glob("started"))
    assert not list(Path(told["dir"], "work").glob("went_on"))


def test_a_pipe_does_not_hide_that_its_program_failed(cli, job):
    spec = job('"false | cat"')
    cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent, code=4)


def test_editing_the_folder_after_submit_does_not_change_a_queued_run(cli, job):
    spec = job('"sleep 1; cat note.txt"')
    (spec.parent / "note.txt").write_text("as it was\n")
    run = submit(cli, spec)[0]["run"]
    (spec.parent / "note.txt").write_text("edited\n")
    wait_for(cli, run, spec.parent)
    assert cli("logs", run, cwd=spec.parent).stdout == "as it was\n"


def test_a_trainer_may_be_a_plain_function_and_needs_no_hpckit(cli, job, tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    spec = job(
        "{trainer: 'train.py:fit'}", f"environment: {{venv: '{bare}'}}", "params: {a: {b: 2}}"
    )
    (spec.parent / "train.py").write_text(
        "import importlib.util, sys\n"
        "def fit(params):\n"
        "    print(params['a']['b'], importlib.util.find_spec('hpckit'), sys.prefix)\n"
    )
    cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent)
    assert cli("logs", cwd=spec.parent).stdout == f"2 None {bare}\n"


def test_what_hpckit_refuses_a_trainer_is_told_with_the_trainer_s_own_lines_alone(cli, job):
    spec = job("{trainer: 'train.py:fit'}")
    (spec.parent / "train.py").write_text(
        "from hpckit.audio.sounds import sounds\n"
        "def fit(params):\n"
        "    sounds('no/such', rate=8000, seconds=1.0)\n"
    )
    cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent, code=4)
    told = show(cli, "tiny", spec.parent)
    # Where it was looked for is the run's own folder, and nobody would guess it.
    where = f"{told['dir']}/work/no/such: no such folder at train.py:3 in fit"
    assert told["reason"].startswith(f"hpckit.errors.NotFound: {where}")
    log = cli("logs", cwd=spec.parent).stdout
    assert re.findall(r'File ".*/(.*)"', log) == ["train.py"]
    assert "sounds are 'speech', 'generated', or a folder" in log


def test_a_trainer_that_is_missing_is_named(cli, job):
    spec = job("{trainer: 'train.py:fit'}")
    (spec.parent / "train.py").write_text("def fitt(params): pass\n")
    done = cli("submit", spec, "--cluster", "local", cwd=spec.parent, code=2)
    assert "job.yaml:2:20: program.trainer: train.py defines no fit; did you mean" in done.stderr
    (spec.parent / "train.py").unlink()
    done = cli("submit", spec, "--cluster", "local", cwd=spec.parent, code=2)
    assert "program.trainer: there is no train.py in" in done.stderr
    told = json.loads(cli("check", spec, "--json", cwd=spec.parent).stdout)
    assert (told["valid"], told["warnings"][0]["path"]) == (True, "program.trainer")
    # What cannot be told without running it is told by whoever runs it.
    (spec.parent / "train.py").write_text("from os.path import *\n")
    cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent, code=4)
    assert "train.py has no fit" in cli("show", cwd=spec.parent).stdout


def test_a_script_that_is_missing_is_named(cli, job):
    spec = job("{python: 'train.py --lr 1'}")
    done = cli("submit", spec, "--cluster", "local", cwd=spec.parent, code=2)
    assert "program.python: there is no train.py in" in done.stderr
    told = json.loads(cli("check", spec, "--json", cwd=spec.parent).stdout)
    assert (told["valid"], told["warnings"][0]["path"]) == (True, "program.python")


def test_a_folder_with_spaces_and_quotes_in_its_name_works(cli, job, tmp_path):
    spec = job('"pwd; cat data/x"')
    strange = tmp_path / 'it\'s a "job" $(touch broken) & more; é'
    shutil.copytree(spec.parent, strange)
    (strange / "data").mkdir()
    (strange / "data" / "x").write_text("found\n")
    (strange / ".hpckitignore").write_text("data/\n")
    done = cli("submit", "--cluster", "local", "--follow", cwd=strange)
    assert done.stdout.endswith("found\n")
    assert str(strange) in done.stdout
    assert not list(tmp_path.rglob("broken"))


def test_two_terminals_that_submit_the_same_spec_at_once_get_two_runs(cli, job):
    spec = job()
    command = [sys.executable, "-m", "hpckit", "submit", str(spec), "--cluster", "local", "--json"]
    both = [
        subprocess.Popen(command, cwd=spec.parent, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    runs = [json.loads(process.communicate()[0])["runs"][0] for process in both]
    assert len({run["run"] for run in runs}) == 4
    assert len({run["job_id"] for run in runs}) == 4
    for run in runs:
        assert wait_for(cli, run["run"], spec.parent)["state"] == "done"


def test_cancel_is_final_and_says_so(cli, job):
    spec = job('"sleep 60"')
    run = submit(cli, spec)[0]["run"]
    wait_for(cli, run, spec.parent, until=lambda told: told["attempts"])
    assert "cancelled" in cli("cancel", run, cwd=spec.parent).stdout
    told = wait_for(cli, run, spec.parent)
    assert (told["state"], told["exit_code"]) == ("cancelled", 4)
    assert "already cancelled" in cli("cancel", run, cwd=spec.parent).stdout
    time.sleep(1.5)
    assert len(show(cli, run, spec.parent)["attempts"]) == 1


def worker_pid(told):
    return json.loads(Path(told["attempts"][-1]["dir"], "attempt.json").read_text())["worker_pid"]


def test_at_the_time_limit_the_program_saves_and_the_next_attempt_goes_on(cli, job):
    spec = job("bash resumable.sh")
    (spec.parent / "resumable.sh").write_text(
        'if [ -e saved ]; then echo "going on after $(cat saved)"; exit 0; fi\n'
        "trap 'echo step 5 > saved; exit 0' TERM\n"
        "echo ready > ready; while true; do sleep 0.1; done\n"
    )
    run = submit(cli, spec)[0]
    ready = Path(run["dir"], "work", "ready")
    wait_for(cli, run["run"], spec.parent, until=lambda told: told["attempts"] and ready.exists())
    os.kill(worker_pid(show(cli, run["run"], spec.parent)), signal.SIGUSR2)
    told = wait_for(cli, run["run"], spec.parent)
    assert [attempt["reason"] for attempt in told["attempts"]] == ["time limit", "done"]
    assert cli("logs", run["run"], cwd=spec.parent).stdout == "going on after step 5\n"


def test_an_attempt_s_end_leaves_a_stopped_run_when_no_attempt_is_left(cli, job):
    spec = job('"sleep 60"', "limits: {attempts: 1}")
    said = cli("submit", spec, "--cluster", "local", cwd=spec.parent).stdout
    assert "; one attempt\n" in said
    assert ", 1 attempt\n" in said
    assert "then the next attempt starts" not in said
    run = said.split()[0]
    told = wait_for(cli, run, spec.parent, until=lambda told: told["attempts"])
    time.sleep(0.5)
    os.kill(worker_pid(told), signal.SIGUSR2)
    told = wait_for(cli, run, spec.parent)
    assert (told["state"], told["exit_code"]) == ("stopped", 3)
    assert told["reason"] == "time limit; all 1 attempts are used"


def test_the_limit_on_hours_is_hard(cli, job):
    spec = job('"sleep 60"', "limits: {gpu_hours: 0.0005}")
    submitted = cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent, code=3)
    assert "at most 0.0005 node h" in submitted.stdout
    told = show(cli, "tiny", spec.parent)
    assert told["state"] == "stopped"
    assert told["reason"].startswith("limits.gpu_hours")


def test_the_limit_on_time_counts_from_submission(cli, job):
    spec = job('"sleep 60"', "limits: {total: 2s}")
    cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent, code=3)
    assert show(cli, "tiny", spec.parent)["reason"].startswith("limits.total")


def test_a_sweep_is_a_table_of_runs_that_share_spec_and_code(cli, job):
    spec = job(
        '"echo {params.lr} {params.seed}"',
        "params: {lr: 1}",
        "sweep: {grid: {lr: [0.1, 0.2]}, seeds: 2, at_most: 2}",
    )
    runs = submit(cli, spec)
    assert [run["params"] for run in runs] == [
        {"lr": 0.1, "seed": 0},
        {"lr": 0.1, "seed": 1},
        {"lr": 0.2, "seed": 0},
        {"lr": 0.2, "seed": 1},
    ]
    sweep = runs[0]["run"].rpartition("/")[0]
    for run in runs:
        assert wait_for(cli, run["run"], spec.parent)["state"] == "done"
        assert not Path(run["dir"], "code").exists()
        words = [str(run["params"]["lr"]), str(run["params"]["seed"])]
        assert cli("logs", run["run"], cwd=spec.parent).stdout.split() == words
    text = cli("show", sweep, cwd=spec.parent).stdout
    assert "4 done" in text
    assert "lr" in text
    listed = json.loads(cli("ls", "--json", cwd=spec.parent).stdout)["runs"]
    assert [(row["run"], row["state"], row["points"]) for row in listed] == [(sweep, "done", 4)]


def test_one_point_of_a_sweep_can_be_cancelled(cli, job):
    spec = job('"sleep {params.s}"', "params: {s: 1}", "sweep: {grid: {s: [30, 2]}}")
    runs = submit(cli, spec)
    wait_for(cli, runs[0]["run"], spec.parent, until=lambda told: told["attempts"])
    cli("cancel", runs[0]["run"], cwd=spec.parent)
    assert wait_for(cli, runs[0]["run"], spec.parent)["state"] == "cancelled"
    assert wait_for(cli, runs[1]["run"], spec.parent)["state"] == "done"


def test_a_dry_run_writes_nothing(cli, job):
    spec = job()
    before = sorted(spec.parent.rglob("*"))
    done = cli("submit", spec, "--dry-run", "--cluster", "local", cwd=spec.parent)
    assert "#SBATCH --array=1-12%1" in done.stdout
    assert sorted(spec.parent.rglob("*")) == before


def test_a_read_only_root_is_one_sentence_and_exit_code_1(cli, job):
    spec = job()
    done = cli(
        "submit", spec, "--cluster", "local", "--root", "/proc/runs", cwd=spec.parent, code=1
    )
    assert "cannot write /proc/runs" in done.stderr
    assert "HPCKIT_ROOT" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_leaves_nothing_behind(cli, job, small_disk):
    spec = job()
    (spec.parent / "filler").write_bytes(os.urandom(600_000))
    small = small_disk("512k")
    done = cli("submit", spec, "--cluster", "local", "--root", small, cwd=spec.parent, code=1)
    assert "No space left on device" in done.stderr
    assert not [path for path in small.rglob("*") if path.is_file()]
    assert cli("ls", "--root", small).stdout == ""


def test_watch_prints_each_change_when_piped_and_returns_the_outcome(cli, job):
    spec = job('"sleep 1; exit 1"')
    run = submit(cli, spec)[0]["run"]
    done = cli("watch", run, cwd=spec.parent, code=4)
    assert done.stdout.splitlines()[-1] == f"{run}: failed: the program ended with exit code 1"


def test_logs_follow_goes_over_attempts_to_the_end(cli, job):
    spec = job("bash twice.sh")
    (spec.parent / "twice.sh").write_text(
        'if [ -e saved ]; then echo second; exit 0; fi\ntrap "touch saved; exit 0" TERM\n'
        "echo first; touch ready; while true; do sleep 0.1; done\n"
    )
    run = submit(cli, spec)[0]
    follower = subprocess.Popen(
        [sys.executable, "-m", "hpckit", "logs", "-f", run["run"]],
        cwd=spec.parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    ready = Path(run["dir"], "work", "ready")
    told = wait_for(
        cli, run["run"], spec.parent, until=lambda told: told["attempts"] and ready.exists()
    )
    os.kill(worker_pid(told), signal.SIGUSR2)
    lines = follower.communicate(timeout=60)[0].splitlines()
    # Between them bash tells of the sleep that was terminated.
    assert (lines[0], lines[-1]) == ("first", "second")
    assert follower.returncode == 0


def test_following_a_sweep_returns_its_outcome(cli, job):
    spec = job('"exit {params.code}"', "params: {code: 0}", "sweep: {seeds: 2}")
    done = cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent)
    assert done.stdout.splitlines()[-1].endswith(": done: 2 done")
    spec = job('"exit {params.code}"', "params: {code: 0}", "sweep: {grid: {code: [0, 1]}}")
    cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent, code=4)


def test_earlier_runs_in_the_job_s_folder_are_not_copied_into_the_next(cli, job):
    spec = job("true")
    for root in ("a", "b", "a", "runs"):
        submit(cli, spec, "--root", root)
    sizes = [len(list(path.rglob("*.yaml"))) for path in spec.parent.glob("*/tiny/*/code")]
    assert sizes == [1, 1, 1, 1]
    cli("submit", spec, "--cluster", "local", "--root", ".", cwd=spec.parent, code=2)


def fill_up(disk):
    """Leave no room, but a file that gives it back."""
    with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


def test_a_disk_that_is_full_for_a_while_does_not_end_a_training(cli, job, small_disk):
    """The heartbeat fails, and the program that needs no disk goes on to its end."""
    spec = job('"touch ready; sleep 3; rm -f ../../../filler; sleep 1"')
    small = small_disk("4m")
    run = submit(cli, spec, "--root", small)[0]
    while not Path(run["dir"], "work", "ready").exists():
        time.sleep(0.05)
    fill_up(small)
    end = time.monotonic() + 40
    while time.monotonic() < end:
        told = json.loads(cli("show", run["run"], "--json", "--root", small).stdout)
        if told["exit_code"] is not None:
            break
        time.sleep(0.3)
    assert told["state"] == "done", told


def test_a_rank_that_saves_is_not_ended_because_another_has_ended(cli, job):
    """At the time limit rank 0 saves for long; the others die of SIGTERM at once."""
    spec = job("{command: bash ranks.sh, processes: per_gpu}", "resources: {gpus_per_node: 2}")
    (spec.parent / "ranks.sh").write_text(
        'if [ -e saved ]; then exit 0; fi\ntouch "ready.$RANK"\n'
        'if [ "$RANK" = 0 ]; then trap "sleep 12; touch saved; exit 0" TERM; fi\n'
        "while true; do sleep 0.1; done\n"
    )
    run = submit(cli, spec, env={"CUDA_VISIBLE_DEVICES": "0,1"})[0]
    work = Path(run["dir"], "work")
    ready = [work / "ready.0", work / "ready.1"]
    told = wait_for(
        cli,
        run["run"],
        spec.parent,
        until=lambda told: told["attempts"] and all(path.exists() for path in ready),
    )
    os.kill(worker_pid(told), signal.SIGUSR2)
    told = wait_for(cli, run["run"], spec.parent)
    assert [attempt["reason"] for attempt in told["attempts"]] == ["time limit", "done"]
    assert (work / "saved").exists()


def test_a_sweep_whose_jobs_are_not_seen_from_here_is_not_said_to_be_cancelled(cli, job, tmp_path):
    spec = job('"sleep 30"', "sweep: {seeds: 2}")
    runs = submit(cli, spec)
    sweep = runs[0]["run"].rpartition("/")[0]
    for run in runs:
        wait_for(cli, run["run"], spec.parent, until=lambda told: told["attempts"])
    elsewhere = {"HPCKIT_LOCAL_DIR": str(tmp_path / "elsewhere")}
    done = cli("cancel", sweep, cwd=spec.parent, env=elsewhere, code=5)
    assert "2 of its runs have jobs that are not seen from here" in done.stderr
    assert show(cli, runs[0]["run"], spec.parent)["state"] == "running"
    assert "cancelled" in cli("cancel", sweep, cwd=spec.parent).stdout
    assert wait_for(cli, runs[1]["run"], spec.parent)["state"] == "cancelled"


def test_workers_that_cannot_come_up_do_not_burn_the_whole_chain(cli, job):
    spec = job()
    told = {"reason": "done"}
    # A worker on a busy machine may have been faster than we are.
    while told["reason"] == "done":
        run = submit(cli, spec, env={"HPCKIT_LOCAL_CPUS": "1"})[0]
        # Whatever hinders a worker: here what it is told to do is damaged.
        (Path(run["dir"]) / "chains" / "001" / "job.pkl").write_bytes(b"nonsense")
        told = wait_for(cli, run["run"], spec.parent)
    assert told["reason"] == "the worker itself died: hpckit logs --worker tells more"
    assert "did not come up 3 times" in cli("logs", "--worker", run["run"], cwd=spec.parent).stdout
    first = Path(run["dir"], "chains", "001", f"{run['job_id'].partition('_')[0]}_1.log")
    assert "UnpicklingError" in first.read_text()


def test_a_closed_stderr_stops_no_submission(job):
    spec = job()
    command = [sys.executable, "-m", "hpckit", "submit", str(spec), "--cluster", "local", "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, cwd=spec.parent, stdout=subprocess.PIPE, stderr=full, text=True, timeout=60
        )
    assert done.returncode == 0
    assert json.loads(done.stdout)["runs"]


def test_on_a_full_disk_a_run_can_be_cancelled(cli, job, small_disk):
    spec = job('"sleep 60"')
    small = small_disk("2m")
    run = submit(cli, spec, "--root", small)[0]
    root = {"HPCKIT_ROOT": str(small)}
    while not json.loads(cli("show", "--json", env=root).stdout)["attempts"]:
        time.sleep(0.1)
    fill_up(small)
    done = cli("cancel", run["run"], env=root, code=1)
    assert "its jobs are cancelled, but it cannot be written down" in done.stderr
    until = time.monotonic() + 20
    while (told := json.loads(cli("show", "--json", env=root).stdout))["state"] == "running":
        assert time.monotonic() < until
        time.sleep(0.2)
    assert told["state"] == "cancelled"
    (small / "filler").unlink()
    assert not [path for path in small.rglob("ledger/*") if path.stat().st_size == 0]


def test_the_jobs_of_a_run_whose_folder_is_gone_can_be_cancelled(cli, job):
    spec = job('"sleep 60"')
    run = submit(cli, spec)[0]
    wait_for(cli, run["run"], spec.parent, until=lambda told: told["attempts"])
    shutil.rmtree(run["dir"])
    local = {"HPCKIT_CLUSTER": "local"}
    done = cli("cancel", run["run"], cwd=spec.parent, env=local)
    assert done.stdout == f"{run['run']}: its folder is gone, and its jobs are cancelled\n"
    until = time.monotonic() + 20
    while cli("cancel", run["run"], cwd=spec.parent, env=local, code=None).returncode != 5:
        assert time.monotonic() < until

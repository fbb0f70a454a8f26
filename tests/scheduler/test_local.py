"""The local scheduler with real processes, real signals and real ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpckit.errors import CannotWrite, HpckitError, SubmissionRefused
from hpckit.scheduler import local_state as state
from hpckit.scheduler.base import Cause, JobStatus, Phase
from hpckit.scheduler.local import Local, visible_gpus

LONG_S = 15.0
SUBMIT = "from pathlib import Path; from hpckit.scheduler.local import Local; print(Local().submit"


class Bench:
    """A scheduler with a folder of its own, and a folder to submit from."""

    def __init__(self, local: Local, folder: Path) -> None:
        self.local, self.folder = local, folder

    def submit(self, body: str, *options: str, name: str = "job.sh") -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options), body]
        script = self.folder / name
        script.write_text("\n".join(lines) + "\n")
        return self.local.submit(script)

    def job(self, job_id: str) -> JobStatus:
        return next(job for job in self.local.queue() if job.job_id == job_id)

    def is_over(self, array_id: str) -> bool:
        mine = [job for job in self.local.queue() if job.array_id == array_id]
        return all(job.phase is Phase.ENDED for job in mine)

    def until_over(self, array_id: str) -> None:
        until(lambda: self.is_over(array_id))

    def text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""


def until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG_S
    while not is_true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def is_alive(pid: str | int) -> bool:
    fields = state.stat_of(pid)
    return fields is not None and fields[0] != "Z"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("HPCKIT_LOCAL_KILLWAIT", "0.4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    local = Local(tmp_path / "state")
    yield Bench(local, tmp_path / "jobs")
    local.cancel([job.array_id for job in local.queue()])
    until(lambda: all(job.phase is Phase.ENDED for job in local.queue()))


def test_a_job_runs_where_it_was_submitted_and_ends_completed(bench: Bench) -> None:
    job_id = bench.submit("echo hello; pwd", "--job-name=first", "--output=%j.log")
    bench.until_over(job_id)
    job = bench.job(job_id)
    assert (job.name, job.phase, job.cause) == ("first", Phase.ENDED, Cause.COMPLETED)
    assert (job.exit_code, job.signal, job.task) == (0, None, None)
    assert job.submitted is not None
    assert job.started is not None
    assert job.ended is not None
    assert job.submitted <= job.started <= job.ended
    (log,) = bench.folder.glob("*.log")
    assert log.read_text() == f"hello\n{bench.folder}\n"


def test_folders_and_names_with_spaces_and_quotes(bench: Bench) -> None:
    bench.folder = bench.folder / 'it\'s a "dir" $HOME'
    job_id = bench.submit("pwd", "--output='%x %A.log'", "--job-name='a b'", name="my 'job'.sh")
    bench.until_over(job_id)
    assert bench.text(f"a b {job_id}.log") == f"{bench.folder}\n"


def test_the_script_is_the_one_that_was_submitted(bench: Bench) -> None:
    job_id = bench.submit("cat $0 > seen", "--dependency=singleton")
    (bench.folder / "job.sh").write_text("#!/bin/bash\necho changed > seen\n")
    bench.until_over(job_id)
    assert "cat $0" in bench.text("seen")


def test_a_job_starts_and_is_followed_within_moments(bench: Bench) -> None:
    begin = time.time()
    job_id = bench.submit("date +%s.%N >> times", "--array=1-3%1")
    bench.until_over(job_id)
    first, second, third = (float(line) for line in bench.text("times").split())
    # Alone on a machine these are 0.09 and 0.02; other tests may keep the processors busy.
    assert first - begin < 1.0
    assert second - first < 0.5
    assert third - second < 0.5


def test_a_chain_runs_its_links_in_order_and_one_at_a_time(bench: Bench) -> None:
    body = "echo in $SLURM_ARRAY_TASK_ID >> log; sleep 0.1; echo out >> log; exit 75"
    job_id = bench.submit(body, "--array=1-3%1")
    bench.until_over(job_id)
    assert bench.text("log").split("\n")[:-1] == ["in 1", "out", "in 2", "out", "in 3", "out"]
    assert [bench.job(f"{job_id}_{task}").exit_code for task in (1, 2, 3)] == [75, 75, 75]


def test_the_throttle_is_kept_and_used(bench: Bench) -> None:
    me = "run.$SLURM_ARRAY_TASK_ID"
    body = f"touch {me}; ls run.* | wc -l >> seen; sleep 0.2; rm {me}"
    job_id = bench.submit(body, "--array=0-6%3")
    bench.until_over(job_id)
    assert max(int(line) for line in bench.text("seen").split()) == 3


def test_several_jobs_run_at_once(bench: Bench) -> None:
    ids = [bench.submit("sleep 30", name=f"{number}.sh") for number in range(3)]
    until(lambda: all(bench.job(job_id).phase is Phase.RUNNING for job_id in ids))
    assert len(set(ids)) == 3


def test_a_running_chain_shows_its_task_and_its_remainder(bench: Bench) -> None:
    job_id = bench.submit("sleep 30", "--array=1-4%1", "--time=10")
    until(lambda: (bench.folder.parent / "state" / job_id / "tasks" / "1.json").exists())
    task, rest = bench.local.queue()
    assert (task.job_id, task.phase, task.task) == (f"{job_id}_1", Phase.RUNNING, 1)
    assert task.ends_by is not None
    assert task.ends_by > (task.started or "")
    assert (rest.job_id, rest.phase, rest.task) == (job_id, Phase.PENDING, None)
    assert (rest.pending_tasks, rest.reason) == ((2, 3, 4), "JobArrayTaskLimit")


def test_exit_codes_and_signals_are_told(bench: Bench) -> None:
    fails, killed = bench.submit("exit 7"), bench.submit("kill -9 $$")
    bench.until_over(fails)
    bench.until_over(killed)
    assert (bench.job(fails).cause, bench.job(fails).exit_code) == (Cause.FAILED, 7)
    job = bench.job(killed)
    assert (job.cause, job.exit_code, job.signal) == (Cause.FAILED, None, 9)


def test_the_signal_comes_before_the_limit_and_only_to_the_batch_process(bench: Bench) -> None:
    body = (
        "trap 'echo warned >> log' USR2\n"
        "bash -c \"trap 'echo child-warned >> log' USR2; while :; do sleep 0.05; done\" &\n"
        "while :; do sleep 0.05; done"
    )
    job_id = bench.submit(body, "--time=00:00:02", "--signal=B:USR2@1")
    begin = time.monotonic()
    until(lambda: bench.text("log") != "")
    assert 0.5 < time.monotonic() - begin < 1.9
    bench.until_over(job_id)
    assert 1.8 < time.monotonic() - begin < 4.0
    assert bench.text("log") == "warned\n"
    assert bench.job(job_id).cause is Cause.TIMEOUT
    assert bench.job(job_id).reason == "TimeLimit"


def test_a_job_over_its_limit_that_ignores_sigterm_is_killed(bench: Bench) -> None:
    body = "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done"
    job_id = bench.submit(body, "--time=00:00:01")
    bench.until_over(job_id)
    assert (bench.job(job_id).cause, bench.job(job_id).signal) == (Cause.TIMEOUT, 9)
    assert not is_alive(bench.text("pid").strip())


def test_cancelling_a_task_lets_the_next_link_start(bench: Bench) -> None:
    job_id = bench.submit("echo $SLURM_ARRAY_TASK_ID >> log; sleep 30", "--array=1-3%1")
    until(lambda: bench.text("log") == "1\n")
    bench.local.cancel([f"{job_id}_1"])
    until(lambda: bench.text("log") == "1\n2\n")
    assert bench.job(f"{job_id}_1").cause is Cause.CANCELLED
    assert bench.job(f"{job_id}_2").phase is Phase.RUNNING


def test_cancelling_an_array_ends_all_of_it(bench: Bench) -> None:
    job_id = bench.submit("echo $SLURM_ARRAY_TASK_ID >> log; sleep 30", "--array=1-3%1")
    until(lambda: bench.text("log") == "1\n")
    bench.local.cancel([job_id])
    bench.until_over(job_id)
    assert bench.text("log") == "1\n"
    task, rest = bench.local.queue()
    assert (task.cause, task.signal) == (Cause.CANCELLED, signal.SIGTERM)
    assert (rest.cause, rest.pending_tasks, rest.started) == (Cause.CANCELLED, (2, 3), None)


def test_cancelling_what_is_pending_leaves_what_runs(bench: Bench) -> None:
    job_id = bench.submit("echo $SLURM_ARRAY_TASK_ID >> log; sleep 0.5", "--array=1-3%1")
    until(lambda: bench.text("log") == "1\n")
    bench.local.cancel([job_id], pending_only=True)
    bench.local.cancel([f"{job_id}_1"], pending_only=True)
    bench.until_over(job_id)
    assert bench.text("log") == "1\n"
    assert bench.job(f"{job_id}_1").cause is Cause.COMPLETED


def test_a_pending_task_can_be_cancelled_alone(bench: Bench) -> None:
    job_id = bench.submit("echo $SLURM_ARRAY_TASK_ID >> log; sleep 0.3", "--array=1-3%1")
    until(lambda: bench.text("log") == "1\n")
    bench.local.cancel([f"{job_id}_2"])
    bench.until_over(job_id)
    assert bench.text("log") == "1\n3\n"
    assert bench.job(f"{job_id}_2").cause is Cause.CANCELLED


def test_a_job_that_ignores_sigterm_is_killed_after_a_wait(bench: Bench) -> None:
    job_id = bench.submit("trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done")
    until(lambda: bench.text("pid") != "")
    bench.local.cancel([job_id])
    until(lambda: not is_alive(bench.text("pid").strip()))
    bench.until_over(job_id)
    assert bench.job(job_id).cause is Cause.CANCELLED


def test_a_stopped_job_hears_its_cancellation(bench: Bench) -> None:
    job_id = bench.submit("trap 'echo heard > log; exit' TERM; echo $$ > pid; kill -STOP $$; :")
    until(lambda: bench.text("pid") != "")
    time.sleep(0.1)
    bench.local.cancel([job_id])
    bench.until_over(job_id)
    assert bench.text("log") == "heard\n"


def test_cancelling_what_is_unknown_or_over_is_no_error(bench: Bench) -> None:
    job_id = bench.submit("true")
    bench.until_over(job_id)
    bench.local.cancel([job_id, "987654", f"{job_id}_5"])
    assert bench.job(job_id).cause is Cause.COMPLETED
    with pytest.raises(HpckitError, match="no job id"):
        bench.local.cancel(["../x"])


def test_what_a_job_leaves_behind_ends_with_it(bench: Bench) -> None:
    body = "setsid bash -c 'echo $$ > pid; exec sleep 77' & while [ ! -s pid ]; do :; done"
    job_id = bench.submit(body)
    bench.until_over(job_id)
    assert bench.job(job_id).cause is Cause.COMPLETED
    assert not is_alive(bench.text("pid").strip())


def test_what_one_task_leaves_behind_is_not_its_neighbours(bench: Bench) -> None:
    body = (
        "[ $SLURM_ARRAY_TASK_ID = 1 ] && { setsid sleep 77 & exit; }; sleep 0.6; echo lived > log"
    )
    job_id = bench.submit(body, "--array=1-2")
    bench.until_over(job_id)
    assert bench.text("log") == "lived\n"


def test_a_job_submitted_by_a_job_outlives_it(bench: Bench) -> None:
    inner = bench.folder / "inner.sh"
    bench.folder.mkdir()
    inner.write_text("#!/bin/bash\nsleep 0.5\necho $SLURM_JOB_NAME > inner.log\n")
    code = f"{SUBMIT}(Path({str(inner)!r})))"
    root = Path(__file__).parents[2]
    outer = bench.submit(f'cd {root} && {sys.executable} -c "{code}" > {bench.folder}/id')
    bench.until_over(outer)
    assert bench.job(outer).cause is Cause.COMPLETED
    inner_id = bench.text("id").strip()
    bench.until_over(inner_id)
    assert bench.job(inner_id).cause is Cause.COMPLETED
    assert bench.text("inner.log") == "inner.sh\n"


def test_nothing_of_an_outer_job_leaks_in(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPU_BIND", "leak")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "99")
    monkeypatch.setenv("MINE", "kept")
    job_id = bench.submit("env > env; ls -l /proc/$$/fd > fds", "-c 3", "--time=5")
    bench.until_over(job_id)
    env = dict(line.split("=", 1) for line in bench.text("env").splitlines() if "=" in line)
    assert "SLURM_CPU_BIND" not in env
    assert "SLURM_ARRAY_TASK_ID" not in env
    assert state.MARK not in env
    assert (env["MINE"], env["HPCKIT_SCHEDULER"]) == ("kept", "local")
    assert (env["SLURM_CPUS_PER_TASK"], env["SLURM_NNODES"]) == ("3", "1")
    assert env["SLURM_SUBMIT_DIR"] == str(bench.folder)
    assert 290 < int(env["SLURM_JOB_END_TIME"]) - int(env["SLURM_JOB_START_TIME"]) <= 300
    assert env["HPCKIT_LOCAL_DIR"] == str(bench.local.root)


def test_every_task_has_a_job_number_of_its_own(bench: Bench) -> None:
    body = "echo $SLURM_ARRAY_JOB_ID $SLURM_JOB_ID $SLURM_ARRAY_TASK_COUNT >> log"
    job_id = bench.submit(body, "--array=1-3%1")
    bench.until_over(job_id)
    rows = [line.split() for line in bench.text("log").splitlines()]
    assert {row[0] for row in rows} == {job_id}
    assert len({row[1] for row in rows}) == 3
    assert {row[2] for row in rows} == {"3"}
    assert int(bench.submit("true")) > max(int(row[1]) for row in rows)


def test_a_job_survives_the_shell_that_submitted_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPCKIT_LOCAL_DIR", str(bench.local.root))
    bench.folder.mkdir()
    script = bench.folder / "job.sh"
    script.write_text("#!/bin/bash\ntrap 'echo hup > log' HUP\nsleep 0.8\necho lived >> log\n")
    code = f"{SUBMIT}(Path({str(script)!r})), flush=True); import time; time.sleep(60)"
    # A terminal of its own: closing it sends SIGHUP to everything that hangs on it.
    leader, follower = os.openpty()
    shell = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=follower,
        start_new_session=True,
        text=True,
    )
    assert shell.stdout is not None
    job_id = shell.stdout.readline().strip()
    os.killpg(shell.pid, signal.SIGHUP)
    shell.wait()
    shell.stdout.close()
    os.close(follower)
    os.close(leader)
    bench.until_over(job_id)
    assert bench.text("log") == "lived\n"


def _supervisor(bench: Bench, job_id: str) -> state.Process:
    found = state.supervisor_of(bench.local.root / job_id)
    assert found is not None
    return found


def test_a_task_survives_its_supervisor_and_can_still_be_cancelled(bench: Bench) -> None:
    job_id = bench.submit("sleep 30 & echo $! > pid; wait", "--array=1-3%1")
    until(lambda: bench.text("pid") != "")
    os.kill(_supervisor(bench, job_id).pid, signal.SIGKILL)
    until(lambda: not _supervisor(bench, job_id).is_alive)
    task, rest = bench.local.queue()
    assert task.phase is Phase.RUNNING
    assert (rest.phase, rest.cause, rest.pending_tasks) == (Phase.ENDED, Cause.NODE_FAIL, (2, 3))
    assert rest.reason == "its supervisor died"
    bench.local.cancel([job_id])
    bench.until_over(job_id)
    assert bench.job(f"{job_id}_1").cause is Cause.CANCELLED
    assert not is_alive(bench.text("pid").strip())


def test_a_task_whose_keeper_was_killed_is_a_failed_node_and_leaves_nothing(bench: Bench) -> None:
    job_id = bench.submit("echo $$ > pid.$SLURM_ARRAY_TASK_ID; sleep 30", "--array=1-3%2")
    until(lambda: bench.text("pid.1") != "" and bench.text("pid.2") != "")
    record = state.read_tasks(bench.local.root / job_id)[1]
    os.kill(record["process"][0], signal.SIGKILL)
    until(lambda: bench.text("pid.3") != "")
    task = bench.job(f"{job_id}_1")
    assert (task.phase, task.cause, task.raw_state) == (Phase.ENDED, Cause.NODE_FAIL, "NODE_FAIL")
    assert not is_alive(bench.text("pid.1").strip())
    assert is_alive(bench.text("pid.2").strip())
    assert bench.job(f"{job_id}_2").phase is Phase.RUNNING


def test_when_all_who_looked_after_a_job_are_killed_it_is_a_failed_node(bench: Bench) -> None:
    job_id = bench.submit("echo $$ > pid; sleep 30")
    until(lambda: bench.text("pid") != "")
    record = state.read_tasks(bench.local.root / job_id)[0]
    for pid in (_supervisor(bench, job_id).pid, record["process"][0]):
        os.kill(pid, signal.SIGKILL)
    until(lambda: bench.is_over(job_id))
    assert bench.job(job_id).cause is Cause.NODE_FAIL
    os.kill(int(bench.text("pid")), signal.SIGKILL)


def test_a_reused_process_number_is_not_believed(bench: Bench) -> None:
    job_id = bench.submit("sleep 30")
    until(lambda: bench.job(job_id).phase is Phase.RUNNING)
    folder = bench.local.root / job_id
    (record,) = state.read_tasks(folder).values()
    pids = [_supervisor(bench, job_id).pid, record["process"][0]]
    batch = state.Process.this()
    # What is left after a reboot: the same numbers now belong to somebody else.
    try:
        for boot, start in ((batch.boot, "1"), ("another boot", batch.start)):
            stranger = [os.getpid(), start, boot]
            state.write(folder / "tasks" / "0.json", record | {"process": stranger})
            state.write(folder / "supervisor.json", {"process": stranger, "reason": ""})
            assert bench.job(job_id).cause is Cause.NODE_FAIL
            bench.local.cancel([job_id])
    finally:
        (folder / "cancel" / "all").unlink(missing_ok=True)
        os.kill(pids[0], signal.SIGTERM)
        until(lambda: not any(is_alive(pid) for pid in pids))


def test_a_machine_that_goes_down_is_no_persons_cancellation(bench: Bench) -> None:
    job_id = bench.submit("sleep 30", "--array=1-3%1")
    until(lambda: len(bench.local.queue()) == 2)
    os.kill(_supervisor(bench, job_id).pid, signal.SIGTERM)
    bench.until_over(job_id)
    assert {job.cause for job in bench.local.queue()} == {Cause.NODE_FAIL}


def test_gpus_are_leased_and_the_rest_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    body = "echo $CUDA_VISIBLE_DEVICES >> seen; while [ ! -e go ]; do sleep 0.05; done"
    first = bench.submit(body, "--gpus-per-node=1", name="a.sh")
    until(lambda: bench.text("seen") != "")
    second = bench.submit(body, "--gpus-per-node=2", name="b.sh")
    until(lambda: bench.job(second).reason == "Resources")
    third = bench.submit(body, "--gpus-per-node=1", name="c.sh")
    # It could have the free one, but would then starve the bigger one before it.
    until(lambda: bench.job(third).reason == "Resources")
    (bench.folder / "go").touch()
    for job_id in (first, second, third):
        bench.until_over(job_id)
    assert bench.text("seen").splitlines()[:2] == ["0", "0,3"]


def test_more_gpus_than_there_are_is_a_refusal(bench: Bench) -> None:
    with pytest.raises(SubmissionRefused, match="asks for 4 GPUs, this machine has 0") as caught:
        bench.submit("true", "--gpus-per-node=4")
    assert "resources.gpus_per_node=0" in caught.value.hint
    assert bench.local.queue() == []


def test_hidden_gpus_are_not_there() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, GPU-ab"}) == ["2", "GPU-ab"]


def test_a_job_waits_for_those_it_depends_on(bench: Bench) -> None:
    first = bench.submit("sleep 0.5; echo first >> log; exit 1", "--array=1-2%1")
    task = bench.submit("echo after-task >> log", f"--dependency=afterany:{first}_1", name="t.sh")
    rest = bench.submit("echo after-all >> log", f"-d afterany:{first}", name="r.sh")
    until(lambda: bench.job(rest).reason == "Dependency")
    for job_id in (first, task, rest):
        bench.until_over(job_id)
    assert bench.text("log").split() == ["first", "after-task", "first", "after-all"]


def test_singleton_waits_for_older_jobs_of_its_name(bench: Bench) -> None:
    options = ("--job-name=one", "--dependency=singleton")
    ids = [bench.submit(f"sleep 0.2; echo {number} >> log", *options) for number in range(3)]
    for job_id in ids:
        bench.until_over(job_id)
    assert bench.text("log").split() == ["0", "1", "2"]


def test_an_output_that_cannot_be_opened_fails_the_job_with_a_reason(bench: Bench) -> None:
    job_id = bench.submit("true", "--output=nowhere/x.log")
    bench.until_over(job_id)
    job = bench.job(job_id)
    assert (job.cause, job.exit_code) == (Cause.FAILED, 1)
    assert "nowhere/x.log" in job.reason


def test_output_and_error_go_where_they_are_told(bench: Bench) -> None:
    body = "echo out; echo err >&2"
    options = ("--output=%A_%3a.out", "--error=%A.err", "--open-mode=append", "--array=1-2%1")
    job_id = bench.submit(body, *options)
    bench.until_over(job_id)
    assert (bench.text(f"{job_id}_001.out"), bench.text(f"{job_id}.err")) == ("out\n", "err\nerr\n")


def test_submissions_at_once_have_different_ids(bench: Bench) -> None:
    bench.submit("true")
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(bench.local.submit(bench.folder / "job.sh")))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 6


def test_a_place_that_cannot_be_written_is_named(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    bench.local.root = tmp_path / "file" / "state"
    with pytest.raises(CannotWrite, match="state") as caught:
        bench.submit("true")
    assert "HPCKIT_LOCAL_DIR" in caught.value.hint
    bench.local.root = tmp_path / "state"


def test_history_knows_jobs_by_name_and_time(bench: Bench) -> None:
    for name in ("one", "two"):
        bench.until_over(bench.submit("true", f"--job-name={name}"))
    assert [job.name for job in bench.local.history(["two"], "2020-01-01T00:00:00Z")] == ["two"]
    assert bench.local.history(["two"], "2100-01-01T00:00:00Z") == []


def test_ended_jobs_leave_the_queue_after_an_hour_and_the_disk_after_a_week(bench: Bench) -> None:
    job_id = bench.submit("true", "--job-name=old")
    bench.until_over(job_id)
    _age(bench, job_id, hours=2)
    assert bench.local.queue() == []
    assert [job.job_id for job in bench.local.history(["old"], "2020")] == [job_id]
    _age(bench, job_id, hours=8 * 24)
    newer = bench.submit("true")
    assert not (bench.local.root / job_id).exists()
    assert int(newer) > int(job_id)


def _age(bench: Bench, job_id: str, *, hours: int) -> None:
    final = bench.local.root / job_id / "final.json"
    until(final.exists)
    then = time.time() - hours * 3600
    os.utime(final, (then, then))


def test_a_submission_cut_off_before_its_supervisor_ends_by_itself(bench: Bench) -> None:
    job_id = bench.submit("true", "--job-name=cut")
    bench.until_over(job_id)
    job = state.read_job(bench.local.root / job_id)
    assert job is not None
    for number, age_s, phase in (("50", 1.0, Phase.PENDING), ("51", 60.0, Phase.ENDED)):
        folder = bench.local.root / number
        folder.mkdir()
        cut = job._replace(number=int(number), submitted=time.time() - age_s)
        state.write(folder / "job.json", cut._asdict())
        assert bench.job(number).phase is phase
    assert bench.job("51").cause is Cause.NODE_FAIL
    (bench.local.root / "50" / "job.json").unlink()


def test_cpus_are_shared_as_gpus_are(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCKIT_LOCAL_CPUS", "4")
    me = "run.$SLURM_ARRAY_TASK_ID"
    body = f"touch {me}; ls run.* | wc -l >> seen; sleep 0.2; rm {me}"
    job_id = bench.submit(body, "--array=0-5", "--cpus-per-task=2")
    more = bench.submit("echo alone > big", "--cpus-per-task=64", name="big.sh")
    bench.until_over(job_id)
    assert max(int(line) for line in bench.text("seen").split()) == 2
    bench.until_over(more)
    assert bench.text("big") == "alone\n"


def test_who_waits_for_nothing_any_more_stands_in_no_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    array = bench.submit("sleep 30", "--array=0-3", "--gpus-per-node=1")
    until(lambda: any(job.reason == "Resources" for job in bench.local.queue()))
    bench.local.cancel([f"{array}_2", f"{array}_3", f"{array}_1"])
    other = bench.submit("echo on > it", "--gpus-per-node=1", name="other.sh")
    bench.until_over(other)
    assert bench.job(f"{array}_0").phase is Phase.RUNNING
    assert bench.text("it") == "on\n"


def test_a_full_disk_neither_ends_a_task_nor_makes_it_fail(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = bench.submit("echo on > began; while ! [ -e go ]; do sleep 0.05; done")
    until(lambda: bench.text("began") == "on\n")
    tasks = bench.local.root / job_id / "tasks"
    # As far as the keeper sees it: the place where it writes refuses.
    tasks.rename(tasks.with_name("away"))
    (bench.folder / "go").touch()
    time.sleep(0.5)
    tasks.with_name("away").rename(tasks)
    bench.until_over(job_id)
    job = bench.job(job_id)
    assert (job.cause, job.exit_code) == (Cause.COMPLETED, 0)


@pytest.mark.parametrize("is_over", [True, False])
def test_jobs_of_another_version_are_told(bench: Bench, is_over: bool) -> None:
    """One that did not know of CPU slots, or one that knows of something more."""
    job_id = bench.submit("true" if is_over else "sleep 30")
    until(lambda: bench.is_over(job_id) if is_over else bench.job(job_id).started is not None)
    path = bench.local.root / job_id / ("final.json" if is_over else "job.json")
    # It is written a moment after the job has left the queue.
    until(lambda: state.read(path) is not None)
    known = state.read(path)
    about = known["job"] if is_over else known
    del about["slots"]
    about["invented_later"] = 1
    state.write(path, known)
    assert bench.job(job_id).phase is (Phase.ENDED if is_over else Phase.RUNNING)
    del about["number"]
    state.write(path, known)
    assert bench.local.queue() == []
    about["number"] = int(job_id)
    state.write(path, known)


def test_nothing_waits_for_a_folder_that_was_deleted(bench: Bench) -> None:
    job_id = bench.submit("sleep 1")
    until(lambda: bench.job(job_id).started is not None)
    keeper = state.read_tasks(bench.local.root / job_id)[0]["process"][0]
    shutil.rmtree(bench.local.root / job_id)
    until(lambda: not is_alive(keeper))

"""What a submission will be, decided before anything is written."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hpckit.errors import SchedulerSilent, SubmissionRefused, SubmissionUnclear, UsageError
from hpckit.run import open_run
from hpckit.spec import spec_from_json
from hpckit.submission import commit as committing
from hpckit.submission.executor import ArrayExecutor
from hpckit.submission.plan import lead_s, plan

ROOT = Path("/scratch/runs")


def make_spec(**sections):
    return spec_from_json({"name": "agent", "program": "python train.py", **sections})


def make_plan(root=ROOT, max_array_size=1001, **sections):
    return plan(
        make_spec(**sections),
        run_id="agent/0720-p7d",
        root=root,
        scheduler="slurm",
        max_array_size=max_array_size,
    )


def options(script):
    """What sbatch would read: the #SBATCH lines by name."""
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if "#SBATCH" in line]
    found = {}
    for line in lines:
        name, _, value = line.partition("=")
        assert name not in found, f"{name} stands twice"
        found[name] = " ".join(shlex.split(value))
    return found


def test_the_whole_script_is_as_written_down(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/opt/python/bin/python3")
    made = make_plan(
        resources={
            "nodes": 2,
            "gpus_per_node": "a100:4",
            "cpus_per_gpu": 8,
            "memory": "64G",
            "time": "24h",
            "partition": "gpu",
            "account": "speech",
        },
        program={"command": "python train.py", "processes": "per_gpu"},
        slurm={"qos": "long", "constraint": "a100&nvlink", "exclusive": True},
    )
    golden = Path(__file__).with_name("golden") / "submission.sh"
    assert made.script(made.chains[0]) == golden.read_text()


def test_a_run_is_an_array_with_one_task_at_a_time():
    made = make_plan(limits={"attempts": 5})
    found = options(made.script(made.chains[0]))
    assert (found["array"], found["no-requeue"]) == ("1-5%1", "")
    assert found["job-name"] == "agent/0720-p7d"


def test_more_attempts_than_an_array_holds_are_cut_and_said():
    made = make_plan(limits={"attempts": 20}, max_array_size=10)
    assert made.chains[0].header["array"] == "1-9%1"
    assert made.warnings == (
        "limits.attempts: this Slurm allows 9 links in a chain; the last submits more",
    )


def test_a_sweep_is_split_where_an_array_ends():
    made = make_plan(sweep={"seeds": 25, "at_most": 4}, max_array_size=10)
    arrays = [(chain.offset, chain.size, chain.header["array"]) for chain in made.chains]
    assert arrays == [(0, 10, "0-9%4"), (10, 10, "0-9%4"), (20, 5, "0-4%4")]


def test_the_default_limit_is_twice_what_was_asked_for():
    asked = {"gpus_per_node": 4, "nodes": 2, "time": "24h"}
    program = {"command": "x", "processes": "one"}
    assert make_plan(resources=asked, program=program).spec.limits.gpu_hours == 2 * 4 * 2 * 24
    assert make_plan(resources={"time": "3h"}).spec.limits.gpu_hours == 6


def test_the_signal_comes_before_half_the_time_has_passed():
    assert lead_s(make_spec(resources={"time": "1m"})) == 30
    assert lead_s(make_spec(resources={"time": "24h"})) == 60
    spec = make_spec(resources={"time": "24h"}, checkpoint={"before_end": "5m"})
    assert lead_s(spec) == 300


def test_of_hooks_and_mails_nothing_is_warned():
    made = make_plan(hooks={"on_incident": ["./x.sh"]}, notify={"mail": "a@b.c"})
    assert made.warnings == ()


@pytest.mark.parametrize("root", ["/a\nb", "/a\rb", "/a%jb", "/50%A"])
def test_a_root_that_would_change_a_script_is_refused(root):
    with pytest.raises(UsageError):
        make_plan(root=Path(root))


@pytest.mark.parametrize(
    "value",
    ["$(touch broken)", "`touch broken`", "'; touch broken; '", '"; touch broken; "', "a b", "-x"],
)
def test_no_value_breaks_out_of_the_header(value, tmp_path):
    made = make_plan(slurm={"comment": value, "constraint": value})
    script = made.script(made.chains[0])
    assert options(script)["comment"] == value
    header = script.partition("# setup")[0]
    done = subprocess.run(["bash", "-c", header], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, os.listdir(tmp_path)) == (0, "", [])


def test_no_folder_name_breaks_out_of_the_script(tmp_path):
    folder = tmp_path / 'it\'s $(touch broken) `touch broken` "x" & y'
    folder.mkdir()
    text = ArrayExecutor(folder, stops_chain=True).script({"job_name": "a/b"})
    # Everything but the last line, which would start the worker.
    body = text.rpartition("exec ")[0] + "pwd"
    (folder / "job.pkl").touch()
    environ = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", body], env=environ, capture_output=True, text=True)
    assert done.stdout.strip() == str(folder)
    assert (folder / "7_1_submitted.pkl").is_symlink()
    assert not list(tmp_path.rglob("broken"))


class Answering:
    """A scheduler with a fixed answer to submit."""

    kind = "slurm"

    def __init__(self, *answers):
        self.answers = list(answers)
        self.scripts = []

    def submit(self, script):
        self.scripts.append(script.read_text())
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def queue(self):
        return []


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "train.py").write_text("print(1)")
    return folder


def commit(tmp_path, source, scheduler, **sections):
    made = committing.reserve(
        make_spec(**sections), root=tmp_path / "runs", scheduler="slurm", max_array_size=3
    )
    return committing.commit(made, scheduler, source=source, spec_text="name: agent\n")


def test_everything_a_job_needs_is_there_before_sbatch_is_called(tmp_path, source):
    seen = []

    class Looking(Answering):
        def submit(self, script):
            home = script.parent.parent.parent
            seen.extend(sorted(path.relative_to(home).as_posix() for path in home.rglob("*")))
            ledger = next((home / "ledger").iterdir()).read_text()
            assert json.loads(ledger)["kind"] == "submit"
            return super().submit(script)

    commit(tmp_path, source, Looking("7"))
    needed = ["run.json", "spec.json", "code/train.py", "chains/001/job.pkl"]
    assert set(needed) <= set(seen)


def test_a_definite_no_leaves_nothing_behind(tmp_path, source):
    for error in (SubmissionRefused("Invalid partition"), SchedulerSilent("no controller")):
        with pytest.raises(type(error)):
            commit(tmp_path, source, Answering(error))
        assert list((tmp_path / "runs" / "agent").iterdir()) == []


def test_a_lost_answer_keeps_the_run_and_tells_how_to_find_out(tmp_path, source, monkeypatch):
    monkeypatch.setattr(committing, "LOOK_AGAIN_S", (0, 0))
    with pytest.raises(SubmissionUnclear, match=r"hpckit show .*/runs/agent/"):
        commit(tmp_path, source, Answering(SubmissionUnclear("sbatch gave no answer")))
    (folder,) = (tmp_path / "runs" / "agent").iterdir()
    run = open_run(folder)
    assert run is not None
    assert [event.kind for event in run.ledger().events()] == ["submit"]


def test_half_a_sweep_that_is_refused_says_which_half(tmp_path, source):
    with pytest.raises(SubmissionRefused):
        commit(tmp_path, source, Answering("7", SubmissionRefused("too many")), sweep={"seeds": 5})
    (folder,) = (tmp_path / "runs" / "agent").iterdir()
    run = open_run(folder)
    assert run is not None
    kinds = [event.kind for event in run.ledger().events()]
    assert kinds == ["submit", "submitted", "refused"]


def test_a_second_array_waits_for_the_first_where_there_is_a_throttle(tmp_path, source):
    throttled = Answering("7", "8")
    commit(tmp_path, source, throttled, sweep={"seeds": 5, "at_most": 2})
    assert "dependency" not in options(throttled.scripts[0])
    assert options(throttled.scripts[1])["dependency"] == "afterany:7"
    free = Answering("7", "8")
    commit(tmp_path, source, free, sweep={"seeds": 5})
    assert "dependency" not in options(free.scripts[1])


def test_whatever_goes_wrong_before_sbatch_leaves_nothing_behind(tmp_path, source):
    with pytest.raises(UsageError):
        commit(tmp_path, source, Answering(UsageError("HPCKIT_LOCAL_KILLWAIT is no number")))
    assert list((tmp_path / "runs" / "agent").iterdir()) == []


def test_a_run_root_that_a_container_cannot_be_given_is_refused():
    with pytest.raises(UsageError, match="':'"):
        make_plan(Path("/scratch/a:b"), environment={"container": {"image": "a.sif"}})


def test_what_the_environment_names_and_is_not_here_is_said(tmp_path, source):
    said = []
    made = committing.reserve(
        make_spec(environment={"venv": ".venv", "container": {"image": "docker://pytorch"}}),
        root=tmp_path / "runs",
        scheduler="slurm",
    )
    committing.prepare(made, source=source, spec_text="", progress=said.append)
    (warning,) = [line for line in said if "warning" in line]
    what = f"there is no .venv in {source}; it must be there when the job starts"
    assert warning == f"warning: environment.venv: {what}"


@pytest.mark.parametrize("pattern", ["cp/g_{step}", "cp/deep/g_{step}"])
@pytest.mark.parametrize("is_link", [True, False])
def test_checkpoints_that_all_runs_would_share_are_refused(tmp_path, source, pattern, is_link):
    if is_link:
        (tmp_path / "elsewhere").mkdir()
        (source / "cp").symlink_to("../elsewhere")
    else:
        (source / "cp").mkdir()
        (source / ".gitignore").write_text("cp/\n")
    with pytest.raises(UsageError) as error:
        commit(tmp_path, source, Answering("7"), checkpoint={"files": [pattern]})
    why = "it is a link" if is_link else "ignored"
    assert error.value.message == (
        f"checkpoint.files: cp would be linked, not copied ({why}): "
        f"all runs would save into {source}/cp"
    )
    assert list((tmp_path / "runs" / "agent").iterdir()) == []
    commit(tmp_path, source, Answering("7"), checkpoint={"files": ["out/g_{step}", "g_{step}"]})
    if not is_link:
        # As the hint says.
        (source / ".hpckitignore").write_text("!/cp\n")
        commit(tmp_path, source, Answering("8"), checkpoint={"files": [pattern]})


def give_up(tmp_path, task, prepare=lambda home: None):
    """Run the shell before a worker as a link of a Slurm array; what it said and cancelled."""
    made = make_plan(tmp_path)
    script = made.script(made.chains[0]).replace("sleep 60", "echo paused >&2")
    script = script.replace(f"exec {shlex.quote(sys.executable)}", "echo worker up; exit")
    prepare(made.dir)
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "scancel").write_text("#!/bin/bash\necho scancel $* >&2\n")
    (tools / "scancel").chmod(0o755)
    variables = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task)}
    return subprocess.run(
        ["bash", "-c", script],
        env={"PATH": f"{tools}:/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        timeout=20,
    )


def test_a_first_link_that_cannot_start_ends_the_chain(tmp_path):
    done = give_up(tmp_path, 1)
    assert "hpckit: the run directory is gone\nscancel --state=PENDING 7" in done.stderr
    assert done.returncode == 1


def test_a_later_link_that_cannot_start_leaves_it_to_another_node(tmp_path):
    done = give_up(tmp_path, 5)
    assert "scancel" not in done.stderr
    assert "hpckit: the run directory is gone\npaused" in done.stderr
    assert done.returncode == 1


def test_links_whose_worker_never_comes_up_give_up_at_the_fourth(tmp_path):
    def prepare(home):
        (home / "chains" / "001").mkdir(parents=True, exist_ok=True)

    for task in (1, 2, 3):
        assert "worker up" in give_up(tmp_path, task, prepare).stdout
    done = give_up(tmp_path, 4, prepare)
    assert "did not come up 3 times" in done.stderr
    assert "scancel --state=PENDING 7" in done.stderr
    assert "worker up" not in done.stdout


def test_on_a_full_disk_no_chain_is_burnt(tmp_path):
    def prepare(home):
        folder = home / "chains" / "001"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "starts").symlink_to("/dev/full")

    done = give_up(tmp_path, 5, prepare)
    assert "hpckit: the run directory cannot be written\npaused" in done.stderr
    assert "worker up" not in done.stdout

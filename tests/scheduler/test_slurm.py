"""Slurm's class against stand-ins for its commands: small scripts that print what was recorded."""

from __future__ import annotations

import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpckit.errors import HpckitError, SchedulerSilent, SubmissionRefused, SubmissionUnclear
from hpckit.scheduler import choose, slurm, slurm_text
from hpckit.scheduler.base import Cause
from hpckit.scheduler.slurm import Slurm, clean_environment, run_tool

RECORDED = Path(__file__).parent / "recorded"


class Tools:
    """A folder at the head of PATH with stand-ins, which write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"

    def put(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(
            f'#!/bin/bash\n{{ echo "{name} $*"; echo "cwd=$PWD"; env; }} >> {self.calls}\n{body}\n'
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def called(self) -> str:
        return self.calls.read_text() if self.calls.exists() else ""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for name in ("SLURM_CONF", "HPCKIT_SCHEDULER"):
        monkeypatch.delenv(name, raising=False)
    return Tools(folder)


def _script(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    script = folder / "the job.sh"
    script.write_text("#!/bin/bash\n")
    return script


def test_submit_runs_sbatch_in_the_scripts_folder(tools: Tools, tmp_path: Path) -> None:
    tools.put("sbatch", "echo 'your job 42 is welcome'; echo '4711;c1'")
    script = _script(tmp_path / "a dir's")
    assert Slurm().submit(script) == "4711"
    assert f"sbatch --parsable {script}\n" in tools.called()
    assert f"cwd={script.parent}\n" in tools.called()


def test_the_job_inherits_nothing_from_an_outer_job_nor_from_us(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools.put("sbatch", "echo 1")
    monkeypatch.setenv("SLURM_CPU_BIND", "leak")
    monkeypatch.setenv("SBATCH_PARTITION", "leak")
    monkeypatch.setenv("PMI_RANK", "leak")
    monkeypatch.setenv("SLURM_CONF", "/kept.conf")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    Slurm().submit(_script(tmp_path / "job"))
    assert "leak" not in tools.called()
    assert "SLURM_CONF=/kept.conf\n" in tools.called()
    assert "LC_ALL=de_DE.UTF-8\n" in tools.called()


def test_clean_environment_keeps_everything_else() -> None:
    dirty = {"SLURM_JOB_ID": "1", "SRUN_DEBUG": "3", "SQUEUE_USERS": "x", "PMIX_ID": "1"}
    clean = {"SLURM_CONF": "/c", "HOME": "/h", "MY_SLURM_NOTE": "n", "PMFOO": "1"}
    assert clean_environment(dirty | clean) == clean


def test_a_refusal_names_the_partitions_that_there_are(tools: Tools, tmp_path: Path) -> None:
    said = "sbatch: error: Batch job submission failed: Invalid partition name specified"
    tools.put("sbatch", f"echo '{said}' >&2; exit 1")
    tools.put("scontrol", f"cat {RECORDED}/partitions.txt")
    with pytest.raises(SubmissionRefused, match="Invalid partition name") as caught:
        Slurm().submit(_script(tmp_path / "job"))
    assert "main, short" in caught.value.hint


def test_an_sbatch_that_does_not_answer_is_killed_with_its_children(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "SUBMIT_S", 0.3)
    tools.put("sbatch", f"sleep 77.7 & echo $! > {tmp_path}/pid; wait")
    begin = time.monotonic()
    with pytest.raises(SubmissionUnclear):
        Slurm().submit(_script(tmp_path / "job"))
    assert time.monotonic() - begin < 10
    child = Path("/proc") / (tmp_path / "pid").read_text().strip() / "cmdline"
    time.sleep(0.1)
    assert not child.exists() or child.read_bytes() == b""


def test_an_sbatch_that_was_killed_is_unclear(tools: Tools, tmp_path: Path) -> None:
    tools.put("sbatch", "kill -9 $$")
    with pytest.raises(SubmissionUnclear):
        Slurm().submit(_script(tmp_path / "job"))


def test_a_missing_command_is_silence(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tools.folder))
    with pytest.raises(SchedulerSilent, match="sbatch: no such command"):
        Slurm().submit(_script(tmp_path / "job"))


def test_the_queue_is_one_squeue_in_utc_with_whole_task_lists(tools: Tools) -> None:
    tools.put("squeue", f"cat {RECORDED}/squeue_busy.txt")
    assert "2_1" in {job.job_id for job in Slurm().queue()}
    called = tools.called()
    assert called.count("squeue --me --states=all --noheader") == 1
    assert "TZ=UTC\n" in called
    assert "LC_ALL=C\n" in called
    assert "SLURM_BITSTR_LEN=0\n" in called


def test_a_controller_that_is_down_is_silence_in_its_own_words(tools: Tools) -> None:
    said = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    tools.put("squeue", f"echo '{said}' >&2; exit 1")
    with pytest.raises(SchedulerSilent, match="squeue: Unable to contact slurm controller"):
        Slurm().queue()


def test_history_is_one_sacct_by_names(tools: Tools) -> None:
    tools.put("sacct", f"cat {RECORDED}/sacct_all.txt")
    found = Slurm().history(["chain", "lost"], "2026-11-20T23:00:00Z")
    assert [job.job_id for job in found] == ["2_1", "2_2", "30_1"]
    assert "--starttime=2026-11-20T23:00:00 " in tools.called()
    assert "--name=chain,lost" in tools.called()


def test_history_is_asked_by_states_for_sacct_hides_what_could_never_start(tools: Tools) -> None:
    tools.put("sacct", f"cat {RECORDED}/sacct_never_started.txt")
    (found,) = Slurm().history(["held"], "2026-11-20T23:00:00Z")
    assert (found.pending_tasks, found.cause, found.started) == (
        (1, 2, 3, 4, 5, 6),
        Cause.CANCELLED,
        None,
    )
    assert f"--state={slurm_text.HISTORY_STATES} " in tools.called()
    assert "--endtime=now+1day " in tools.called()


def test_history_of_a_name_with_a_comma_is_found_without_saccts_filter(tools: Tools) -> None:
    tools.put("sacct", f"cat {RECORDED}/sacct_all.txt")
    found = Slurm().history(["odd | näme, %x"], "2026-11-20T23:00:00Z")
    assert [job.job_id for job in found] == ["34_1", "34_3"]
    assert "--name" not in tools.called()


@pytest.mark.parametrize(
    "said",
    ["Slurm accounting storage is disabled", "sacct: error: Problem talking to the database: Conn"],
)
def test_history_without_accounting_is_silence(tools: Tools, said: str) -> None:
    tools.put("sacct", f"echo '{said}' >&2; exit 1")
    with pytest.raises(SchedulerSilent):
        Slurm().history(["chain"], "2026-11-20T23:00:00Z")


def test_cancel_is_one_scancel(tools: Tools) -> None:
    tools.put("scancel", "")
    Slurm().cancel(["12", "13_4"], pending_only=True)
    assert "scancel --state=PENDING 12 13_4\n" in tools.called()


def test_cancelling_nothing_never_calls_scancel(tools: Tools) -> None:
    tools.put("scancel", "")
    Slurm().cancel([], pending_only=True)
    with pytest.raises(HpckitError, match="no job id"):
        Slurm().cancel(["12", ""])
    assert tools.called() == ""


def test_cancelling_what_has_ended_is_no_error(tools: Tools) -> None:
    said = "scancel: error: Kill job error on job id 12: Invalid job id specified"
    tools.put("scancel", f"echo '{said}' >&2; exit 1")
    Slurm().cancel(["12"])


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Socket timed out on send/recv operation", SchedulerSilent),
        ("Unable to contact slurm controller (connect failure)", SchedulerSilent),
        ("Access/permission denied", HpckitError),
    ],
)
def test_a_cancel_that_did_not_work_is_told(
    tools: Tools, said: str, kind: type[HpckitError]
) -> None:
    tools.put("scancel", f"echo 'scancel: error: Kill job error on job id 3: {said}' >&2; exit 1")
    with pytest.raises(kind, match=said.split()[0]):
        Slurm().cancel(["3"])


def test_the_array_limit_is_asked_for_once(tools: Tools) -> None:
    tools.put("scontrol", f"cat {RECORDED}/config.txt")
    here = Slurm()
    assert (here.max_array_size(), here.max_array_size()) == (1001, 1001)
    assert tools.called().count("scontrol show config") == 1


def test_no_shell_ever_reads_an_argument(tools: Tools) -> None:
    tools.put("squeue", 'printf "%s" "$1"')
    assert run_tool(["squeue", "$(touch x); *"], 5).out == "$(touch x); *"


NO_CONFIGURATION = "sinfo: fatal: Could not establish a configuration source"


def test_a_slurm_that_answers_is_chosen(tools: Tools) -> None:
    tools.put("sbatch", "")
    tools.put("sinfo", "echo main")
    assert choose().kind == "slurm"


def test_without_sbatch_jobs_are_local(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tools.folder))
    assert choose().kind == "local"


def test_an_sbatch_without_any_configuration_means_local(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "CONFIGURATIONS", ())
    tools.put("sbatch", "")
    tools.put("sinfo", f"echo '{NO_CONFIGURATION}' >&2; exit 1")
    assert choose().kind == "local"


@pytest.mark.parametrize(
    "said", [NO_CONFIGURATION, "slurm_load_partitions: Unable to contact slurm controller"]
)
def test_a_configured_slurm_that_does_not_answer_never_means_local(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setenv("SLURM_CONF", "/some/slurm.conf")
    tools.put("sbatch", "")
    tools.put("sinfo", f"echo '{said}' >&2; exit 1")
    with pytest.raises(SchedulerSilent) as caught:
        choose()
    assert "--cluster local" in caught.value.hint


def test_a_slow_controller_never_means_local(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "FIRST_ANSWER_S", 0.2)
    monkeypatch.setattr(slurm, "CONFIGURATIONS", ())
    tools.put("sbatch", "")
    tools.put("sinfo", "sleep 5")
    with pytest.raises(SchedulerSilent, match="no answer in"):
        choose()


def test_the_environment_chooses_where_no_flag_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCKIT_SCHEDULER", "local")
    assert choose().kind == "local"
    assert choose("slurm").kind == "slurm"


def test_an_unknown_scheduler_is_a_usage_error() -> None:
    with pytest.raises(HpckitError, match="no scheduler 'pbs'"):
        choose("pbs")


def test_importing_the_package_loads_neither_kind() -> None:
    code = (
        "import sys, hpckit.scheduler; "
        "print([m for m in sys.modules if m.startswith('hpckit.scheduler.') or m == 'subprocess'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

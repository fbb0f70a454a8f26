"""Slurm, through its own commands, one call a question."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hpckit.errors import HpckitError, SchedulerSilent, SubmissionUnclear
from hpckit.scheduler import slurm_text
from hpckit.scheduler.base import Changed, JobStatus
from hpckit.scheduler.slurm_refusal import LOST, no_job_id, sentence
from hpckit.scheduler.slurm_text import known_states

__all__ = ["Slurm", "clean_environment", "is_here", "known_states", "run_tool"]

ASK_S = 20.0
SUBMIT_S = 60.0
FIRST_ANSWER_S = 5.0
LOOK_AGAIN = "try again in a minute; jobs that run are not touched by this"
# SQUEUE_USERS or SACCT_FORMAT in somebody's .bashrc change what the commands answer.
INHERITED = re.compile(
    r"(SLURMD?|SLURMSTEPD|SBATCH|SRUN|SALLOC|SQUEUE|SACCT|SCANCEL|SINFO)_|PMI"
    # A job that is submitted from a run is not that run, nor under its scheduler.
    r"|HPCKIT_(SCHEDULER|RUN|RUN_DIR|ATTEMPT|PARAMS|EVENT|MARK)$"
)
CONFIGURATIONS = (
    "/etc/slurm/slurm.conf",
    "/etc/slurm-llnl/slurm.conf",
    "/run/slurm/conf/slurm.conf",
)
GONE = re.compile(r"Invalid job id|already completing or completed|Job/step already")
CANCELLABLE = re.compile(r"\d+(_(\d+|\[[\d,:%-]+\]))?")


class Answer(NamedTuple):
    """What a command printed, and how it ended (a negative number: by that signal)."""

    code: int
    out: str
    err: str


class ToolLate(SchedulerSilent):
    """A command did not end in time and was killed: it may have done its work or not."""


class Slurm:
    """The Slurm that this machine's commands reach."""

    kind = "slurm"

    def __init__(self) -> None:
        self._max_array_size: int | None = None

    def place(self) -> str:
        """The path of the configuration in force."""
        standing = [path for path in CONFIGURATIONS if Path(path).exists()]
        return os.environ.get("SLURM_CONF") or next(iter(standing), "slurm")

    def submit(self, script: Path) -> str:
        """Hand a script to sbatch, from its own folder, so that output paths start there."""
        script = script.absolute()
        # The job inherits this environment: no LC_ALL, no TZ of ours in it.
        environ = clean_environment(os.environ)
        try:
            answer = run_tool(
                ["sbatch", "--parsable", str(script)], SUBMIT_S, cwd=script.parent, env=environ
            )
        except ToolLate as error:
            raise SubmissionUnclear(error.message) from error
        found = slurm_text.submitted_id(answer.out)
        if answer.code == 0 and found is not None:
            return found
        raise no_job_id(*answer, has_id=found is not None, partitions=self._partition_names)

    def queue(self) -> list[JobStatus]:
        """All of the user's jobs, those that ended lately included, by one squeue."""
        form = slurm_text.queue_format()
        answer = _ask(["squeue", "--me", "--states=all", "--noheader", "--Format", form])
        return slurm_text.parse_queue(answer)

    def history(self, names: Sequence[str], since: str) -> list[JobStatus]:
        """The jobs of these names that accounting knows, by one sacct."""
        if not names:
            return []
        args = ["sacct", "--allocations", "--parsable2", "--noheader"]
        args += [f"--delimiter={slurm_text.FIELD}", f"--state={slurm_text.HISTORY_STATES}"]
        # With states an end is called for; clocks differ, and what has just ended counts.
        args += [f"--starttime={since[:19]}", "--endtime=now+1day"]
        args += ["--format=" + ",".join(slurm_text.HISTORY_FIELDS)]
        if not any("," in name for name in names):
            # sacct knows no way to write a comma inside a name.
            args.append("--name=" + ",".join(names))
        return [job for job in slurm_text.parse_history(_ask(args)) if job.name in names]

    def cancel(self, job_ids: Sequence[str], *, pending_only: bool = False) -> None:
        """End jobs by one scancel; those that have ended already are no error."""
        strange = [job_id for job_id in job_ids if not CANCELLABLE.fullmatch(job_id)]
        if strange:
            raise HpckitError(f"{strange[0]!r} is no job id")
        if not job_ids:
            # `scancel --state=PENDING` without an id cancels everything the user has.
            return
        only = ["--state=PENDING"] if pending_only else []
        answer = run_tool(["scancel", *only, *job_ids], ASK_S, env=_asking())
        lines = [line for line in answer.err.splitlines() if line.strip()]
        wrong = [line for line in lines if not GONE.search(line)]
        if answer.code != 0 and (wrong or not lines):
            said = sentence(answer.code, answer.err)
            if LOST.search(said):
                raise SchedulerSilent(f"scancel: {said}", "the jobs may run on: cancel them again")
            raise HpckitError(f"scancel: {said}")

    def update(self, array_id: str, tasks: Sequence[int], changed: Changed) -> None:
        """One scontrol for all tasks; what a user may not raise is refused."""
        job = f"{array_id}_[{min(tasks)}-{max(tasks)}]"
        asked = slurm_text.update_words(changed)
        answer = run_tool(["scontrol", "update", f"JobId={job}", *asked], ASK_S, env=_asking())
        if answer.code != 0:
            said = sentence(answer.code, answer.err or answer.out)
            raise HpckitError(f"scontrol update {job}: {said}")

    def nodes(self, partition: str | None) -> list[str]:
        """What sinfo lists; the default partition is the one with a star."""
        answer = _ask(["sinfo", "--noheader", "--Node", "--format=%N %P"])
        rows = [line.split() for line in answer.splitlines() if len(line.split()) == 2]
        return [
            node
            for node, found in rows
            if (found.endswith("*") if partition is None else found.rstrip("*") == partition)
        ]

    def longest_s(self, partition: str | None) -> int | None:
        """Where Slurm does not enforce it at once, a job that asks for more waits for ever."""
        return slurm_text.longest_s(slurm_text.chosen(self.partitions(), partition))

    def is_preempted(self, job_id: str) -> bool:
        """Whether Slurm has set a time by which the job makes room."""
        answer = _ask(["scontrol", "show", "job", "--oneliner", job_id])
        found = re.search(r"PreemptTime=(\S+)", answer)
        return found is not None and found[1] not in ("None", "Unknown", "N/A")

    def max_array_size(self) -> int:
        """Slurm's MaxArraySize: one more than the highest index that an array may have."""
        if self._max_array_size is None:
            self._max_array_size = int(self.config().get("MaxArraySize", "1001"))
        return self._max_array_size

    def config(self) -> dict[str, str]:
        """What `scontrol show config` says."""
        return slurm_text.parse_config(_ask(["scontrol", "show", "config"]))

    def partitions(self) -> list[dict[str, str]]:
        """What `scontrol show partition` says of each partition."""
        return slurm_text.parse_partitions(_ask(["scontrol", "show", "partition", "--oneliner"]))

    def _partition_names(self) -> list[str]:
        try:
            return [partition["PartitionName"] for partition in self.partitions()]
        except SchedulerSilent:
            return []


def is_here() -> bool:
    """Whether this machine has a Slurm; SchedulerSilent where it has one that does not answer."""
    if shutil.which("sbatch") is None:
        return False
    try:
        answer = run_tool(["sinfo", "--noheader", "--format=%R"], FIRST_ANSWER_S, env=_asking())
    except SchedulerSilent as error:
        problem = error.message
    else:
        if answer.code == 0:
            return True
        problem = sentence(answer.code, answer.err)
        nowhere = "Could not establish a configuration source" in answer.err
        if nowhere and not _configured():
            return False
    # Falling back to local runs here would start a training on the cluster's login node.
    raise SchedulerSilent(
        f"Slurm is installed here but does not answer: {problem}",
        "try again in a minute, or run on this machine with --cluster local",
    )


def _configured() -> bool:
    return "SLURM_CONF" in os.environ or any(Path(path).exists() for path in CONFIGURATIONS)


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without what an outer job, or a user's defaults, would leak into an inner."""
    return {
        name: value
        for name, value in environ.items()
        if name == "SLURM_CONF" or not INHERITED.match(name)
    }


def run_tool(
    args: Sequence[str],
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Answer:
    """Run one of Slurm's commands, never through a shell, never longer than it may take."""
    environ = clean_environment(os.environ) if env is None else env
    try:
        process = subprocess.Popen(
            list(args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=environ,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        if cwd is not None and not cwd.is_dir():
            raise HpckitError(f"there is no folder {cwd}") from error
        hint = "is Slurm installed here, and on the PATH? `module load slurm` may be missing"
        raise SchedulerSilent(f"{args[0]}: no such command", hint) from error
    except OSError as error:
        raise SchedulerSilent(f"{args[0]}: {error.strerror}") from error
    with process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            _kill_group(process)
            raise ToolLate(f"{args[0]} gave no answer in {timeout_s:.0f} s", LOOK_AGAIN) from error
        except BaseException:
            _kill_group(process)
            raise
    return Answer(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # A site's sbatch is often a wrapper: its children hold our pipes open.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _asking() -> dict[str, str]:
    """The environment for questions: plain words, times in UTC, task lists never cut short."""
    fixed = {"LC_ALL": "C", "TZ": "UTC", "SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "standard"}
    return clean_environment(os.environ) | fixed


def _ask(args: Sequence[str]) -> str:
    answer = run_tool(args, ASK_S, env=_asking())
    if answer.code != 0:
        raise SchedulerSilent(f"{args[0]}: {sentence(answer.code, answer.err)}", LOOK_AGAIN)
    return answer.out

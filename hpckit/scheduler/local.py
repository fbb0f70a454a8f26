"""This machine as a small Slurm: the same scripts, the same variables, the same manners.

Nothing runs in the background but one supervisor for each job; what is known lies in files.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import hpckit
from hpckit.errors import (
    CannotWrite,
    HpckitError,
    SubmissionRefused,
    SubmissionUnclear,
    UsageError,
)
from hpckit.scheduler import local_state as state
from hpckit.scheduler.base import Changed, JobStatus
from hpckit.scheduler.local_status import statuses
from hpckit.scheduler.local_text import asked, command_of
from hpckit.scheduler.slurm import CANCELLABLE, clean_environment
from hpckit.scheduler.slurm_text import tasks_of

KEEP_S = 7 * 24 * 3600.0
# How long an ended job stays in the queue's answer, as Slurm's MinJobAge; then history has it.
SHOWN_S = 3600.0
UP_S = 10.0
STARTER = (
    "import sys; sys.path.append(sys.argv[1]); from pathlib import Path; "
    "from hpckit.scheduler.local_job import main; main(Path(sys.argv[2]), int(sys.argv[3]))"
)


class Local:
    """Jobs on this machine, several at once."""

    kind = "local"

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or state.root()).absolute()

    def place(self) -> str:
        """This machine's name: its jobs are seen from nowhere else."""
        return socket.gethostname()

    def submit(self, script: Path) -> str:
        """Start a supervisor for a script; the job's number."""
        script = script.absolute()
        try:
            text = script.read_text(errors="surrogateescape")
        except OSError as error:
            raise SubmissionRefused(f"cannot read {script}: {error.strerror}") from error
        command, ask, devices = command_of(text), asked(text), visible_gpus(os.environ)
        if ask.gpus > len(devices):
            raise SubmissionRefused(
                f"asks for {ask.gpus} GPUs, this machine has {len(devices)}",
                "set resources.gpus_per_node=0 with -s to run without",
            )
        with self._writable():
            self.root.mkdir(parents=True, exist_ok=True)
            self._prune()
            folder = state.take_folder(self.root)
            try:
                (folder / "cancel").mkdir()
                (folder / "script").write_text(text, errors="surrogateescape")
                job = state.Job(
                    number=int(folder.name),
                    folder=str(script.parent),
                    command=command,
                    devices=devices,
                    slots=_slots(os.environ),
                    kill_wait_s=_kill_wait_s(os.environ),
                    submitted=time.time(),
                    **{**ask._asdict(), "name": ask.name or script.name},
                )
                state.write(folder / "job.json", job._asdict())
                self._start(folder)
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return folder.name

    def queue(self) -> list[JobStatus]:
        """All jobs of this machine, those that ended in the last hour included."""
        before = time.time() - SHOWN_S
        return [
            status
            for folder in self._folders()
            if not _ended_before(folder, before)
            for status in statuses(folder)
        ]

    def history(self, names: Sequence[str], since: str) -> list[JobStatus]:
        """The jobs of these names that had not ended before a time."""
        return [
            status
            for folder in self._folders()
            for status in statuses(folder)
            if status.name in names and (status.ended is None or status.ended >= since[:19])
        ]

    def cancel(self, job_ids: Sequence[str], *, pending_only: bool = False) -> None:
        """Ask the supervisors to end jobs, arrays or tasks; what has ended is no error."""
        for job_id in job_ids:
            if not CANCELLABLE.fullmatch(job_id):
                raise HpckitError(f"{job_id!r} is no job id")
            path = self.root / job_id
            number, _, tasks = (path.read_text() if path.is_file() else job_id).partition("_")
            folder = self.root / number
            if folder.is_dir() and not (folder / "final.json").exists():
                wanted = tasks_of(tasks.strip("[]")) if tasks else None
                with self._writable():
                    _cancel(folder, wanted, pending_only)

    def update(self, array_id: str, tasks: Sequence[int], changed: Changed) -> None:
        """Memory is not limited here, and there is one node; all else stays as it was submitted."""
        if set(changed.resources) - {"memory"}:
            raise HpckitError("jobs of the local scheduler cannot be changed")

    def nodes(self, partition: str | None) -> list[str]:
        """This machine."""
        return [socket.gethostname()]

    def longest_s(self, partition: str | None) -> int | None:
        """There are no partitions."""
        return None

    def is_preempted(self, job_id: str) -> bool:
        """Nobody goes first here."""
        return False

    def max_array_size(self) -> int:
        """Slurm's default, so that what runs here runs there."""
        return 1001

    def _folders(self) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError):
            found = [e.name for e in os.scandir(self.root) if e.name.isdecimal() and e.is_dir()]
            yield from (self.root / name for name in sorted(found, key=int))

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = error.strerror or str(error)
            raise CannotWrite(
                f"cannot write {error.filename or self.root}: {what}",
                "free some space, or set HPCKIT_LOCAL_DIR to another folder",
            ) from error

    def _start(self, folder: Path) -> None:
        """Start the supervisor in a session of its own, and wait until it has taken over."""
        reading, writing = os.pipe()
        package = str(Path(hpckit.__file__).resolve().parent.parent)
        try:
            with open(folder / "log", "wb") as log:
                # -I -S: no PYTHONPATH, and no json.py of somebody's folder, may get in between.
                subprocess.run(
                    [sys.executable, "-I", "-S", "-c", STARTER, package, str(folder), str(writing)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env={**clean_environment(os.environ), state.MARK: folder.name},
                    pass_fds=[writing],
                    start_new_session=True,
                    check=False,
                )
            os.close(writing)
            writing = -1
            said = os.read(reading, 16) if select.select([reading], [], [], UP_S)[0] else None
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)
        if said is None:
            raise SubmissionUnclear(f"job {folder.name} has not started its supervisor yet")
        if not said:
            problem = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
            shutil.rmtree(folder, ignore_errors=True)
            raise SubmissionRefused(f"the job's supervisor did not start: {' '.join(problem)}")

    def _prune(self) -> None:
        """Forget jobs that ended long ago; the highest number stays, or it would come again."""
        before = time.time() - KEEP_S
        taken = sorted(state.numbers(self.root))[:-1]
        for path in (self.root / str(number) for number in taken):
            with contextlib.suppress(OSError):
                if path.is_file():
                    if path.stat().st_mtime < before:
                        path.unlink()
                elif _last_change(path) < before and state.is_over(path):
                    shutil.rmtree(path)


def visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """The GPUs that jobs may use: CUDA_VISIBLE_DEVICES, or all that the driver shows."""
    given = environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [
            name for name in (part.strip() for part in given.split(",")) if name not in ("", "-1")
        ]
    found = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted((name for name in found if re.fullmatch(r"\d+", name)), key=int)


def _slots(environ: Mapping[str, str]) -> int:
    """How many CPUs jobs may use together: HPCKIT_LOCAL_CPUS, or those that we may."""
    given = environ.get("HPCKIT_LOCAL_CPUS")
    if given is None:
        return len(os.sched_getaffinity(0))
    if not given.isdecimal() or int(given) == 0:
        raise UsageError(f"HPCKIT_LOCAL_CPUS={given!r} is no number of CPUs")
    return int(given)


def _kill_wait_s(environ: Mapping[str, str]) -> float:
    given = environ.get("HPCKIT_LOCAL_KILLWAIT", "10")
    try:
        return float(given)
    except ValueError:
        raise UsageError(f"HPCKIT_LOCAL_KILLWAIT={given!r} is no number of seconds") from None


def _ended_before(folder: Path, moment: float) -> bool:
    try:
        return (folder / "final.json").stat().st_mtime < moment
    except OSError:
        return False


def _last_change(folder: Path) -> float:
    final = folder / "final.json"
    return (final if final.exists() else folder).stat().st_mtime


def _cancel(folder: Path, tasks: tuple[int, ...] | None, pending_only: bool) -> None:
    """Leave a word for the supervisor; where it is gone, tell the tasks' keepers."""
    running = {
        task: state.Process(*about["process"])
        for task, about in state.read_tasks(folder).items()
        if about["state"] in state.ACTIVE
    }
    if tasks is None:
        wishes = ["pending" if pending_only else "all"]
    else:
        wishes = [str(task) for task in tasks if not (pending_only and task in running)]
    (folder / "cancel").mkdir(exist_ok=True)
    for wish in wishes:
        (folder / "cancel" / wish).touch()
    supervisor = state.supervisor_of(folder)
    if supervisor is None or supervisor.signal(signal.SIGUSR1):
        # One that is only coming up reads what was left for it before it starts anything.
        return
    for task, keeper in running.items():
        if not pending_only and (tasks is None or task in tasks):
            keeper.signal(signal.SIGUSR1)

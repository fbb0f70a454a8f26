"""The local scheduler's folder: one numbered folder a job, plain files, one writer each.

Standard library only, and little of it: every supervisor loads this before its first job starts.

    <root>/7/job.json            what was asked; written last by submit
    <root>/7/script              as it was submitted
    <root>/7/supervisor.json     who looks after the job
    <root>/7/tasks/2.json        how task 2 stands (0.json for a job that is no array)
    <root>/7/remainder.json      tasks that were cancelled before they started
    <root>/7/cancel/             what somebody asked for: "pending", "all" or a task's number
    <root>/7/final.json          all of the above, once everything has ended
    <root>/8                     a file: number 8 is the job number of a task; says which ("7_2")
    <root>/gpus/0.lock           held (flock) by the task that uses the GPU
    <root>/cpus/0.lock           the same for a CPU; which one it is does not matter, how many does
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# In the environment of supervisors and keepers only, never of what they start: a job that submits
# another must not take it along when it ends.
MARK = "HPCKIT_LOCAL_SUPERVISOR"
ACTIVE = ("RUNNING", "COMPLETING")
# Submitted, but its supervisor has not come up: after this it never will.
BORN_S = 30.0


class Job(NamedTuple):
    """What a script asked for."""

    number: int
    name: str
    folder: str
    command: list[str]
    tasks: list[int]
    is_array: bool
    at_most: int
    limit_s: float | None
    signal: int | None
    lead_s: float
    batch_only: bool
    output: str
    error: str
    append: bool
    gpus: int
    devices: list[str]
    cpus: int
    after: list[str]
    singleton: bool
    kill_wait_s: float
    submitted: float
    # What later versions added has a default: jobs of an older one are still told.
    slots: int = 0

    def task_id(self, task: int) -> str:
        return f"{self.number}_{task}" if self.is_array else str(self.number)


class Process(NamedTuple):
    """A process that cannot be mistaken for a later one with its number."""

    pid: int
    start: str
    boot: str

    @classmethod
    def this(cls) -> Process:
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid, _start_of(pid) or "", boot_id())

    @property
    def is_alive(self) -> bool:
        return self.boot == boot_id() and _start_of(self.pid) == self.start

    def signal(self, number: int) -> bool:
        """Send a signal; False where the process is gone."""
        if not self.is_alive:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def root() -> Path:
    """The state folder; one a machine, since home folders are often shared by several."""
    if given := os.environ.get("HPCKIT_LOCAL_DIR"):
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "hpckit" / "local" / socket.gethostname()


def boot_id() -> str:
    """What tells this run of the machine from the last."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"


def stat_of(pid: int | str) -> list[str] | None:
    """/proc/<pid>/stat from its third field on (the name before it may hold anything)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def is_dead(fields: list[str]) -> bool:
    """Whether nothing of a process runs: one whose main thread ended may have others that do."""
    return fields[0] in "ZX" and int(fields[17]) <= 1


def _start_of(pid: int) -> str | None:
    """When a process began, in ticks since boot; None when it is gone or only a zombie."""
    fields = stat_of(pid)
    return None if fields is None or is_dead(fields) else fields[19]


def numbers(folder: Path) -> list[int]:
    """The numbers taken so far, of jobs and tasks alike."""
    return [int(entry.name) for entry in os.scandir(folder) if entry.name.isdecimal()]


def take_folder(folder: Path) -> Path:
    """A new numbered folder that nobody else has."""
    number = max(numbers(folder), default=0) + 1
    while True:
        path = folder / str(number)
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def take_number(folder: Path, task_id: str) -> int:
    """A new job number for a task, which is kept by a file that says whose it is."""
    number = max(numbers(folder), default=0) + 1
    while True:
        try:
            with open(folder / str(number), "x", encoding="utf-8") as stream:
                stream.write(task_id)
        except (FileExistsError, IsADirectoryError):
            number += 1
        else:
            return number


def write(path: Path, value: Any) -> None:
    """Replace a JSON file in one step; no fsync, since no job outlives the machine's power."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read(path: Path) -> Any:
    """The value in a JSON file; None where there is none."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def read_job(folder: Path) -> Job | None:
    """What the job in a folder asked for."""
    return job_of(read(folder / "job.json"))


def job_of(found: Any) -> Job | None:
    """The job that was written down, by this version or another; None where it is not whole."""
    needed = set(Job._fields) - set(Job._field_defaults)
    if not isinstance(found, dict) or not needed <= set(found):
        return None
    return Job(**{name: value for name, value in found.items() if name in Job._fields})


def read_tasks(folder: Path) -> dict[int, dict[str, Any]]:
    """The tasks that have begun, or were cancelled one by one."""
    found: dict[int, dict[str, Any]] = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder / "tasks"):
            number, _, ending = entry.name.partition(".")
            value = read(Path(entry.path)) if ending == "json" else None
            if value is not None:
                found[int(number)] = value
    return dict(sorted(found.items()))


def supervisor_of(folder: Path) -> Process | None:
    """Who looks after a job, or did."""
    about = read(folder / "supervisor.json")
    return Process(*about["process"]) if about else None


def is_kept(folder: Path, submitted: float) -> bool:
    """Whether somebody looks after a job, or is just about to."""
    supervisor = supervisor_of(folder)
    return supervisor.is_alive if supervisor else time.time() - submitted < BORN_S


def is_over(folder: Path) -> bool:
    """Whether nothing of a job will run any more."""
    if (folder / "final.json").exists():
        return True
    job = read_job(folder)
    if job is None or is_kept(folder, job.submitted):
        return job is None
    tasks = read_tasks(folder).values()
    active = [task for task in tasks if task["state"] in ACTIVE]
    return not any(Process(*task["process"]).is_alive for task in active)


def iso(moment: float | None) -> str | None:
    """A time as people and programs read it."""
    return None if moment is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))

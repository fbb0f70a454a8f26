"""The supervisor of one local job: starts its tasks in turn, obeys cancellations, outlives shells.

Started by `Local.submit` as a process of its own, with nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from hpckit.scheduler import local_state as state
from hpckit.scheduler.local_task import Keeper
from hpckit.scheduler.local_tree import Bell, become_subreaper, descendants, end

WAITING_S = 0.2
IDLE_S = 2.0
Held = tuple[str, int]
HEARD = (signal.SIGCHLD, signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM)


class Supervisor:
    """The one writer of a job's folder, but for the records of tasks that run."""

    def __init__(self, folder: Path) -> None:
        job = state.read_job(folder)
        assert job is not None
        self.folder, self.job = folder, job
        self.pending = list(job.tasks)
        self.running: dict[int, int] = {}
        self.bell = Bell(*HEARD)
        self.reason: str | None = None
        # Our places at the head of the lines for devices, while we stand there.
        self.heads: dict[str, int] = {}

    def serve(self, ready: int) -> None:
        """Run every task; returns when nothing of the job is left."""
        become_subreaper()
        (self.folder / "tasks").mkdir(exist_ok=True)
        self._waits_for("")
        os.write(ready, b"ready")
        os.close(ready)
        while self._obey() or self.running:
            if not self.pending or len(self.running) >= self.job.at_most:
                self.bell.wait(IDLE_S)
            elif not self._may_start():
                self._waits_for("Dependency")
                self.bell.wait(WAITING_S)
            elif (locks := self._lease()) is None:
                self._waits_for("Resources")
                self.bell.wait(WAITING_S)
            else:
                self._begin(locks)
            self._reap()
        self._finish()

    def _obey(self) -> list[int]:
        """Do what was asked for; the tasks that are still to start."""
        if self.bell.rang(signal.SIGTERM):
            self._drop_pending("NODE_FAIL")
            for pid in self.running:
                os.kill(pid, signal.SIGTERM)
        for request in sorted((self.folder / "cancel").iterdir()):
            what = request.name
            if what in ("all", "pending"):
                self._drop_pending("CANCELLED")
            elif what.isdecimal() and int(what) in self.pending:
                self.pending.remove(int(what))
                self._write(f"tasks/{what}.json", _never_started("CANCELLED"))
            for pid, task in self.running.items():
                if what in ("all", str(task)):
                    # Not reaped yet, so the number is still this child's.
                    os.kill(pid, signal.SIGUSR1)
            request.unlink(missing_ok=True)
        if not self.pending:
            self._leave_lines()
        return self.pending

    def _drop_pending(self, word: str) -> None:
        if self.pending:
            self._write("remainder.json", {"tasks": self.pending, **_never_started(word)})
            self.pending = []

    def _may_start(self) -> bool:
        if self.job.after or self.job.singleton:
            root = self.folder.parent
            waits = any(not _id_is_over(root, job_id) for job_id in self.job.after)
            if waits or (self.job.singleton and _has_older_namesake(root, self.job)):
                return False
            self.job = self.job._replace(after=[], singleton=False)
        return True

    def _lease(self) -> dict[str, list[Held]] | None:
        """The GPUs and CPUs for a task, each with its held lock; None while there are not enough.

        The one at the head of the line keeps that place: small jobs cannot starve a big one.
        """
        job = self.job
        slots = [str(slot) for slot in range(job.slots)]
        leases: dict[str, list[Held]] = {}
        # GPUs first: who waits for one does not stand in the way of those who need none.
        for kind, devices, count in (("gpus", job.devices, job.gpus), ("cpus", slots, job.cpus)):
            held = self._held(kind, devices, min(count, len(devices)))
            if held is None:
                for others in leases.values():
                    _close(others)
                return None
            leases[kind] = held
        self._leave_lines()
        return leases

    def _held(self, kind: str, devices: list[str], count: int) -> list[Held] | None:
        if count == 0:
            return []
        folder = self.folder.parent / kind
        folder.mkdir(exist_ok=True)
        if kind not in self.heads:
            head = _lock(folder / "head.lock")
            if head is None:
                return None
            self.heads[kind] = head
        held: list[Held] = []
        for device in devices:
            lock = _lock(folder / f"{device.replace('/', '_')}.lock")
            if lock is not None:
                held.append((device, lock))
            if len(held) == count:
                return held
        _close(held)
        return None

    def _leave_lines(self) -> None:
        while self.heads:
            os.close(self.heads.popitem()[1])

    def _begin(self, leases: dict[str, list[Held]]) -> None:
        """Start the next task, unless the disk is full: then it waits."""
        locks = [lock for held in leases.values() for lock in held]
        try:
            number = state.take_number(self.folder.parent, self.job.task_id(self.pending[0]))
        except OSError as error:
            _close(locks)
            self._waits_for(f"{error.strerror}: {self.folder.parent}")
            self.bell.wait(IDLE_S)
            return
        self._waits_for("")
        devices = [device for device, _ in leases["gpus"]]
        self._start(self.pending.pop(0), number, devices, locks)

    def _start(self, task: int, number: int, devices: list[str], locks: list[Held]) -> None:
        # No signal may reach the keeper before it has handlers of its own.
        signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        pid = os.fork()
        if pid == 0:
            _keep(self.job, self.folder, task, number, devices)
        self.running[pid] = task
        # The keeper holds the devices now, as long as it lives.
        _close(locks)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)

    def _reap(self) -> bool:
        """Collect what has died; whether any child is left."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid in self.running:
                    self._settle(self.running.pop(pid))
        return False

    def _settle(self, task: int) -> None:
        """A keeper that was killed left processes and no result; both are put right."""
        path = self.folder / "tasks" / f"{task}.json"
        record = state.read(path) or _never_started("RUNNING")
        if record["state"] not in state.ACTIVE:
            return
        if descendants():
            end(self.bell, self._reap, kill_wait_s=self.job.kill_wait_s)
        about = {"state": "NODE_FAIL", "reason": "its keeper died", "ended": time.time()}
        self._write(f"tasks/{task}.json", record | about)

    def _waits_for(self, reason: str) -> None:
        if reason != self.reason:
            self.reason = reason
            about = {"process": list(state.Process.this()), "reason": reason}
            self._write("supervisor.json", about)

    def _write(self, name: str, value: Any) -> None:
        try:
            state.write(self.folder / name, value)
        except OSError:
            # A full disk must not end the jobs that run: readers then see less than there is.
            traceback.print_exc()

    def _finish(self) -> None:
        tasks = {str(task): about for task, about in state.read_tasks(self.folder).items()}
        remainder = state.read(self.folder / "remainder.json")
        about = {"job": self.job._asdict(), "tasks": tasks, "remainder": remainder}
        self._write("final.json", about)


def _keep(job: state.Job, folder: Path, task: int, number: int, devices: list[str]) -> None:
    """The keeper's life, in the forked child; never returns."""
    code = 1
    try:
        os.setsid()
        for heard in HEARD:
            signal.signal(heard, signal.SIG_DFL)
        keeper = Keeper(job, folder, task, number, devices)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
        keeper.serve()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _never_started(word: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("started", "ends_by", "exit_code", "signal"))
    return {"state": word, "ended": time.time(), "node": "", "reason": "", **nothing}


def _id_is_over(root: Path, job_id: str) -> bool:
    """Whether a job, array or task has ended; one that nobody knows has."""
    with contextlib.suppress(OSError):
        job_id = (root / job_id).read_text() if (root / job_id).is_file() else job_id
    number, _, task = job_id.partition("_")
    folder = root / number
    if not task or state.is_over(folder):
        return not folder.is_dir() or state.is_over(folder)
    record = state.read(folder / "tasks" / f"{task}.json")
    return record is not None and record["state"] not in state.ACTIVE


def _has_older_namesake(root: Path, job: state.Job) -> bool:
    for number in state.numbers(root):
        folder = root / str(number)
        if number < job.number and folder.is_dir() and not state.is_over(folder):
            other = state.read_job(folder)
            if other is not None and other.name == job.name:
                return True
    return False


def _lock(path: Path) -> int | None:
    """A held lock that ends with its last holder, however that dies; None where it is taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _close(locks: list[Held]) -> None:
    for _, descriptor in locks:
        os.close(descriptor)


def main(folder: Path, ready: int) -> None:
    """Leave the one who submitted, then look after the job."""
    if os.fork():
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):
        # Ignored signals would stay ignored in every job.
        signal.signal(number, signal.SIG_DFL)
    Supervisor(folder).serve(ready)

"""The keeper of one running task: its output, its time limit, its end and all it left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
import traceback
from pathlib import Path
from typing import Any

from hpckit.scheduler.local_state import MARK, Job, Process, write
from hpckit.scheduler.local_tree import Bell, become_subreaper, descendants, end, send

# How long the end of a task is tried to be written down.
INSIST_S = 120.0
AGAIN_S = 2.0
PATTERN = re.compile(r"%(\d*)([%AajJxuNtns])")


class Keeper:
    """Runs in a process of its own, so that a task survives its supervisor."""

    def __init__(self, job: Job, folder: Path, task: int, number: int, devices: list[str]) -> None:
        self.job, self.folder, self.task, self.number = job, folder, task, number
        self.devices = devices
        self.bell = Bell(signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM)
        self.batch = 0
        self.status: int | None = None
        started = time.time()
        self.record: dict[str, Any] = {
            "state": "RUNNING",
            "process": list(Process.this()),
            "number": number,
            "node": socket.gethostname(),
            "reason": "",
            "started": started,
            "ends_by": None if job.limit_s is None else started + job.limit_s,
            "ended": None,
            "exit_code": None,
            "signal": None,
        }

    def serve(self) -> None:
        """Run the task to its end, and write down how it ended."""
        become_subreaper()
        self._write()
        try:
            self._start()
        except OSError as error:
            about = f"JobLaunchFailure: {error.strerror}: {error.filename}"
            self.record |= {"reason": about, "exit_code": 1}
            self._ended("FAILED")
            return
        state = self._watch()
        if self._reap():
            if descendants():
                self._write(state="COMPLETING")
            if not end(self.bell, self._reap, kill_wait_s=self.job.kill_wait_s):
                self.record["reason"] = "some of its processes would not die"
        self._ended(state)

    def _start(self) -> None:
        job = self.job
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(self._open(job.output))
            err = stack.enter_context(self._open(job.error)) if job.error else subprocess.STDOUT
            process = subprocess.Popen(
                [*job.command, str(self.folder / "script")],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=job.folder,
                env=self._environment(),
                start_new_session=True,
            )
        self.batch = process.pid
        # All children are reaped below, whoever started them: nothing is left for Popen to do.
        process.returncode = 0

    def _watch(self) -> str:
        """Wait for the batch process, the limit or a cancellation; the state that it makes."""
        began = time.monotonic()
        limit_s = self.job.limit_s
        lead_s: float | None = None
        if limit_s is not None and self.job.signal is not None:
            lead_s = max(0.0, limit_s - self.job.lead_s)
        while self._reap() and self.status is None:
            passed = time.monotonic() - began
            if self.bell.rang(signal.SIGUSR1):
                return "CANCELLED"
            if self.bell.rang(signal.SIGTERM):
                # Nobody cancels that way: this is the machine going down.
                self.record["reason"] = "the machine was shut down"
                return "NODE_FAIL"
            if limit_s is not None and passed >= limit_s:
                self.record["reason"] = "TimeLimit"
                return "TIMEOUT"
            if lead_s is not None and passed >= lead_s:
                self._warn()
                lead_s = None
            ahead = [moment - passed for moment in (lead_s, limit_s) if moment is not None]
            self.bell.wait(min(ahead, default=None))
        return "COMPLETED" if self.status == 0 else "FAILED"

    def _warn(self) -> None:
        """The signal before the limit: to the batch process, or to all but it, as Slurm does."""
        number = self.job.signal
        assert number is not None
        if self.job.batch_only:
            send([self.batch], number)
        else:
            send([pid for pid in descendants() if pid != self.batch], number)

    def _reap(self) -> bool:
        """Collect what has died; whether any child is left."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self.batch:
                    self.status = status
        return False

    def _ended(self, state: str) -> None:
        status = self.status
        if status is not None and os.WIFSIGNALED(status):
            self.record["signal"] = os.WTERMSIG(status)
        elif status is not None:
            code = os.WEXITSTATUS(status)
            self.record["exit_code"] = code if code or state == "COMPLETED" else None
        self.record |= {"state": state, "ended": time.time()}
        until = time.monotonic() + INSIST_S
        while not self._write() and time.monotonic() < until:
            self.bell.wait(AGAIN_S)

    def _write(self, **changed: Any) -> bool:
        """Say how the task stands; a full disk must not end what runs, nor be its failure."""
        self.record |= changed
        try:
            write(self.folder / "tasks" / f"{self.task}.json", self.record)
        except OSError:
            traceback.print_exc()
            # Where the job's folder was deleted, nobody will ever ask.
            return not self.folder.exists()
        return True

    def _open(self, pattern: str) -> Any:
        values = {
            "%": "%",
            "A": str(self.job.number),
            "a": str(self.task),
            "j": str(self.number),
            "J": str(self.number),
            "x": self.job.name,
            "u": os.environ.get("USER", str(os.getuid())),
            "N": socket.gethostname(),
        }
        name = PATTERN.sub(lambda m: values.get(m[2], "0").zfill(int(m[1] or 0)), pattern)
        return open(Path(self.job.folder) / name, "ab" if self.job.append else "wb")

    def _environment(self) -> dict[str, str]:
        job, host = self.job, socket.gethostname()
        environ = {name: value for name, value in os.environ.items() if name != MARK}
        environ |= {
            "HPCKIT_SCHEDULER": "local",
            "HPCKIT_LOCAL_DIR": str(self.folder.parent),
            "SLURM_JOB_ID": str(self.number),
            "SLURM_JOBID": str(self.number),
            "SLURM_JOB_NAME": job.name,
            "SLURM_JOB_NODELIST": host,
            "SLURM_NODELIST": host,
            "SLURMD_NODENAME": host,
            "SLURM_NNODES": "1",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_NTASKS": "1",
            "SLURM_TASKS_PER_NODE": "1",
            "SLURM_CPUS_PER_TASK": str(job.cpus),
            "SLURM_GPUS_PER_NODE": str(job.gpus),
            "SLURM_SUBMIT_DIR": job.folder,
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": "0",
            "SLURM_JOB_START_TIME": str(int(self.record["started"])),
        }
        if job.limit_s is not None:
            environ["SLURM_JOB_END_TIME"] = str(int(self.record["ends_by"]))
        if job.is_array:
            environ |= {
                "SLURM_ARRAY_JOB_ID": str(job.number),
                "SLURM_ARRAY_TASK_ID": str(self.task),
                "SLURM_ARRAY_TASK_MIN": str(min(job.tasks)),
                "SLURM_ARRAY_TASK_MAX": str(max(job.tasks)),
                "SLURM_ARRAY_TASK_COUNT": str(len(job.tasks)),
            }
        if job.gpus:
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices)
        return environ

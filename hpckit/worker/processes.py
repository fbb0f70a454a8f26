"""A launch in a queue's job: the ranks as one srun step, or as processes of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpckit.errors import SchedulerSilent
from hpckit.scheduler.slurm import GONE, run_tool
from hpckit.worker.launch import PATIENCE_S, allocation_environment, rank_environment, srun_command
from hpckit.worker.rank_script import RANK, Layout

OTHERS_GRACE_S = 10
TELL_S = 30.0
# A node that has not started its ranks by then may never do so: then the others are told.
LAUNCH_S = 60.0
# What srun ends with when Slurm gave it no step in time.
NO_STEP = "Unable to create step"


class SlurmStep:
    """The ranks as one srun step over the nodes of the allocation."""

    def __init__(self, layout: Layout, logs: Path) -> None:
        self._logs = logs
        self._world_size = layout.world_size
        self._command = srun_command(layout, logs)
        self._is_told = False
        self._start()

    def _start(self) -> None:
        self._began = time.monotonic()
        self._srun = _detached(self._command, allocation_environment(), self._logs / "srun.log")

    def poll(self) -> bool:
        if self._srun.poll() is None:
            return False
        with contextlib.suppress(OSError):
            if self._was_put_off():
                (self._logs / "srun.log").unlink()
                self._start()
                return False
        return True

    def _was_put_off(self) -> bool:
        """Whether srun waited for its step in vain; a new one may get it at once.

        One that waits on is not told that slurmctld is back until two minutes later.
        """
        if self._is_told or time.monotonic() - self._began < PATIENCE_S - 1:
            return False
        return NO_STEP in (self._logs / "srun.log").read_text(errors="replace")

    def signal(self, number: int) -> bool:
        self._is_told = True
        # Not through srun: it answers SIGTERM by killing the ranks, which then cannot save.
        step = self._step()
        if step is None or not self._is_launched():
            return False
        name = signal.Signals(number).name.removeprefix("SIG")
        try:
            sent = run_tool(["scancel", f"--signal={name}", step], TELL_S)
        except SchedulerSilent as error:
            print(f"hpckit: {error.message}", flush=True)
            return False
        # A node whose ranks have all ended says that it knows no such job; the others heard it,
        # and a second SIGTERM would only disturb them while they save.
        if sent.code == 0 or GONE.search(sent.err):
            return True
        print(f"hpckit: {sent.err.strip()}", flush=True)
        return False

    def _is_launched(self) -> bool:
        """Whether every node has started its ranks, as the files of their output show."""
        if time.monotonic() - self._began > LAUNCH_S:
            return True
        return all((self._logs / f"rank-{rank}.log").exists() for rank in range(self._world_size))

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._srun.wait(timeout=15)
            return
        self._srun.kill()

    def _step(self) -> str | None:
        with contextlib.suppress(OSError):
            step = (self._logs / "step").read_text().strip()
            return f"{os.environ['SLURM_JOB_ID']}.{step}" if step else None
        return None


class LocalProcesses:
    """The ranks as processes of this machine; when one fails the others get ten seconds."""

    def __init__(self, layout: Layout, logs: Path) -> None:
        self._failed_at: float | None = None
        self._processes = [self._start(rank, layout, logs) for rank in range(layout.world_size)]

    @staticmethod
    def _start(rank: int, layout: Layout, logs: Path) -> subprocess.Popen[bytes]:
        command = ["bash", str(logs / RANK)]
        return _detached(command, rank_environment(rank, layout), logs / f"rank-{rank}.log")

    def poll(self) -> bool:
        codes = [process.poll() for process in self._processes]
        if self._failed_at is None and any(code not in (None, 0) for code in codes):
            self._failed_at = time.monotonic()
        running = any(code is None for code in codes)
        if running and self._failed_at and time.monotonic() - self._failed_at > OTHERS_GRACE_S:
            self.kill()
        return not running

    def signal(self, number: int) -> bool:
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
        return True

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()


def end_leftovers(run_dir: Path, attempt: int, launch: int) -> None:
    """End what a launch has left on this node: what leaves its session outlives its rank."""
    marks = {
        f"HPCKIT_RUN_DIR={run_dir}",
        f"HPCKIT_ATTEMPT={attempt}",
        f"HPCKIT_LAUNCH={launch}",
    }
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            # What is not ours, or has just ended, is passed over.
            environ = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            if marks <= set(environ):
                os.kill(int(folder.name), signal.SIGKILL)


def _detached(
    command: Sequence[str], environ: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """A process in a session of its own, which no signal to the worker reaches."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            list(command),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

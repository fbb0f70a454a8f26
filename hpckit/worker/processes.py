"""A launch in a queue's job: the ranks as one srun step, or as processes of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpckit.worker.launch import allocation_environment, rank_environment, srun_command
from hpckit.worker.rank_script import RANK, Layout

OTHERS_GRACE_S = 10


class SlurmStep:
    """The ranks as one srun step over the nodes of the allocation."""

    def __init__(self, layout: Layout, logs: Path) -> None:
        self._logs = logs
        command = srun_command(layout, logs)
        self._srun = _detached(command, allocation_environment(), logs / "srun.log")

    def poll(self) -> bool:
        return self._srun.poll() is not None

    def signal(self, number: int) -> bool:
        # Not through srun: it answers SIGTERM by killing the ranks, which then cannot save.
        step = self._step()
        if step is None:
            return False
        name = signal.Signals(number).name.removeprefix("SIG")
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            sent = subprocess.run(["scancel", f"--signal={name}", step], timeout=30, check=False)
            return sent.returncode == 0
        return False

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

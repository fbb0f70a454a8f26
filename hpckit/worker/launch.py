"""One start of the training processes inside an attempt: an srun step, or local processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hpckit.scheduler.local_tree import descendants
from hpckit.worker.rank_script import RANK, Layout

if TYPE_CHECKING:
    from hpckit.spec import JobSpec

# An allocation's own task counts would make the nested srun start too few ranks.
ALLOCATION_ONLY = (
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_TASKS_PER_NODE",
    "SLURM_CPUS_PER_TASK",
)
OTHERS_GRACE_S = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class RankExit:
    """How one rank ended: its own word, not srun's."""

    rank: int
    code: int
    stage: str
    when: float
    # It was sent SIGTERM; by whom, it cannot know.
    was_told: bool = False


class Launch(Protocol):
    """Running processes, whoever started them."""

    def poll(self) -> bool:
        """Whether all have ended."""

    def signal(self, number: int) -> bool:
        """Send a signal to every rank; whether it was sent."""

    def kill(self) -> None:
        """End every rank now."""


def layout_of(spec: JobSpec, environ: Mapping[str, str]) -> Layout:
    """How many processes a spec asks for, in this allocation."""
    nodes = int(environ.get("SLURM_NNODES", "1"))
    gpus = spec.resources.gpus
    kind = spec.program.processes or ("per_gpu" if spec.program.trainer else "per_node")
    if kind == "one":
        nodes = 1
    per_node = max(gpus, 1) if kind == "per_gpu" else 1
    job = int(environ.get("SLURM_JOB_ID", "0"))
    return Layout(
        nodes=nodes,
        per_node=per_node,
        master_address="127.0.0.1" if nodes == 1 else _meeting_host(environ),
        master_port=20_000 + job % 20_000 if nodes > 1 else _free_port(),
    )


def inside_slurm(environ: Mapping[str, str]) -> bool:
    """Whether this is an allocation of a real Slurm, not of its local twin."""
    return "SLURM_JOB_ID" in environ and environ.get("HPCKIT_SCHEDULER") != "local"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _meeting_host(environ: Mapping[str, str]) -> str:
    """The first node, by the name that the others can resolve; the worker runs on it."""
    node = environ.get("SLURMD_NODENAME", "")
    with contextlib.suppress(OSError):
        socket.gethostbyname(node)
        return node
    return socket.gethostname()


def rank_exits(logs: Path) -> list[RankExit]:
    """What the ranks that have ended wrote, the first to end first."""
    found = []
    for path in logs.glob("rank-*.exit"):
        exit_ = _rank_exit(path)
        if exit_ is not None:
            found.append(exit_)
    return sorted(found, key=lambda exit_: (exit_.when, exit_.rank))


def _rank_exit(path: Path) -> RankExit | None:
    """What is in a rank's file: code, stage, and `told` if it was; None while it is half there."""
    words = path.read_text().split()
    if len(words) < 2:
        return None
    return RankExit(
        rank=int(path.stem.removeprefix("rank-")),
        code=int(words[0]),
        stage=words[1],
        when=path.stat().st_mtime,
        was_told="told" in words[2:],
    )


class SlurmStep:
    """The ranks as one srun step over the nodes of the allocation."""

    def __init__(self, layout: Layout, logs: Path) -> None:
        self._logs = logs
        environ = {k: v for k, v in os.environ.items() if k not in ALLOCATION_ONLY}
        with open(logs / "srun.log", "wb") as output:
            self._srun = subprocess.Popen(
                srun_command(layout, logs),
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

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


def srun_command(layout: Layout, logs: Path, *, foreground: bool = False) -> list[str]:
    """The step that starts every rank; when one fails, Slurm ends the others."""
    # % begins a pattern in an output path: two are one.
    output = ["--input=none", f"--output={str(logs).replace('%', '%%')}/rank-%t.log"]
    return [
        "srun",
        f"--nodes={layout.nodes}",
        f"--ntasks={layout.world_size}",
        f"--ntasks-per-node={layout.per_node}",
        "--kill-on-bad-exit=1",
        # One rank may save for long after the others are done: nobody is ended for that.
        "--wait=0",
        "--overlap",
        # An allocation may have fewer CPUs than GPUs; a process a GPU must start all the same.
        "--overcommit",
        "--cpu-bind=none",
        "--mpi=none",
        "--unbuffered",
        *([] if foreground else output),
        "bash",
        str(logs / RANK),
    ]


def rank_environment(rank: int, layout: Layout) -> dict[str, str]:
    """What srun would tell a rank, for those that start without it."""
    environ = {k: v for k, v in os.environ.items() if k not in ALLOCATION_ONLY}
    return environ | {
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_NODEID": "0",
        "SLURM_NTASKS": str(layout.world_size),
    }


class Piped:
    """One process that keeps our stdin; what it prints is copied, to us and to its log."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self._process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._copier = threading.Thread(target=self._copy, args=(log,), daemon=True)
        self._copier.start()

    def poll(self) -> bool:
        if self._process.poll() is None:
            return False
        self._copier.join(timeout=2)
        return True

    def signal(self, number: int) -> bool:
        # It shares our process group, and with it the terminal's stdin: so each by itself.
        for pid in (*descendants(self._process.pid), self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return True

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def _copy(self, log: Path) -> None:
        assert self._process.stdout is not None
        with open(log, "ab", buffering=0) as kept:
            places = [kept.fileno(), sys.stdout.fileno()]
            while data := os.read(self._process.stdout.fileno(), 65536):
                # A reader that went away, or a full disk, must not stop the program: drain on.
                places = [place for place in places if _written(place, data)]


def _written(place: int, data: bytes) -> bool:
    try:
        while data:
            data = data[os.write(place, data) :]
    except OSError:
        return False
    return True


def in_foreground(layout: Layout, logs: Path) -> Launch:
    """The one rank of a launch with our stdin: under a terminal where there is one."""
    in_slurm = inside_slurm(os.environ)
    command = (
        srun_command(layout, logs, foreground=True) if in_slurm else ["bash", f"{logs}/{RANK}"]
    )
    environ = rank_environment(0, layout)
    if sys.stdin.isatty() and sys.stdout.isatty():
        # A terminal's modules are of no use to a batch job.
        from hpckit.worker.terminal import TerminalProcess

        return TerminalProcess(command, environ, logs / "rank-0.log")
    return Piped(command, environ, logs / "rank-0.log")


class LocalProcesses:
    """The ranks as processes of this machine; when one fails the others get ten seconds."""

    def __init__(self, layout: Layout, logs: Path) -> None:
        self._failed_at: float | None = None
        self._processes = [self._start(rank, layout, logs) for rank in range(layout.world_size)]

    @staticmethod
    def _start(rank: int, layout: Layout, logs: Path) -> subprocess.Popen[bytes]:
        environ = rank_environment(rank, layout)
        command = ["bash", str(logs / RANK)]
        with open(logs / f"rank-{rank}.log", "ab") as output:
            return subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

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

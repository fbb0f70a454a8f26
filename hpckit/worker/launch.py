"""What a launch is: how many processes, where they meet, and how each of them ended."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hpckit.scheduler.slurm_text import nodes_of
from hpckit.worker.rank_script import RANK, Layout

if TYPE_CHECKING:
    from hpckit.spec import JobSpec

# So long one srun waits for its step, while the one before it ends.
PATIENCE_S = 10
# An allocation's own task counts would make the nested srun start too few ranks.
ALLOCATION_ONLY = (
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_TASKS_PER_NODE",
    "SLURM_CPUS_PER_TASK",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankExit:
    """How one rank ended: its own word, not srun's."""

    rank: int
    code: int
    stage: str
    when: float
    # It was sent SIGTERM; by whom, it cannot know.
    was_told: bool = False
    node: str | None = None


class Launch(Protocol):
    """Running processes, whoever started them."""

    def poll(self) -> bool:
        """Whether all have ended."""

    def signal(self, number: int) -> bool:
        """Send a signal to every rank; whether it was sent."""

    def kill(self) -> None:
        """End every rank now."""


def layout_of(
    spec: JobSpec, environ: Mapping[str, str], launch: int = 1, without: Sequence[str] = ()
) -> Layout:
    """How many processes a spec asks for, in this allocation, on all of its nodes but some."""
    nodes = int(environ.get("SLURM_NNODES", "1")) - len(without)
    gpus = spec.resources.gpus
    kind = spec.program.processes or ("per_gpu" if spec.program.trainer else "per_node")
    if kind == "one":
        nodes = 1
    per_node = max(gpus, 1) if kind == "per_gpu" else 1
    job = int(environ.get("SLURM_JOB_ID", "0"))
    return Layout(
        nodes=nodes,
        per_node=per_node,
        without=tuple(without),
        master_address="127.0.0.1" if nodes == 1 else _meeting_host(environ, without),
        # Not the one of the launch before: something of that may still be there.
        master_port=_port_near(20_000 + (7 * job + launch) % 20_000) if nodes > 1 else _free_port(),
    )


def inside_slurm(environ: Mapping[str, str]) -> bool:
    """Whether this is an allocation of a real Slurm, not of its local twin."""
    return "SLURM_JOB_ID" in environ and environ.get("HPCKIT_SCHEDULER") != "local"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _port_near(first: int) -> int:
    """The first one from there on that nobody has taken on this node, where rank 0 will listen."""
    for port in range(first, first + 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            return port
    return first


def _meeting_host(environ: Mapping[str, str], without: Sequence[str]) -> str:
    """The first node, by the name that the others can resolve; the worker runs on it, if it can."""
    node = environ.get("SLURMD_NODENAME", "")
    if node in without:
        return next(each for each in nodes_of(environ["SLURM_JOB_NODELIST"]) if each not in without)
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
    # A rank that was told may have been so because of one that fell in the same moment.
    return sorted(found, key=lambda exit_: (exit_.when, exit_.was_told, exit_.rank))


def _rank_exit(path: Path) -> RankExit | None:
    """What is in a rank's file: code, stage, `told` or `untold`, when by bash's own clock, node.

    None while it is half there; an old bash has no clock, the file's time stands in for it.
    """
    words = path.read_text().split()
    if len(words) < 3 or words[2] not in ("told", "untold"):
        return None
    return RankExit(
        rank=int(path.stem.removeprefix("rank-")),
        code=int(words[0]),
        stage=words[1],
        when=_moment(words[3]) if words[3:4] not in ([], ["-"]) else path.stat().st_mtime,
        was_told=words[2] == "told",
        node=words[4] if len(words) > 4 else None,
    )


def _moment(word: str) -> float:
    # In some languages the point is a comma.
    return float(word.replace(",", "."))


def srun_command(layout: Layout, logs: Path, *, foreground: bool = False) -> list[str]:
    """The step that starts every rank; when one fails, Slurm ends the others."""
    # % begins a pattern in an output path: two are one.
    watched = [
        "--input=none",
        f"--output={str(logs).replace('%', '%%')}/rank-%t.log",
        f"--immediate={PATIENCE_S}",
    ]
    return [
        "srun",
        f"--nodes={layout.nodes}",
        f"--ntasks={layout.world_size}",
        f"--ntasks-per-node={layout.per_node}",
        *([f"--exclude={','.join(layout.without)}"] if layout.without else []),
        "--kill-on-bad-exit=1",
        # One rank may save for long after the others are done: nobody is ended for that.
        "--wait=0",
        "--overlap",
        # An allocation may have fewer CPUs than GPUs; a process a GPU must start all the same.
        "--overcommit",
        "--cpu-bind=none",
        "--mpi=none",
        "--unbuffered",
        *([] if foreground else watched),
        "bash",
        str(logs / RANK),
    ]


def rank_environment(rank: int, layout: Layout) -> dict[str, str]:
    """What srun would tell a rank, for those that start without it."""
    return allocation_environment() | {
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_NODEID": "0",
        "SLURM_NTASKS": str(layout.world_size),
    }


def allocation_environment() -> dict[str, str]:
    """Our environment, as a step inside the allocation may have it."""
    return {name: value for name, value in os.environ.items() if name not in ALLOCATION_ONLY}

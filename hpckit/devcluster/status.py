"""What a development cluster looks like from outside: its daemons, nodes and partitions."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass

# Runs one of Slurm's tools with the cluster's configuration.
Run = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class DaemonStatus:
    """One daemon and, where it runs, its process."""

    name: str
    pid: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeStatus:
    """One node as the controller sees it."""

    name: str
    state: str
    cpus: int
    memory_mb: int
    gres: str

    @property
    def answers(self) -> bool:
        """Whether the node has registered; an asterisk means that it does not respond."""
        return not self.state.endswith("*") and not self.state.startswith(("unk", "down"))


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionStatus:
    """One partition as the controller sees it."""

    name: str
    default: bool
    state: str
    time_limit: str
    nodes: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterStatus:
    """What runs of a cluster, and what it offers."""

    folder: str
    slurm_conf: str
    daemons: tuple[DaemonStatus, ...]
    nodes: tuple[NodeStatus, ...]
    partitions: tuple[PartitionStatus, ...]

    @property
    def state(self) -> str:
        """One of up, degraded and down."""
        running = [daemon.name for daemon in self.daemons if daemon.pid]
        if not running:
            return "down"
        whole = len(running) == len(self.daemons) and self.nodes
        return "up" if whole and all(node.answers for node in self.nodes) else "degraded"


def parse_nodes(text: str) -> tuple[NodeStatus, ...]:
    """Nodes from sinfo's lines, which name a node once for each of its partitions."""
    found = {}
    for line in text.splitlines():
        name, state, cpus, memory_mb, gres = line.split("|")
        found[name] = NodeStatus(
            name=name, state=state, cpus=int(cpus), memory_mb=int(memory_mb), gres=gres
        )
    return tuple(found.values())


def parse_partitions(text: str) -> tuple[PartitionStatus, ...]:
    """Partitions from sinfo's lines; an asterisk marks the default one."""
    found = []
    for line in text.splitlines():
        name, state, time_limit, nodes = line.split("|")
        found.append(
            PartitionStatus(
                name=name.rstrip("*"),
                default=name.endswith("*"),
                state=state,
                time_limit=time_limit,
                nodes=nodes,
            )
        )
    return tuple(found)


def read_nodes(run: Run) -> tuple[NodeStatus, ...]:
    """What the controller says about its nodes; nothing where it does not answer."""
    return parse_nodes(run("sinfo", "--noheader", "--Node", "--format=%N|%T|%c|%m|%G").stdout)


def read_partitions(run: Run) -> tuple[PartitionStatus, ...]:
    """What the controller says about its partitions; nothing where it does not answer."""
    return parse_partitions(
        run("sinfo", "--noheader", "--summarize", "--format=%P|%a|%l|%N").stdout
    )

"""What Slurm's own configuration says about how runs will fare."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hpckit.clock import iso
from hpckit.doctor import FAIL, OK, WARN, Finding
from hpckit.errors import HpckitError
from hpckit.scheduler import slurm_text
from hpckit.scheduler.slurm import Slurm, run_tool
from hpckit.units import format_duration

if TYPE_CHECKING:
    from hpckit.spec import JobSpec

Settings = Mapping[str, str]
SHORT_KILL_WAIT_S = 15
SHORT_JOB_AGE_S = 60


def check(slurm: Slurm, spec: JobSpec | None) -> Iterator[Finding]:
    config, partitions = slurm.config(), slurm.partitions()
    name = config.get("ClusterName", "?")
    version = config.get("SLURM_VERSION", "?")
    yield Finding(check="slurm", status=OK, message=f"cluster {name}, Slurm {version}, answers")
    yield from configuration(config)
    yield _accounting(slurm, config)
    yield from of_partitions(partitions)
    yield _gpus()
    if spec is not None:
        yield from of_spec(spec, config, partitions)


def configuration(config: Settings) -> Iterator[Finding]:
    """The settings that decide how a chain of attempts lives."""
    yield _arrays(config)
    yield _preemption(config)
    requeue = config.get("JobRequeue", "?")
    yield Finding(
        check="requeue",
        status=OK,
        message=f"JobRequeue={requeue}; hpckit asks for --no-requeue and lets its chain go on",
    )
    kill_wait = _number(config.get("KillWait", "30"))
    short = kill_wait < SHORT_KILL_WAIT_S
    yield Finding(
        check="kill wait",
        status=WARN if short else OK,
        message=f"between SIGTERM and SIGKILL Slurm waits {kill_wait} s",
        remedy="what saves slowly needs checkpoint.before_end in its spec" if short else "",
    )
    age = _number(config.get("MinJobAge", "300"))
    young = age < SHORT_JOB_AGE_S
    yield Finding(
        check="job age",
        status=WARN if young else OK,
        message=f"ended jobs stay in the queue for {age} s",
        remedy="how a run ended may then be known from accounting only" if young else "",
    )


def _arrays(config: Settings) -> Finding:
    size = _number(config.get("MaxArraySize", "1001"))
    if size < 2:
        return Finding(
            check="arrays",
            status=FAIL,
            message=f"MaxArraySize={size}: this Slurm allows no job arrays",
            remedy="a run has one attempt here: ask the administrators for arrays",
        )
    few = size < 13
    return Finding(
        check="arrays",
        status=WARN if few else OK,
        message=f"MaxArraySize={size}: up to {size - 1} attempts a run, sweeps split at {size}",
        remedy="set limits.attempts lower" if few else "",
    )


def _preemption(config: Settings) -> Finding:
    mode, kind = config.get("PreemptMode", "OFF"), config.get("PreemptType", "")
    if kind.endswith("none") or mode == "OFF":
        return Finding(check="preemption", status=OK, message="jobs are not preempted here")
    if "SUSPEND" in mode or "GANG" in mode:
        return Finding(
            check="preemption",
            status=WARN,
            message=f"PreemptMode={mode}: a suspended job keeps its memory and seems to hang",
            remedy="choose a partition or qos that is not preempted",
        )
    return Finding(
        check="preemption",
        status=OK,
        message=f"PreemptMode={mode}: a preempted attempt ends, and the next one goes on",
    )


def _number(text: str) -> int:
    found = re.match(r"\d+", text)
    return int(found.group()) if found else 0


def _accounting(slurm: Slurm, config: Settings) -> Finding:
    kind = config.get("AccountingStorageType", "")
    if kind.endswith("none") or kind in ("", "(null)"):
        return Finding(
            check="accounting",
            status=WARN,
            message="this Slurm keeps no accounting",
            remedy="how a job ended is known for some minutes only: look at runs soon after",
        )
    try:
        slurm.history(["hpckit-doctor"], iso(0))
    except HpckitError as error:
        return Finding(
            check="accounting",
            status=WARN,
            message=error.message,
            remedy="states of jobs that left the queue are unknown until accounting answers",
        )
    return Finding(check="accounting", status=OK, message=f"{kind}: sacct answers")


def of_partitions(partitions: Sequence[Settings]) -> Iterator[Finding]:
    """Each partition's limits; and whether there is one to fall into."""
    if not any(partition.get("Default") == "YES" for partition in partitions):
        yield Finding(
            check="partitions",
            status=WARN,
            message="no partition is the default",
            remedy="set resources.partition in every spec, or in a cluster profile",
        )
    for partition in partitions:
        yield _partition(partition)


def _partition(partition: Settings) -> Finding:
    name, state = partition["PartitionName"], partition.get("State", "?")
    keys = ("MaxTime", "MaxNodes", "TotalNodes", "PreemptMode", "AllowAccounts", "AllocNodes")
    told = ", ".join(f"{key}={partition[key]}" for key in keys if key in partition)
    if state != "UP":
        return Finding(
            check=f"partition {name}",
            status=WARN,
            message=f"it is {state}; {told}",
            remedy="jobs sent there wait: choose another with resources.partition",
        )
    if partition.get("AllocNodes", "ALL") != "ALL":
        return Finding(
            check=f"partition {name}",
            status=WARN,
            message=f"jobs can be submitted from {partition['AllocNodes']} only; {told}",
            remedy="an attempt cannot submit the next one from a node: chains do not need it",
        )
    return Finding(check=f"partition {name}", status=OK, message=told)


def _gpus() -> Finding:
    answer = run_tool(["sinfo", "--noheader", "--format=%P %D %G"], 20.0)
    found = sorted(set(re.findall(r"gpu:([A-Za-z][\w.-]*)?:?(\d+)", answer.out)))
    if not found:
        return Finding(check="gpus", status=OK, message="no node has GPUs as generic resources")
    told = ", ".join(f"{count} x {kind or 'of no named type'}" for kind, count in found)
    return Finding(check="gpus", status=OK, message=f"a node's GPUs: {told}")


def of_spec(spec: JobSpec, config: Settings, partitions: Sequence[Settings]) -> Iterator[Finding]:
    """Whether what a spec asks for can be had."""
    wanted = spec.resources.partition
    chosen = slurm_text.chosen(partitions, wanted)
    if not chosen:
        names = ", ".join(p["PartitionName"] for p in partitions)
        what = f"there is no partition {wanted}" if wanted else "no partition is the default"
        yield Finding(
            check="spec", status=FAIL, message=what, remedy=f"resources.partition: one of {names}"
        )
        return
    longest = slurm_text.longest_s(chosen)
    if longest is not None and spec.resources.time > longest:
        yield Finding(
            check="spec",
            status=FAIL,
            message=f"resources.time is longer than the partition's {format_duration(longest)}",
            remedy="ask for less: a chain of attempts goes on where one ends",
        )
    nodes = _number(chosen[0].get("TotalNodes", "0"))
    if spec.resources.nodes > nodes:
        yield Finding(
            check="spec",
            status=FAIL,
            message=f"resources.nodes: the partition has {nodes}",
            remedy="ask for fewer, or choose another partition",
        )
    if spec.limits.attempts >= _number(config.get("MaxArraySize", "1001")):
        yield Finding(
            check="spec",
            status=WARN,
            message="limits.attempts is more than an array may hold",
            remedy=f"set it below {config['MaxArraySize']}",
        )

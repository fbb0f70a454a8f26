"""What a submission will be, decided before anything is written: pure."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.errors import UsageError
from hpckit.files import ELSEWHERE
from hpckit.limits import resolve_limits
from hpckit.run import chain_folder
from hpckit.spec.sweep import Point
from hpckit.spec.sweep import points as sweep_points

if TYPE_CHECKING:
    from hpckit.spec import JobSpec
    from hpckit.submission.fork import Fork

LEAD_S = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """One Slurm array: the links of a run, or some points of a sweep."""

    number: int
    offset: int
    size: int
    header: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmissionPlan:
    """Everything about a submission but the act."""

    spec: JobSpec
    run_id: str
    dir: Path
    scheduler: str
    points: tuple[Point, ...]
    chains: tuple[Chain, ...]
    warnings: tuple[str, ...]
    fork: Fork | None = None
    # Of a rehearsal: what goes wrong on purpose, for the training to read when it starts.
    fault: Mapping[str, Any] | None = None

    @property
    def is_sweep(self) -> bool:
        return self.spec.sweep is not None

    def script(self, chain: Chain) -> str:
        """The exact text that sbatch gets for a chain."""
        # submitit costs 84 ms: only those who submit, or look at a submission, pay.
        from hpckit.submission.executor import ArrayExecutor

        folder = chain_folder(self.dir, chain.number)
        return ArrayExecutor(folder, stops_chain=not self.is_sweep).script(chain.header)


def plan(
    spec: JobSpec, *, run_id: str, root: Path, scheduler: str, max_array_size: int = 1001
) -> SubmissionPlan:
    """Decide what a submission will be; pure, but for the site's ceilings inside the limits."""
    refuse_path(root)
    if spec.environment.container is not None and (found := re.search("[:,]", str(root))):
        raise UsageError(
            f"the run root {root} holds {found.group()!r}, which no container can be given",
            ELSEWHERE,
        )
    if spec.sweep is not None and max_array_size < 2:
        raise UsageError(
            f"this Slurm allows no job arrays (MaxArraySize={max_array_size})",
            "submit the points one by one, with -s params.x=...",
        )
    spec = dataclasses.replace(spec, limits=resolve_limits(spec))
    points = tuple(sweep_points(spec.sweep, spec.params)) if spec.sweep is not None else ()
    header = header_of(spec, run_id)
    if spec.sweep is not None:
        chains = tuple(_sweep_chains(spec, header, len(points), max_array_size))
    else:
        size, array = array_of(spec.limits.attempts, max_array_size)
        chains = (Chain(number=1, offset=0, size=size, header={**header, **array}),)
    return SubmissionPlan(
        spec=spec,
        run_id=run_id,
        dir=root / run_id,
        scheduler=scheduler,
        points=points,
        chains=chains,
        warnings=tuple(_warnings(spec, max_array_size)),
    )


def array_of(links: int, max_array_size: int) -> tuple[int, dict[str, Any]]:
    """How many links a chain has, and what sbatch is told of it.

    A site without arrays has chains of one link, each of which submits the next.
    """
    if max_array_size < 2:
        return 1, {"output": "%j.log"}
    size = max(1, min(links, max_array_size - 1))
    return size, {"array": f"1-{size}%1"}


def refuse_path(root: Path) -> None:
    """Paths that cannot be written into a script without changing its meaning."""
    if any(
        ord(sign) < 32 or ord(sign) == 127 or 0xD800 <= ord(sign) < 0xE000 for sign in str(root)
    ):
        raise UsageError(f"the run root {str(root)!r} holds what is no printable text", ELSEWHERE)
    if found := re.search(r"%[jtaA]", str(root)):
        what = f"{found.group()}, which submitit would fill in"
        raise UsageError(f"the run root {root} holds {what}", ELSEWHERE)


def _sweep_chains(
    spec: JobSpec, header: dict[str, Any], count: int, max_array_size: int
) -> Iterator[Chain]:
    assert spec.sweep is not None
    for number, offset in enumerate(range(0, count, max_array_size), start=1):
        size = min(max_array_size, count - offset)
        throttle = f"%{min(spec.sweep.at_most, size)}" if spec.sweep.at_most else ""
        array = {"array": f"0-{size - 1}{throttle}"}
        yield Chain(number=number, offset=offset, size=size, header={**header, **array})


def header_of(spec: JobSpec, run_id: str) -> dict[str, Any]:
    """The options of sbatch, by name."""
    asked = spec.resources
    header: dict[str, Any] = {
        "job_name": run_id,
        "nodes": asked.nodes,
        "ntasks_per_node": 1,
        "time": slurm_time(asked.time),
        "signal": f"B:USR2@{lead_s(spec)}",
        "no_requeue": True,
        "partition": asked.partition,
        "account": asked.account,
        "gpus_per_node": asked.gpus_per_node or None,
        "cpus_per_task": asked.cpus_per_node,
        "mem": f"{asked.memory}M" if asked.memory else None,
    }
    if asked.cpus_per_gpu:
        header["cpus_per_task"] = asked.cpus_per_gpu * max(asked.gpus, 1)
    header |= {key.replace("-", "_"): value for key, value in spec.slurm.items()}
    return {key: value for key, value in header.items() if value not in (None, False)}


def lead_s(spec: JobSpec) -> int:
    """How long before the time limit the program is told to save and end."""
    wanted = spec.checkpoint.before_end if spec.checkpoint.before_end is not None else LEAD_S
    return min(int(wanted), int(spec.resources.time) // 2)


def slurm_time(seconds: int) -> str:
    """A duration as Slurm reads it without doubt."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02d}:{minutes:02d}:{rest:02d}"


def _warnings(spec: JobSpec, max_array_size: int) -> Iterator[str]:
    wanted = spec.checkpoint.before_end
    if wanted is not None and wanted > lead_s(spec):
        yield f"checkpoint.before_end is longer than half the time limit: {lead_s(spec)} s is used"
    if spec.sweep is None and spec.limits.attempts >= max_array_size:
        links = max(1, max_array_size - 1)
        yield f"limits.attempts: this Slurm allows {links} links in a chain; the last submits more"

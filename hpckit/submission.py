"""Plan, then commit: what a submission will be is decided before anything is written.

The order of a commit is what makes it safe to be killed at any step. Everything a job needs is
on disk before sbatch is called; the run's identity is written last but one, the intent last.
Nothing that is written after sbatch returned is needed to understand or to run the job: the
job's name in the queue is the run's id, and the job id in the ledger only saves a question.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit import run as runs
from hpckit import snapshot
from hpckit.errors import (
    HpckitError,
    SchedulerSilent,
    SubmissionRefused,
    SubmissionUnclear,
    UsageError,
)
from hpckit.files import told_apart, write_atomic, write_json
from hpckit.limits import resolve_limits
from hpckit.run import Run, chain_folder
from hpckit.sweep import Point
from hpckit.sweep import points as sweep_points

if TYPE_CHECKING:
    from hpckit.scheduler.base import Scheduler
    from hpckit.spec import JobSpec

LEAD_S = 60
LOOK_AGAIN_S = (1, 2, 4)
Progress = Callable[[str], None]


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

    @property
    def is_sweep(self) -> bool:
        return self.spec.sweep is not None

    def script(self, chain: Chain) -> str:
        """The exact text that sbatch gets for a chain."""
        # submitit costs 84 ms: only those who submit, or look at a submission, pay.
        from hpckit.executor import ArrayExecutor

        folder = chain_folder(self.dir, chain.number)
        return ArrayExecutor(folder, stops_chain=not self.is_sweep).script(chain.header)


def plan(
    spec: JobSpec, *, run_id: str, root: Path, scheduler: str, max_array_size: int = 1001
) -> SubmissionPlan:
    """Decide what a submission will be; pure, but for the site's ceilings inside the limits."""
    refuse_path(root)
    spec = dataclasses.replace(spec, limits=resolve_limits(spec))
    points = tuple(sweep_points(spec.sweep, spec.params)) if spec.sweep is not None else ()
    header = _header(spec, run_id)
    if spec.sweep is not None:
        chains = tuple(_sweep_chains(spec, header, len(points), max_array_size))
    else:
        links = min(spec.limits.attempts, max_array_size - 1)
        array = {"array": f"1-{links}%1"}
        chains = (Chain(number=1, offset=0, size=links, header={**header, **array}),)
    return SubmissionPlan(
        spec=spec,
        run_id=run_id,
        dir=root / run_id,
        scheduler=scheduler,
        points=points,
        chains=chains,
        warnings=tuple(_warnings(spec, max_array_size)),
    )


def refuse_path(root: Path) -> None:
    """Paths that cannot be written into a script without changing its meaning."""
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in str(root)):
        raise UsageError(f"the run root {str(root)!r} holds a control character", "choose another")
    if "%" in str(root):
        raise UsageError(
            f"the run root {root} holds a %, which submitit fills in", "choose another"
        )


def _sweep_chains(
    spec: JobSpec, header: dict[str, Any], count: int, max_array_size: int
) -> Iterator[Chain]:
    assert spec.sweep is not None
    for number, offset in enumerate(range(0, count, max_array_size), start=1):
        size = min(max_array_size, count - offset)
        throttle = f"%{min(spec.sweep.at_most, size)}" if spec.sweep.at_most else ""
        array = {"array": f"0-{size - 1}{throttle}"}
        yield Chain(number=number, offset=offset, size=size, header={**header, **array})


def _header(spec: JobSpec, run_id: str) -> dict[str, Any]:
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
    waiting = spec.not_yet_in_force()
    if waiting:
        yield f"{', '.join(waiting)}: checked, but this version does not act on it yet"
    wanted = spec.checkpoint.before_end
    if wanted is not None and wanted > lead_s(spec):
        yield f"checkpoint.before_end is longer than half the time limit: {lead_s(spec)} s is used"
    if spec.sweep is None and spec.limits.attempts >= max_array_size:
        yield f"limits.attempts: this Slurm allows {max_array_size - 1} links in a chain"


def reserve(root: Path, name: str) -> Path:
    """A run folder of our own; from here on a name is taken."""
    with told_apart(root):
        return runs.new_run_folder(root, name)


def commit(
    plan: SubmissionPlan,
    scheduler: Scheduler,
    *,
    source: Path,
    spec_text: str,
    progress: Progress = lambda _: None,
) -> Run:
    """Write the run, then hand it to the scheduler."""
    from hpckit.worker import run_links

    run = prepare(plan, source=source, spec_text=spec_text, progress=progress)
    with told_apart(plan.dir):
        from hpckit.executor import PICKLE, SCRIPT, ArrayExecutor

        for chain in plan.chains:
            folder = chain_folder(plan.dir, chain.number)
            executor = ArrayExecutor(folder, stops_chain=not plan.is_sweep)
            write_atomic(folder / SCRIPT, executor.script(chain.header))
            executor.write_pickle(run_links, str(folder))
            assert (folder / PICKLE).exists()
        ledger = run.ledger()
        ledger.write("submit", chains=[chain.number for chain in plan.chains], job_name=run.id)
    progress("handing it to the scheduler")
    previous = None
    for chain in plan.chains:
        previous = _hand_over(plan, run, ledger, scheduler, chain, previous)
    return run


def prepare(
    plan: SubmissionPlan, *, source: Path, spec_text: str, progress: Progress = lambda _: None
) -> Run:
    """Everything of a run directory but the intent; nothing has been asked of a scheduler yet."""
    try:
        with told_apart(plan.dir):
            progress("copying the job's folder")
            snapshot.copy(snapshot.look(source, exclude=plan.dir.parent.parent), plan.dir / "code")
            write_atomic(plan.dir / "spec.yaml", spec_text)
            write_json(plan.dir / "spec.json", plan.spec.to_json())
            for chain in plan.chains:
                folder = chain_folder(plan.dir, chain.number)
                folder.mkdir(parents=True)
                about = {"home": str(plan.dir), "number": chain.number, "offset": chain.offset}
                write_json(folder / "chain.json", {**about, "size": chain.size})
            if plan.is_sweep:
                _write_points(plan)
            write_json(plan.dir / runs.IDENTITY, _identity(plan))
    except BaseException:
        # Nothing has been submitted: what stands here is no run, and must not look like one.
        shutil.rmtree(plan.dir, ignore_errors=True)
        raise
    run = runs.open_run(plan.dir)
    assert run is not None
    return run


def _identity(plan: SubmissionPlan) -> dict[str, Any]:
    more: dict[str, Any] = {"chains": len(plan.chains), "python": sys.executable}
    if plan.is_sweep:
        varied = list(plan.points[0].values)
        more |= {"points": len(plan.points), "varied": varied}
    return runs.identity(
        run_id=plan.run_id,
        name=plan.spec.name,
        scheduler=plan.scheduler,
        params=dict(plan.spec.params),
        **more,
    )


def _write_points(plan: SubmissionPlan) -> None:
    """The points' folders, empty: all they have to say stands in one durable file."""
    listed = [{"index": p.index, "values": p.values, "params": p.params} for p in plan.points]
    write_atomic(plan.dir / "sweep.json", json.dumps({"points": listed}, ensure_ascii=False))
    for point in plan.points:
        (plan.dir / runs.point_name(point.index)).mkdir()


def _hand_over(
    plan: SubmissionPlan,
    run: Run,
    ledger: Any,
    scheduler: Scheduler,
    chain: Chain,
    previous: str | None,
) -> str:
    """Give one chain to the scheduler and write down what it answered."""
    from hpckit.executor import SCRIPT

    script = chain_folder(plan.dir, chain.number) / SCRIPT
    if previous is not None and plan.spec.sweep is not None and plan.spec.sweep.at_most:
        # The throttle is an array's own: a second array waits, or both would run at most so many.
        header = {**chain.header, "dependency": f"afterany:{previous}"}
        write_atomic(script, plan.script(dataclasses.replace(chain, header=header)))
    try:
        job_id = scheduler.submit(script)
    except (SubmissionRefused, SchedulerSilent) as error:
        _take_back(plan, ledger, chain, error)
        raise
    except SubmissionUnclear as error:
        job_id = _look_for(scheduler, run.id, error, known=previous)
    ledger.write("submitted", chain=chain.number, job_id=job_id)
    return job_id


def _take_back(plan: SubmissionPlan, ledger: Any, chain: Chain, error: HpckitError) -> None:
    """A definite no: leave nothing behind, or, with half a sweep in the queue, say which half."""
    if chain.number == 1:
        shutil.rmtree(plan.dir, ignore_errors=True)
    else:
        ledger.write("refused", chain=chain.number, reason=error.message)


def _look_for(
    scheduler: Scheduler, name: str, error: SubmissionUnclear, *, known: str | None
) -> str:
    """The answer was lost: the job, if there is one, is known by its name."""
    for pause_s in LOOK_AGAIN_S:
        time.sleep(pause_s)
        try:
            found = {job.array_id for job in scheduler.queue() if job.name == name} - {known}
        except SchedulerSilent:
            continue
        if found:
            return min(found, key=int)
    raise SubmissionUnclear(
        f"{name}: {error.message}",
        f"it may be in the queue or not, and runs once at most: hpckit show {name}",
    ) from error

"""What `hpckit submit` says when a job is on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpckit.clock import local_words
from hpckit.errors import HpckitError
from hpckit.files import read_json
from hpckit.limits import unit_name
from hpckit.paint import note, paint, short, size, table
from hpckit.run import Run
from hpckit.settings import typed
from hpckit.submission.commit import Submitted
from hpckit.submission.plan import SubmissionPlan, lead_s

if TYPE_CHECKING:
    from hpckit.spec import JobSpec
    from hpckit.status.queue_cache import QueueCache

LISTED = 20


def as_json(plan: SubmissionPlan, done: Submitted) -> dict[str, Any]:
    """Every run that was submitted, with the job of its first attempt."""
    if not done.run.is_sweep:
        return {"runs": [_entry(done.run, f"{done.arrays[0]}_1")]}
    points = done.run.point_runs()
    entries = []
    for chain, array in zip(plan.chains, done.arrays, strict=True):
        for task, point in enumerate(points[chain.offset : chain.offset + chain.size]):
            entries.append(_entry(point, f"{array}_{task}"))
    return {"sweep": done.run.id, "runs": entries}


def _entry(run: Run, job_id: str) -> dict[str, Any]:
    about = {"run": run.id, "dir": str(run.dir), "attempt": 1, "job_id": job_id}
    return {**about, "params": run.params}


def tell(plan: SubmissionPlan, done: Submitted, cache: QueueCache) -> None:
    """The job, what it asks for, what it may spend, what happens at the limit, what comes next."""
    spec, run = plan.spec, done.run
    jobs = ", ".join(done.arrays)
    where = "Slurm" if plan.scheduler == "slurm" else "the local scheduler"
    print(f"{paint(run.id, 'bold')}  submitted to {where} as job {jobs}")
    lines = {"asks": _asks(plan), "folder": str(run.dir), "code": _code(run)}
    lines["queue"] = _queue(run, cache)
    lines["limits"] = _limits(spec)
    lines["ends"] = _ends(plan)
    for key, text in lines.items():
        print(f"  {key:<8}{text}")
    for warning in plan.warnings:
        print(f"  {paint('warning', 'warning')} {warning}")
    if plan.points:
        _points(plan)
    name = typed(run.id, run.dir)
    first = typed(f"{run.id}/000", run.dir / "000") if run.is_sweep else name
    note(f"\nnext\n  hpckit watch {name}\n  hpckit logs -f {first}")


def _asks(plan: SubmissionPlan) -> str:
    asked = plan.spec.resources
    nodes = f"{asked.nodes} node" + ("s" if asked.nodes > 1 else "")
    gpus = f" x {asked.gpus} GPU" + ("s" if asked.gpus > 1 else "") if asked.gpus else ""
    memory = f", {size(asked.memory)} a node" if asked.memory else ""
    attempts = plan.spec.limits.attempts
    links = "one attempt" if attempts == 1 else f"up to {attempts} attempts, one at a time"
    if plan.is_sweep:
        links = "one attempt a point"
    from hpckit.units import format_duration

    return f"{nodes}{gpus}{memory}, {format_duration(asked.time)}; {links}"


def _code(run: Run) -> str:
    about = read_json(run.dir / "code.json") or {"files": 0, "mb": 0, "left_out": []}
    files = f"{about['files']} file" + ("" if about["files"] == 1 else "s")
    text = f"{files}, {size(about['mb'])} copied from {about['source']}"
    left = [f"{item['path']} ({item['why']})" for item in about["left_out"]]
    if not left:
        return text
    more = f" and {len(left) - 5} more" if len(left) > 5 else ""
    return f"{text}; linked, not copied: {', '.join(left[:5])}{more}"


def _queue(run: Run, cache: QueueCache) -> str:
    from hpckit.scheduler.base import Phase

    try:
        mine = [job for job in cache.queue() if job.name == run.id]
    except HpckitError as error:
        return f"unknown: {error.message}"
    if any(job.phase is Phase.RUNNING for job in mine):
        return "running"
    if not mine:
        return "not seen in the queue yet"
    told = f"pending: {mine[0].reason}" if mine[0].reason not in ("", "None") else "pending"
    if mine[0].expected_start:
        told += f", expected to start {local_words(mine[0].expected_start)}"
    return told


def _limits(spec: JobSpec) -> str:
    limits = spec.limits
    from hpckit.units import format_duration

    total = f", {format_duration(limits.total)} after submission" if limits.total else ""
    a_point = " a point" if spec.sweep is not None else ""
    hours = f"{limits.gpu_hours:g} {unit_name(spec)}{a_point}"
    count = f", {limits.attempts} attempt" + ("s" if limits.attempts > 1 else "")
    attempts = "" if spec.sweep is not None else count
    return f"at most {hours}{attempts}{total}"


def _ends(plan: SubmissionPlan) -> str:
    told = f"{lead_s(plan.spec)} s before the time limit the program gets SIGTERM, to save and end"
    goes_on = not plan.is_sweep and plan.spec.limits.attempts > 1
    return f"{told}; then the next attempt starts" if goes_on else told


def _points(plan: SubmissionPlan) -> None:
    varied = list(plan.points[0].values)
    rows = [
        [str(point.index), *(short(point.values[key]) for key in varied)]
        for point in plan.points[:LISTED]
    ]
    print()
    print(table(["point", *varied], rows, right=(0,)))
    if len(plan.points) > LISTED:
        print(f"and {len(plan.points) - LISTED} more")

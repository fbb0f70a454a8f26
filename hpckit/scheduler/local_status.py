"""What a local job's folder says, in the words of every scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpckit.scheduler import local_state as state
from hpckit.scheduler.base import JobStatus, Phase
from hpckit.scheduler.slurm_text import what_is


def statuses(folder: Path) -> Iterator[JobStatus]:
    """Every line that squeue would have for a job."""
    final = state.read(folder / "final.json")
    if final is None:
        live = list(_live(folder))
        # It may have ended while it was read: then the last word counts.
        final = state.read(folder / "final.json")
        if final is None:
            yield from live
            return
    job = state.job_of(final["job"])
    if job is None:
        return
    yield from (_status(job, int(task), about) for task, about in final["tasks"].items())
    if final["remainder"]:
        yield _remainder(job, final["remainder"])


def _live(folder: Path) -> Iterator[JobStatus]:
    job = state.read_job(folder)
    if job is None:
        return
    about = state.read(folder / "supervisor.json")
    cancelled = state.read(folder / "remainder.json")
    tasks = state.read_tasks(folder)
    for task, record in sorted(tasks.items()):
        yield _status(job, task, _truth(record))
    if cancelled:
        yield _remainder(job, cancelled)
    gone = {*tasks, *(cancelled["tasks"] if cancelled else ())}
    left = [task for task in job.tasks if task not in gone]
    if left:
        yield _remainder(
            job,
            _pending(left, about, is_kept=state.is_kept(folder, job.submitted), started=len(tasks)),
        )


def _pending(
    tasks: list[int], about: dict[str, Any] | None, *, is_kept: bool, started: int
) -> dict[str, Any]:
    nothing = dict.fromkeys(("started", "ended", "ends_by", "exit_code", "signal"))
    reason = (about or {}).get("reason") or ("JobArrayTaskLimit" if started else "")
    if not is_kept:
        reason = "its supervisor died"
    word = "PENDING" if is_kept else "NODE_FAIL"
    return {"state": word, "tasks": tasks, "reason": reason, "node": "", **nothing}


def _truth(record: dict[str, Any]) -> dict[str, Any]:
    """A record of a running task whose keeper is gone is an old one."""
    if record["state"] in state.ACTIVE and not state.Process(*record["process"]).is_alive:
        return record | {"state": "NODE_FAIL", "reason": "its keeper died"}
    return record


def _remainder(job: state.Job, about: dict[str, Any]) -> JobStatus:
    return _status(job, None, about, tuple(about["tasks"]) if job.is_array else ())


def _status(
    job: state.Job, task: int | None, about: dict[str, Any], pending: tuple[int, ...] = ()
) -> JobStatus:
    phase, cause = what_is(about["state"])
    is_task = job.is_array and task is not None
    return JobStatus(
        job_id=f"{job.number}_{task}" if is_task else str(job.number),
        array_id=str(job.number),
        task=task if is_task else None,
        pending_tasks=pending,
        name=job.name,
        phase=phase,
        cause=cause,
        raw_state=about["state"],
        reason=about["reason"],
        node=about["node"],
        submitted=state.iso(job.submitted),
        started=state.iso(about["started"]),
        ended=state.iso(about["ended"]),
        expected_start=None,
        ends_by=state.iso(about["ends_by"]) if phase is not Phase.ENDED else None,
        exit_code=about["exit_code"],
        signal=about["signal"],
    )

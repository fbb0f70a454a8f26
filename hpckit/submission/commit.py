"""Carry out a plan: write the run, then hand it to the scheduler.

The order is what makes it safe to be killed at any step. Everything a job needs is on disk before
sbatch is called; the run's identity is written last but one, the intent last. Nothing that is
written after sbatch returned is needed to understand or to run the job: the job's name in the
queue is the run's id, and the job id in the ledger only saves a question.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit import run as runs
from hpckit.errors import (
    HpckitError,
    SchedulerSilent,
    SubmissionUnclear,
    UsageError,
)
from hpckit.files import told_apart, write_atomic, write_json
from hpckit.model.numbered import NumberedPath
from hpckit.rehearsed import FAULT, root_of
from hpckit.run import Run, chain_folder
from hpckit.settings import typed
from hpckit.spec import sweep as sweeps
from hpckit.submission import snapshot
from hpckit.submission.plan import Chain, SubmissionPlan
from hpckit.submission.plan import plan as make_plan

if TYPE_CHECKING:
    from hpckit.ledger import Ledger
    from hpckit.scheduler.base import Scheduler
    from hpckit.spec import JobSpec

LOOK_AGAIN_S = (1, 2, 4)
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """A run that is on its way, and the arrays that serve it, in the order of its chains."""

    run: Run
    arrays: tuple[str, ...]


def reserve(
    spec: JobSpec, *, root: Path, scheduler: str, max_array_size: int = 1001
) -> SubmissionPlan:
    """A plan with a run folder of its own; from here on a name is taken."""
    with told_apart(root):
        folder = runs.new_run_folder(root, spec.name)
    try:
        return make_plan(
            spec,
            run_id=f"{spec.name}/{folder.name}",
            root=root,
            scheduler=scheduler,
            max_array_size=max_array_size,
        )
    except BaseException:
        folder.rmdir()
        raise


def commit(
    plan: SubmissionPlan,
    scheduler: Scheduler,
    *,
    source: Path,
    spec_text: str,
    progress: Progress = lambda _: None,
) -> Submitted:
    """Write the run, then hand it to the scheduler."""
    run = prepare(plan, source=source, spec_text=spec_text, progress=progress)
    ledger = run.ledger()
    with _all_or_nothing(plan):
        ledger.write("submit", chains=[chain.number for chain in plan.chains], job_name=run.id)
    progress("handing it to the scheduler")
    arrays: list[str] = []
    for chain in plan.chains:
        try:
            arrays.append(hand_over(plan, run, scheduler, chain, arrays, progress))
        except (HpckitError, KeyboardInterrupt) as error:
            if arrays:
                _tell_refused(plan, ledger, chain, error)
            elif not isinstance(error, (SubmissionUnclear, KeyboardInterrupt)):
                # A definite no: nothing of it is in a queue, and nothing of it is left behind.
                shutil.rmtree(plan.dir, ignore_errors=True)
            raise
        # It only saves a question: a disk that is full by now is no reason to say that it failed.
        with contextlib.suppress(OSError):
            ledger.write("submitted", chain=chain.number, job_id=arrays[-1])
    return Submitted(run=run, arrays=tuple(arrays))


def prepare(
    plan: SubmissionPlan, *, source: Path, spec_text: str, progress: Progress = lambda _: None
) -> Run:
    """Everything of a run directory but the intent; nothing has been asked of a scheduler yet."""
    with _all_or_nothing(plan):
        progress("copying the job's folder")
        found = snapshot.look(source, exclude=root_of(plan.dir))
        for path, what in plan.spec.missing(source):
            if path.startswith(("program.", "monitor.rules.")):
                # Better now than after a night in the queue.
                raise UsageError(f"{path}: {what}")
            progress(f"warning: {path}: {what}; it must be there when the job starts")
        _refuse_shared(plan.spec, found)
        snapshot.copy(found, plan.dir / "code")
        write_atomic(plan.dir / "spec.yaml", spec_text)
        write_json(plan.dir / "spec.json", plan.spec.to_json())
        if plan.fault is not None:
            write_json(plan.dir / FAULT, plan.fault)
        for chain in plan.chains:
            write_chain(plan, chain)
        if plan.is_sweep:
            _write_points(plan)
        fork = {} if plan.fork is None else {"fork": plan.fork.bring(plan.dir)}
        write_json(plan.dir / runs.IDENTITY, {**_identity(plan), **fork})
    run = runs.open_run(plan.dir)
    assert run is not None
    return run


def _refuse_shared(spec: JobSpec, found: snapshot.Snapshot) -> None:
    """A program's own checkpoints must be its run's alone: going back moves them."""
    for pattern in spec.checkpoint.files:
        out = found.leads_out(NumberedPath.parse(pattern).folder)
        if out is not None:
            raise UsageError(
                f"checkpoint.files: {out.path} would be linked, not copied ({out.why}): "
                f"all runs would save into {found.source / out.path}",
                "have the program save into another folder, or, where that is only ignored, "
                f"have it copied by the line !/{out.path} in .hpckitignore",
            )


@contextlib.contextmanager
def _all_or_nothing(plan: SubmissionPlan) -> Iterator[None]:
    """What is half written is no run, and must not look like one: nothing is submitted yet."""
    try:
        with told_apart(plan.dir):
            yield
    except BaseException:
        shutil.rmtree(plan.dir, ignore_errors=True)
        raise


def write_chain(plan: SubmissionPlan, chain: Chain, *, code: str | None = None) -> None:
    """All that the tasks of an array read before they know their run.

    `code`: the snapshot that they bring, where it is another one than the run began with.
    """
    # submitit costs 84 ms: a foreground run has no chain, and does not pay.
    from hpckit.submission.executor import SCRIPT, ArrayExecutor
    from hpckit.worker.link import run_links

    folder = chain_folder(plan.dir, chain.number)
    folder.mkdir(parents=True)
    about = {"home": str(plan.dir), "number": chain.number, "offset": chain.offset}
    write_json(folder / "chain.json", {**about, "size": chain.size, "code": code})
    write_atomic(folder / SCRIPT, plan.script(chain))
    ArrayExecutor(folder, stops_chain=not plan.is_sweep).write_pickle(run_links, str(folder))


def _identity(plan: SubmissionPlan) -> dict[str, Any]:
    more: dict[str, Any] = {"chains": len(plan.chains), "python": sys.executable}
    if plan.is_sweep:
        varied = sweeps.varied(plan.spec.sweep)
        more |= {"points": len(plan.points), "varied": varied}
    return runs.identity(
        run_id=plan.run_id,
        name=plan.spec.name,
        scheduler=plan.scheduler,
        host=socket.gethostname(),
        params=dict(plan.spec.params),
        **more,
    )


def _write_points(plan: SubmissionPlan) -> None:
    """The points' folders, empty: all they have to say stands in one durable file."""
    listed = [{"index": p.index, "values": p.values, "params": p.params} for p in plan.points]
    write_atomic(plan.dir / "sweep.json", json.dumps({"points": listed}, ensure_ascii=False))
    for point in plan.points:
        (plan.dir / runs.point_name(point.index)).mkdir()


def hand_over(
    plan: SubmissionPlan,
    run: Run,
    scheduler: Scheduler,
    chain: Chain,
    before: Sequence[str] = (),
    progress: Progress = lambda _: None,
) -> str:
    """Give one chain to the scheduler; the array's id, looked for if the answer was lost."""
    from hpckit.submission.executor import SCRIPT

    script = chain_folder(plan.dir, chain.number) / SCRIPT
    if before and plan.spec.sweep is not None and plan.spec.sweep.at_most:
        # The throttle is an array's own: a second array waits, or both would run at most so many.
        header = {**chain.header, "dependency": f"afterany:{before[-1]}"}
        write_atomic(script, plan.script(dataclasses.replace(chain, header=header)))
    try:
        return scheduler.submit(script)
    except SubmissionUnclear as error:
        return _look_for(scheduler, run, error, known=[*before, *_known(run)])
    except KeyboardInterrupt:
        progress(
            f"interrupted: {run.id} may be submitted or not: hpckit show {typed(run.id, run.dir)}"
        )
        raise


def _known(run: Run) -> list[str]:
    """The arrays that have served the run so far."""
    events = [*run.home_ledger().events(), *run.ledger().events()]
    return [str(event.data["job_id"]) for event in events if event.kind == "submitted"]


def _tell_refused(
    plan: SubmissionPlan, ledger: Ledger, failed: Chain, error: BaseException
) -> None:
    """With half a sweep in the queue, say of the other half that it is not."""
    for chain in plan.chains:
        if chain.number > failed.number:
            ledger.write(
                "refused", chain=chain.number, reason="an array before it was not accepted"
            )
        elif chain.number == failed.number and not isinstance(error, SubmissionUnclear):
            ledger.write("refused", chain=chain.number, reason=str(error) or "interrupted")


def _look_for(scheduler: Scheduler, run: Run, error: SubmissionUnclear, *, known: list[str]) -> str:
    """The answer was lost: the job, if there is one, is known by its name."""
    for pause_s in LOOK_AGAIN_S:
        time.sleep(pause_s)
        try:
            found = {job.array_id for job in scheduler.queue() if job.name == run.id} - set(known)
        except SchedulerSilent:
            continue
        if found:
            return min(found, key=int)
    look = f"hpckit show {typed(run.id, run.dir)}"
    raise SubmissionUnclear(
        f"{run.id}: {error.message}",
        f"it may be in the queue or not, and runs once at most: {look}",
    ) from error

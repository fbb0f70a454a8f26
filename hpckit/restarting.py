"""Starting a run again because a person says so: what runs ends, and a new chain goes on.

The wish is written down first, with all that is to change: whoever dies after that line has still
said it. The new chain waits until the old attempt has ended; nothing of the run is ever twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpckit import requests
from hpckit.checkpoint.choosing import choose
from hpckit.checkpoint.lineage import believed
from hpckit.checkpoint.own_sets import OwnSets, as_argument
from hpckit.clock import now_iso
from hpckit.errors import (
    HpckitError,
    NotFound,
    SchedulerSilent,
    SpecError,
    SubmissionUnclear,
    UsageError,
)
from hpckit.heal import Plan
from hpckit.heal.budget import BY_HAND
from hpckit.heal.changes import OF_OPTIMIZERS, get_path
from hpckit.heal.in_force import params_in_force, plans_in_force, resources_in_force
from hpckit.heal.pending import is_a_session, trouble
from hpckit.ledger import TAKEN_BACK, Event, Ledger
from hpckit.limits import hours_used, left_s, no_more, units
from hpckit.monitor.incident import Incident
from hpckit.run import Run, chain_numbers
from hpckit.scheduler import choose as choose_scheduler
from hpckit.scheduler.base import JobStatus, Phase, Scheduler
from hpckit.settings import typed
from hpckit.spec import JobSpec, spec_from_json
from hpckit.spec.changes import by_path, wrong
from hpckit.spec.parts import Change
from hpckit.spec.sweep import Paths
from hpckit.status.queue_cache import QueueCache
from hpckit.status.state import FOREGROUND, answer_for, assign, facts_of, shows_life
from hpckit.submission.continuing import continue_run
from hpckit.units import format_duration
from hpckit.worker.healing import Healing
from hpckit.worker.log_healing import CALLED, adapted, argument

ALIVE = (Phase.PENDING, Phase.RUNNING, Phase.ENDING)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How a person wants a run to go on."""

    # A step, `good` or `best`; None is the newest state that is sound.
    origin: str | None = None
    changes: Mapping[str, Change] = field(default_factory=dict)
    # End what runs by scancel, without waiting until it has saved.
    now: bool = False
    # With the job's folder as it is now.
    code: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Restarted:
    """What is on its way."""

    job_id: str
    plan: Plan
    checkpoint: str | None
    ends: str | None
    # Nothing is saved, and what ends will save nothing.
    begins_anew: bool
    # All that was ever changed of parameters and resources, as it is from now on.
    in_force: Mapping[str, Any]


def restart(run: Run, wish: Wish, tell: Callable[[str], None] = lambda _: None) -> Restarted:
    """Have a run go on in a new chain; what of it is alive saves and ends."""
    _refuse(run)
    checkpoint = _checkpoint(run, wish.origin)
    events = believed(run.ledger().events())
    plan = _plan(run, wish, events)
    if (reached := no_more(run)) is not None:
        raise UsageError(
            f"{run.id}: {reached}",
            f"begin a new run where it stands: hpckit submit --from {typed(run.id, run.dir)}",
        )
    plans = [*plans_in_force(events), plan]
    asked = _try(run, plans)
    in_force = _in_force(asked, plans)
    scheduler = choose_scheduler(run.scheduler)
    _refuse_time(asked, plan, scheduler)
    alive = _alive(run, scheduler)
    number = max(chain_numbers(run), default=0) + 1
    code = _snapshot(run, number) if wish.code else None
    ledger = run.ledger()
    ledger.write(
        "restart",
        by_hand=True,
        attempt=max(1, len(run.attempts())),
        after=len(run.attempts()),
        incident=_incident(run).to_json(),
        plan=plan.to_json(),
        checkpoint=checkpoint,
    )
    running = next((job.job_id for job in alive if job.phase is not Phase.PENDING), None)
    begins_anew = checkpoint is None and _begins_anew(run, events, running)
    try:
        with _taken_back_on_a_no(ledger):
            job_id = continue_run(run, scheduler, number=number, after=running, code=code)
        _tell_of_limits(run, asked, tell)
        if running is not None and begins_anew:
            tell(f"{run.id} saves nothing that is known: what job {running} has done is lost")
        _end(run, scheduler, alive, wish)
    finally:
        QueueCache(scheduler).forget()
    return Restarted(
        job_id=job_id,
        plan=plan,
        checkpoint=checkpoint,
        ends=running,
        begins_anew=begins_anew,
        in_force=in_force,
    )


@contextlib.contextmanager
def _taken_back_on_a_no(ledger: Ledger) -> Iterator[None]:
    """What was refused was not wished: neither what runs on nor a later chain asks for it."""
    try:
        yield
    except SubmissionUnclear:
        raise
    except (HpckitError, OSError):
        ledger.write(TAKEN_BACK)
        raise


def _refuse(run: Run) -> None:
    if run.is_sweep:
        raise UsageError(f"{run.id} is a sweep of {run.points} runs", f"name one: {run.id}/000")
    if run.scheduler == FOREGROUND:
        raise UsageError(
            f"{run.id} ran in a terminal",
            f"go on from it: hpckit run --from {typed(run.id, run.dir)}",
        )
    if run.scheduler == "local" and run.host != socket.gethostname():
        raise NotFound(f"{run.id} runs on {run.host}", "restart it there")


def _checkpoint(run: Run, origin: str | None) -> str | None:
    if origin is None:
        return None
    if origin not in ("good", "best") and not origin.isdigit():
        raise UsageError(f"--from {origin}: no step, and neither good nor best")
    if patterns := run.spec().checkpoint.files:
        return _own_set(run, patterns, origin)
    found = choose(
        run,
        step=int(origin) if origin.isdigit() else None,
        good=origin == "good",
        best=origin == "best",
    )
    return found.name


def _own_set(run: Run, patterns: Sequence[str], origin: str) -> str:
    """What a program has saved at a step by itself: what else it is, nobody knows."""
    whole = {each.step: each for each in OwnSets.of_run(run.dir, patterns).sets() if each.complete}
    steps = ", ".join(map(str, list(whole)[-8:]))
    there = f"there are whole ones of {steps}" if whole else "it has saved nothing whole"
    if not origin.isdigit():
        raise UsageError(
            f"--from {origin}: of a program's own checkpoints it is not known which are {origin}",
            there,
        )
    if int(origin) not in whole:
        raise NotFound(f"{run.id} has no whole checkpoint of its own of step {origin}", there)
    return as_argument(whole[int(origin)])


def _begins_anew(run: Run, events: list[Event], running: str | None) -> bool:
    """Whether nothing is saved, nor will be by what runs."""
    spec = run.spec()
    if running is not None and (spec.checkpoint.files or is_a_session(spec, events)):
        return False
    newest = run.attempts()[-1:]
    return all(Healing(run=run, spec=spec, attempt=each).saved() is None for each in newest)


def _plan(run: Run, wish: Wish, events: list[Event]) -> Plan:
    """What numbers went wrong must not be gone on from, if they are why the run stands."""
    spec = run.spec()
    # Where a program keeps its own checkpoints the worker goes back, by what it leaves to it.
    found = trouble(events, "resumed" if spec.checkpoint.files else "rollback")
    before = found.before if found is not None else None
    plan = Plan(
        do="resubmit", reason="by hand", changes=wish.changes, before=before, intact=before is None
    )
    if spec.program.attach is None and not is_a_session(spec, events):
        for name in sorted(OF_OPTIMIZERS & set(wish.changes)):
            path = argument(name, spec)
            if path is None:
                raise UsageError(
                    f"--set {name}: no parameter that its command names is called so",
                    f"name it: --set params.NAME=..., of {', '.join(CALLED[name])} or any other",
                )
            if path in wish.changes:
                raise UsageError(f"--set {name} is --set {path} here: give one of them")
        plan = adapted(plan, spec)
    params = params_in_force(spec.params, plans_in_force(events))
    _check(run, {**plan.changes, **wish.changes}, params)
    return plan


def _check(run: Run, changes: Mapping[str, Change], params: Mapping[str, Any]) -> None:
    """A change that nothing takes up is a mistake, and told before anything is ended."""
    values, varied = dict(by_path(params)), Paths(run.varied)
    for name, change in changes.items():
        section = name.partition(".")[0]
        if section not in ("clip", "lr", "params", "resources"):
            raise UsageError(
                f"--set {name}: what is that?", "clip, lr, params.NAME or resources.NAME"
            )
        if section in run.varied:
            raise UsageError(f"--set {name}: the sweep varies it: a run of it keeps its point")
        if message := wrong(name, change, values, varied):
            raise UsageError(f"--set {name}: {message}")


def _try(run: Run, plans: list[Plan]) -> JobSpec:
    """What comes of the changes; what cannot be carried out must not stand in the ledger."""
    spec = run.spec()
    try:
        params = params_in_force(spec.params, plans)
        resources, _ = resources_in_force(spec.resources, plans, run.had)
        return spec_from_json(
            dataclasses.replace(spec, params=params, resources=resources).to_json()
        )
    except SpecError as error:
        raise UsageError("; ".join(f"{p.path}: {p.message}" for p in error.problems)) from None
    except ValueError as error:
        raise UsageError(f"--set: {error}") from None


def _refuse_time(asked: JobSpec, plan: Plan, scheduler: Scheduler) -> None:
    """What would wait for ever ends nothing; a qos may allow more than its partition."""
    if "resources.time" not in plan.changes or "qos" in asked.slurm:
        return
    longest = scheduler.longest_s(asked.resources.partition)
    if longest is not None and asked.resources.time > longest:
        wanted, most = format_duration(asked.resources.time), format_duration(longest)
        raise UsageError(
            f"resources.time: {wanted} is longer than the partition's {most}",
            "ask for less: a chain of attempts goes on where one ends",
        )


def _tell_of_limits(run: Run, asked: JobSpec, tell: Callable[[str], None]) -> None:
    """A limit of before that ends the next attempt, though it may run longer by its time."""
    used = hours_used(run.attempts(), units(asked))
    left = left_s(run, asked, used, time.time())
    if left < asked.resources.time:
        hours, time_s = format_duration(round(left)), format_duration(asked.resources.time)
        tell(
            f"{run.id}: its limits leave it {hours} of {time_s}; "
            f"for more begin a new run: hpckit submit --from {run.id}"
        )


def _in_force(spec: JobSpec, plans: list[Plan]) -> dict[str, Any]:
    """What was ever changed, as it is by now."""
    asked = spec.to_json()
    changed = dict.fromkeys(name for plan in plans for name in plan.changes)
    # A clip and a rate of hpckit's own are the training's to tell.
    found = {name: get_path(asked, name) for name in changed if name not in OF_OPTIMIZERS}
    for name in plans[-1].changes:
        if name.startswith("resources.") and found[name] is None:
            raise UsageError(f"--set {name}: is not given, so there is nothing to multiply")
    return {name: value for name, value in found.items() if value is not None}


def _incident(run: Run) -> Incident:
    who = os.environ.get("USER", "somebody")
    attempts = run.attempts()
    return Incident(
        kind=BY_HAND,
        step=_step(run) or 0,
        answer="act",
        said=f"started again by {who}, {now_iso()[:19]}Z, after attempt {len(attempts)}",
    )


def _step(run: Run) -> int | None:
    from hpckit.status.steps import steps_done

    return next((s for each in reversed(run.attempts()) if (s := steps_done(each))), None)


def _alive(run: Run, scheduler: Scheduler) -> list[JobStatus]:
    facts = facts_of(run)
    try:
        jobs = assign([facts], answer_for(scheduler))[run.id]
    except SchedulerSilent as error:
        raise SchedulerSilent(
            f"{run.id}: {error.message}: what of it is alive is not known, so nothing was done",
            "try again in a minute",
        ) from error
    if not jobs and shows_life(facts, jobs, time.time()):
        # Another Slurm's, or another user's: a second one would run beside it.
        number = facts.attempts[-1].number
        raise NotFound(
            f"{run.id}: attempt {number} shows that it lives, and no job of it is seen from here",
            f"restart it where it was submitted, on {run.host}; if it has died, in two minutes",
        )
    return [job for job in jobs if job.phase in ALIVE]


def _end(run: Run, scheduler: Scheduler, alive: list[JobStatus], wish: Wish) -> None:
    """End what is alive: what waits at once, what runs after it has saved."""
    waits = [job for job in alive if job.phase is Phase.PENDING]
    runs = [job for job in alive if job.phase is Phase.RUNNING]
    names = [name for job in waits for name in _names(job)]
    if wish.now:
        names += [job.job_id for job in runs]
    if names:
        # Said before it is done: it is not a person who gives the run up.
        run.ledger().write("scancel", jobs=names, why=BY_HAND)
    if waits:
        scheduler.cancel(sorted({_cancellable(job) for job in waits}), pending_only=True)
    if runs and wish.now:
        scheduler.cancel([job.job_id for job in runs])
    elif runs:
        for job in runs:
            requests.ask(run.dir, requests.END, "restart asked for", job.job_id)


def _names(job: JobStatus) -> list[str]:
    if job.task is None and job.pending_tasks:
        return [f"{job.array_id}_{task}" for task in job.pending_tasks]
    return [job.job_id]


def _cancellable(job: JobStatus) -> str:
    return job.array_id if job.task is None else job.job_id


def _snapshot(run: Run, number: int) -> str:
    """A copy of the job's folder as it is now, for the attempts that come."""
    from hpckit.files import read_json
    from hpckit.submission import snapshot

    about = read_json(run.home / "code.json") or {}
    source = Path(about.get("source", ""))
    if not source.is_dir():
        raise NotFound(f"the job's folder {source} is not there any more", "leave out --code")
    found = snapshot.look(source, exclude=run.home.parent.parent)
    # Who died before the chain was announced has left one of this number.
    names = (f"code-{each:03d}" for each in itertools.count(number))
    name = next(each for each in names if not (run.dir / each).exists())
    snapshot.copy(found, run.dir / name)
    return name

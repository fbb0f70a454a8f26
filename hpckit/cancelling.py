"""Ending runs because a person says so: the intent first, then the act, then what came of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

from hpckit import requests, settings
from hpckit.errors import CannotWrite, HpckitError, NotFound, SchedulerSilent
from hpckit.run import Run
from hpckit.scheduler import choose
from hpckit.scheduler.base import JobStatus, Phase, Scheduler
from hpckit.settings import typed
from hpckit.status.queue_cache import QueueCache
from hpckit.status.state import FOREGROUND, Facts, answer_for, assign, facts_of, left_behind

ALIVE = (Phase.PENDING, Phase.RUNNING)


def cancel_run(run: Run) -> str:
    """Cancel whatever of a run or sweep is alive; the state it is in afterwards."""
    runs = run.point_runs() if run.is_sweep else [run]
    facts = [fact for fact in map(facts_of, runs) if fact.final is None]
    if not facts:
        final = facts_of(runs[0]).final
        return f"already {final.state}" if final and not run.is_sweep else "already ended"
    if run.scheduler == FOREGROUND:
        return _interrupt(facts[0])
    if run.scheduler == "local" and run.host != socket.gethostname():
        raise NotFound(
            f"{run.id} runs on {run.host}",
            f"cancel it there: hpckit cancel {typed(run.id, run.dir)}",
        )
    unwritten: OSError | None = None
    try:
        # Whoever dies after this line has still said it: the next link reads it and ends.
        run.ledger().write("cancel")
    except OSError as error:
        # People cancel when the disk is full: then the jobs go, and Slurm remembers why.
        unwritten = error
    wish = "the wish could not be written down" if unwritten else "the wish is written down"
    jobs = _cancel_jobs_of(run, facts, wish)
    unseen = [fact for fact in facts if fact.attempts and not jobs[fact.run.id]]
    try:
        for fact in facts:
            if fact not in unseen:
                about = {"state": "cancelled", "reason": "cancelled with hpckit cancel"}
                fact.run.ledger().write("finished", **about)
    except OSError as error:
        unwritten = error
    if unseen:
        # They may run on, where this machine cannot see them: nobody may say that they ended.
        what = f"{len(unseen)} of its runs have jobs that are not" if run.is_sweep else "no job is"
        raise NotFound(
            f"{run.id}: {wish}, but {what} seen from here",
            f"if it still runs, cancel it where it was submitted, on {run.host}",
        )
    if unwritten is not None:
        raise CannotWrite(
            f"{run.id}: its jobs are cancelled, but it cannot be written down in {run.dir}: "
            f"{unwritten.strerror}",
            f"free some space, and say it again: hpckit cancel {typed(run.id, run.dir)}",
        )
    return "cancelled"


def _cancel_jobs_of(run: Run, facts: list[Facts], wish: str) -> dict[str, list[JobStatus]]:
    """Cancel what the scheduler has of a run or sweep; the jobs that it had, by run."""
    scheduler = choose(run.scheduler)
    cache = QueueCache(scheduler)
    try:
        jobs = assign(facts, answer_for(scheduler))
        alive = [job for of_run in jobs.values() for job in of_run if job.phase in ALIVE]
        # The other tasks of a sweep's array are other runs; a chain of a point's own is all its.
        is_all = run.point is None
        ids = {job.array_id if is_all or job.name == run.id else job.job_id for job in alive}
        if ids:
            scheduler.cancel(sorted(ids))
    except SchedulerSilent as error:
        _ask_workers(facts)
        raise SchedulerSilent(
            f"{run.id}: {wish}, but {error.message}",
            "what runs is ended by its worker as soon as it can; to be sure, "
            f"say it again when Slurm answers: hpckit cancel {typed(run.id, run.dir)}",
        ) from error
    finally:
        cache.forget()
    return jobs


def _ask_workers(facts: list[Facts]) -> None:
    """What the scheduler does not hear, the workers of what is alive may: they save and end."""
    for fact in facts:
        if fact.attempts:
            with contextlib.suppress(OSError):
                job_id = fact.attempts[-1].job_id
                requests.ask(fact.run.dir, requests.END, "cancelled with hpckit cancel", job_id)


def has_jobs(run_id: str) -> bool:
    """Whether the scheduler here has jobs of a run, whatever became of its folder."""
    with contextlib.suppress(HpckitError):
        return bool(_arrays(settings.scheduler(), run_id))
    return False


def cancel_jobs(run_id: str) -> str:
    """Cancel the jobs of a run whose folder is gone: the queue knows them by its id."""
    scheduler = settings.scheduler()
    scheduler.cancel(_arrays(scheduler, run_id))
    QueueCache(scheduler).forget()
    return "its folder is gone, and its jobs are cancelled"


def _arrays(scheduler: Scheduler, run_id: str) -> list[str]:
    return sorted({j.array_id for j in scheduler.queue() if j.name == run_id and j.phase in ALIVE})


def _interrupt(facts: Facts) -> str:
    """End a run in the foreground of another terminal of this machine."""
    from hpckit.scheduler.local_state import Process
    from hpckit.scheduler.local_tree import descendants

    about = facts.attempts[-1].about() if facts.attempts else {}
    if about.get("host") != socket.gethostname():
        raise NotFound(f"{facts.run.id} runs in a terminal on {about.get('host')}", "end it there")
    if Process(**about["process"]).signal(signal.SIGTERM):
        return "told to end"
    program = left_behind(facts)
    if program is None:
        return "already ended"
    # Nobody looks after it any more: all of it is told, the shell around it too.
    for pid in (*descendants(program.pid), program.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return "told to end"

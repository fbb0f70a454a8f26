"""What a run is doing: its directory's own evidence, and the scheduler's word for the rest."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hpckit.clock import seconds_of
from hpckit.errors import NotFound, SchedulerSilent
from hpckit.files import read_json
from hpckit.ledger import FINAL_STATES, Event, final, is_cancelled, submission_of
from hpckit.run import Attempt, Run, chain_folder
from hpckit.scheduler.base import Cause, JobStatus, Phase
from hpckit.worker.outcome import EXIT_CODES, NOBODY_NEXT, Outcome, after_a_silent_end

if TYPE_CHECKING:
    from hpckit.scheduler.base import Scheduler
    from hpckit.scheduler.local_state import Process
    from hpckit.status.queue_cache import QueueCache

# A submission that is older than this and that nobody has heard of was cut off.
CUT_OFF_S = 60.0
FOREGROUND = "foreground"
# Reasons for waiting that waiting does not mend.
NEVER = {
    "AccountNotAllowed",
    "AssocMaxWallDurationPerJobLimit",
    "BadConstraints",
    "InvalidAccount",
    "InvalidQOS",
    "PartitionConfig",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "QOSMaxWallDurationPerJobLimit",
    "QOSNotAllowed",
}
KILLED = "hpckit run was killed"
CANCEL_AGAIN = "a cancel is written down that Slurm has not heard: cancel it again"
LOST = "left the queue, and accounting does not know it"
# Three heartbeats.
SILENT_S = 90.0


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """A run's state, why it is so, and what comes next."""

    state: str
    reason: str = ""
    next: dict[str, Any] | None = None
    ends_by: str | None = None
    # The scheduler did not answer: it may yet say otherwise.
    is_unheard: bool = False

    @property
    def words(self) -> str:
        """The state and why, said once."""
        return f"{self.state}: {self.reason}" if self.reason not in ("", self.state) else self.state

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def exit_code(self) -> int | None:
        return EXIT_CODES.get(self.state)


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a run's directory says, without asking anybody."""

    run: Run
    events: list[Event]
    submission: list[Event]
    attempts: list[Attempt]

    @property
    def final(self) -> State | None:
        event = final(self.events)
        if event is None:
            return None
        return State(state=str(event.data["state"]), reason=str(event.data.get("reason", "")))

    def of_chain(self, kind: str) -> Event | None:
        """The newest event of a kind that speaks of the array this run is in."""
        number = chain_of(self.run)
        events = [e for e in self.submission if e.kind == kind and e.data.get("chain") == number]
        return events[-1] if events else None

    @property
    def cancelled(self) -> bool:
        home = self.submission if self.run.point is not None else []
        return is_cancelled([*home, *self.events])

    @property
    def submitted(self) -> Event | None:
        """The newest submission."""
        return submission_of(self.events) or submission_of(self.submission)

    @property
    def newest_array(self) -> int | None:
        """The job of the newest chain, where the answer to its submission was written down."""
        newest = self.submitted
        chains = newest.data.get("chains", ()) if newest is not None else ()
        if newest is None or not newest.data.get("serial"):
            return None
        arrays = [e.data["job_id"] for e in self.events if e.kind == "submitted"
                  and e.data.get("chain") in chains]  # fmt: skip
        return int(arrays[-1]) if arrays else None

    def is_ours(self, job: JobStatus) -> bool:
        """Whether hpckit said that it would cancel a job, before it did."""
        said = {
            job_id
            for event in self.events
            if event.kind == "scancel"
            for job_id in event.data.get("jobs", ())
        }
        rest = {f"{job.array_id}_{task}" for task in job.pending_tasks}
        return (rest if job.task is None and rest else {job.job_id}) <= said

    @property
    def attempts_left(self) -> int:
        """How many more there may be."""
        return max(0, self.run.spec().limits.attempts - len(self.attempts))


def chain_of(run: Run) -> int:
    """The number of the array that a run is in; a sweep may have several."""
    for number in range(run.chains, 1, -1):
        chain = read_json(chain_folder(run.home, number) / "chain.json") or {}
        if run.point is not None and run.point >= chain.get("offset", sys.maxsize):
            return number
    return 1


def facts_of(run: Run, submission: list[Event] | None = None) -> Facts:
    """Read a run's directory; the points of a sweep share their submission's events."""
    events = run.ledger().events()
    if submission is None:
        submission = run.home_ledger().events() if run.point is not None else events
    return Facts(run=run, events=events, submission=submission, attempts=run.attempts())


def states_of(runs: Sequence[Run], cache: QueueCache | None) -> list[tuple[Facts, State]]:
    """The state of each run; the scheduler is asked once for all that have not ended."""
    shared: dict[str, list[Event]] = {}
    facts = []
    for run in runs:
        if run.point is not None and run.home_id not in shared:
            shared[run.home_id] = run.home_ledger().events()
        facts.append(facts_of(run, shared.get(run.home_id)))
    asking = [fact for fact in facts if fact.final is None and fact.run.scheduler != FOREGROUND]
    answer = ask(asking, cache) if asking else Answer()
    jobs = assign(asking, answer)
    now = time.time()
    told = []
    for fact in facts:
        state = fact.final
        if state is None and fact.run.scheduler == FOREGROUND:
            state = in_foreground(fact, now)
        told.append((fact, state or decide(fact, jobs[fact.run.id], answer, now)))
    return told


def in_foreground(facts: Facts, now: float) -> State:
    """A run without a scheduler: its process is looked for where it ran, elsewhere its signs."""
    about = facts.attempts[-1].about() if facts.attempts else {}
    if about.get("host") == socket.gethostname():
        from hpckit.scheduler.local_state import Process

        if Process(**about["process"]).is_alive:
            return State(state="running")
        left = left_behind(facts)
        if left is not None:
            return State(
                state="running", reason=f"{KILLED}, its program runs on as process {left.pid}"
            )
        return State(state="failed", reason=KILLED)
    sign = facts.attempts[-1].last_sign() if facts.attempts else None
    if now - (sign or seconds_of(facts.run.created)) < SILENT_S:
        return State(state="running")
    return State(state="unknown", reason=f"no sign of life from {about.get('host', 'its machine')}")


def left_behind(facts: Facts) -> Process | None:
    """The program of a foreground run, if it is alive on this machine."""
    from hpckit.scheduler.local_state import Process

    about = facts.attempts[-1].program()
    process = Process(**about) if about is not None else None
    return process if process is not None and process.is_alive else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the scheduler said about some runs, and what it kept silent about."""

    queue: Sequence[JobStatus] = ()
    history: Sequence[JobStatus] = ()
    silent: str | None = None
    # The names that accounting could not be asked about, and why.
    unheard: Mapping[str, str] = field(default_factory=dict)


def ask(facts: Iterable[Facts], cache: QueueCache | None) -> Answer:
    """One squeue for all, and one sacct for what has left the queue."""
    if cache is None:
        return Answer(silent="the scheduler that runs it is not on this machine")
    try:
        queue = cache.queue()
    except SchedulerSilent as error:
        return Answer(silent=error.message)
    in_queue = {job.name for job in queue}
    gone = [fact.run for fact in facts if not in_queue & set(fact.run.job_names)]
    if not gone:
        return Answer(queue=queue)
    since = min(run.created for run in gone)
    names = sorted({name for run in gone for name in run.job_names})
    history, silent = cache.history(names, since)
    return Answer(queue=queue, history=history, unheard=silent)


def answer_for(scheduler: Scheduler) -> Answer:
    """What the scheduler says now, past every cache: for those who are about to act on it."""
    return Answer(queue=scheduler.queue())


def decide(facts: Facts, jobs: Sequence[JobStatus], answer: Answer, now: float) -> State:
    """The state of a run that has not written its own end."""
    wish = CANCEL_AGAIN if facts.cancelled else ""
    alive = [job for job in jobs if job.phase in (Phase.RUNNING, Phase.ENDING)]
    for job in _of_newest(facts, alive):
        reason = "ending" if job.phase is Phase.ENDING else wish or job.reason
        if job.raw_state in ("SUSPENDED", "STOPPED"):
            reason = f"{job.raw_state.lower()} by an administrator"
        return State(state="running", reason=_words(reason), ends_by=job.ends_by)
    if alive or shows_life(facts, jobs, now):
        unheard = answer.silent is not None
        return State(state="running", reason=wish or answer.silent or "", is_unheard=unheard)
    if answer.silent is not None:
        return State(state="unknown", reason=answer.silent, is_unheard=True)
    waiting = next((job for job in jobs if job.phase is Phase.PENDING), None)
    if waiting is not None:
        why = wish or _words(waiting.reason)
        if waiting.reason in NEVER:
            why += ": it will not start like this; hpckit doctor SPEC tells why"
        return State(state="pending", reason=why, next=_next(waiting))
    strange = next((job for job in jobs if job.phase is Phase.UNKNOWN), None)
    if strange is not None:
        return State(state="unknown", reason=f"Slurm says {strange.raw_state}")
    if facts.cancelled:
        return State(state="cancelled", reason="cancelled with hpckit cancel")
    return _gone(facts, jobs, answer, now)


def _of_newest(facts: Facts, jobs: Sequence[JobStatus]) -> Sequence[JobStatus]:
    """The jobs whose words are true of the newest attempt: not those of the attempt before it."""
    if not facts.attempts or facts.attempts[-1].ended() is not None:
        return jobs
    job_id = facts.attempts[-1].job_id
    return [job for job in jobs if job.job_id == job_id]


def shows_life(facts: Facts, jobs: Sequence[JobStatus], now: float) -> bool:
    """Whether an attempt lives by its own signs; the queue's word may be half a minute old."""
    if not facts.attempts or facts.attempts[-1].ended() is not None:
        return False
    job_id = facts.attempts[-1].job_id
    if any(job.job_id == job_id and job.phase is Phase.ENDED for job in jobs):
        return False
    return now - (facts.attempts[-1].last_sign() or 0.0) < SILENT_S


def _words(reason: str) -> str:
    return "" if reason in ("None", "(null)") else reason


def _next(job: JobStatus) -> dict[str, Any]:
    task = job.task if job.task is not None else min(job.pending_tasks, default=None)
    job_id = job.array_id if task is None else f"{job.array_id}_{task}"
    return {"job_id": job_id, "reason": _words(job.reason), "expected": job.expected_start}


def _gone(facts: Facts, jobs: Sequence[JobStatus], answer: Answer, now: float) -> State:
    """A run with nothing left in the queue that has not said how it ended."""
    ended = sorted(jobs, key=lambda job: (int(job.array_id), job.task is None, job.task or 0))
    newest = facts.newest_array
    # What was submitted before is over and done with, however it ended.
    ended = [job for job in ended if newest is None or int(job.array_id) >= newest] or ended
    if not ended:
        return _never_seen(facts, answer, now)
    served = [job for job in ended if job.started] or ended
    outcome = after_a_silent_end(served[-1], is_ours=facts.is_ours(served[-1]))
    if outcome.state is None and any(_is_scancelled(facts, job) for job in ended):
        # Nobody but a person ends what only waits.
        outcome = Outcome(state="cancelled", reason="cancelled by scancel")
    if outcome.state is not None:
        return State(state=outcome.state, reason=outcome.reason)
    said = facts.attempts[-1].ended() if facts.attempts else None
    reason = str(said["reason"]) if said is not None else outcome.reason
    try:
        left = facts.attempts_left
    except NotFound as error:
        # A run that is damaged is no reason to say nothing of the others.
        return State(state="unknown", reason=error.message)
    if left <= 0:
        used = len(facts.attempts)
        return State(state="stopped", reason=f"{reason}; all {used} attempts are used")
    reason = reason.removesuffix(f"; {NOBODY_NEXT}")
    return State(state="healing", reason=f"{reason}; {NOBODY_NEXT}")


def _is_scancelled(facts: Facts, job: JobStatus) -> bool:
    return job.cause is Cause.CANCELLED and not facts.is_ours(job)


def _never_seen(facts: Facts, answer: Answer, now: float) -> State:
    """A run that the scheduler does not know: not yet, not any more, or never."""
    submission = facts.submitted
    began = submission.time if submission is not None else facts.run.created
    if (refused := facts.of_chain("refused")) is not None:
        return State(state="failed", reason=str(refused.data["reason"]))
    if now - seconds_of(began) < CUT_OFF_S:
        return State(state="pending", reason="being submitted")
    if submission is None:
        return State(state="failed", reason="the submission was cut off: nothing was submitted")
    silent = answer.unheard.get(facts.run.home_id)
    if silent is not None:
        return State(state="unknown", reason=f"left the queue; {silent}", is_unheard=True)
    if facts.of_chain("submitted") is not None or facts.attempts:
        return State(state="unknown", reason=LOST)
    return State(state="failed", reason="the submission was cut off: nothing reached the queue")


def assign(facts: Sequence[Facts], answer: Answer) -> dict[str, list[JobStatus]]:
    """Which of the scheduler's jobs serve which run; the queue stands before accounting."""
    by_name: dict[str, dict[str, JobStatus]] = {}
    for job in (*answer.history, *answer.queue):
        key = job.job_id if job.task is not None else f"{job.job_id} rest"
        by_name.setdefault(job.name, {})[key] = job
    found: dict[str, list[JobStatus]] = {}
    points: dict[str, dict[int, list[JobStatus]]] = {}
    for fact in facts:
        jobs = list(by_name.get(fact.run.home_id, {}).values())
        if fact.run.point is None:
            found[fact.run.id] = jobs
            continue
        if fact.run.home_id not in points:
            points[fact.run.home_id] = _by_point(fact, jobs)
        own = list(by_name.get(fact.run.id, {}).values())
        found[fact.run.id] = points[fact.run.home_id].get(fact.run.point, []) + own
    return found


def _by_point(fact: Facts, jobs: Iterable[JobStatus]) -> dict[int, list[JobStatus]]:
    """The tasks of a sweep's arrays, by the point they serve."""
    found: dict[int, list[JobStatus]] = {}
    offsets: dict[str, int] = {}
    for job in jobs:
        if job.array_id not in offsets:
            offsets[job.array_id] = _offset(fact, job.array_id)
        tasks = job.pending_tasks if job.task is None else (job.task,)
        for task in tasks:
            named = replace(job, job_id=f"{job.array_id}_{task}", task=task, pending_tasks=())
            found.setdefault(offsets[job.array_id] + task, []).append(named)
    return found


def _offset(fact: Facts, array_id: str) -> int:
    """The first point of an array; with one chain there is no doubt, whatever was lost."""
    number = 1
    if fact.run.chains > 1:
        events = [event for event in fact.submission if event.kind == "submitted"]
        numbers = {str(event.data["job_id"]): int(event.data["chain"]) for event in events}
        # The one whose answer was lost is the one that was sent last.
        number = numbers.get(array_id, max(numbers.values(), default=0) + 1)
    chain = read_json(chain_folder(fact.run.home, number) / "chain.json")
    return int(chain["offset"]) if chain else 0

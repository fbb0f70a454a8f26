"""Inside the allocation, one a job: whether there is anything to do, and an attempt at it.

Slurm starts one link of the array after the other, however the last one ended. A link begins by
reading the ledger: is there anything to do, and with what changes? It imports no torch, and it
installs its signal handlers before anything else: a signal that comes earlier would kill it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.checkpoint.lineage import believed
from hpckit.clock import now_iso
from hpckit.files import read_json, write_json
from hpckit.heal.in_force import applied_params, applied_resources
from hpckit.heal.pending import is_a_session
from hpckit.ledger import final
from hpckit.requests import END, served
from hpckit.run import STARTS, Attempt, Run, open_run, point_name
from hpckit.scheduler.base import Phase
from hpckit.scheduler.slurm_text import nodes_of
from hpckit.worker.attempting import Attempting
from hpckit.worker.healing import Answer, Healing, Seen
from hpckit.worker.herald import Herald
from hpckit.worker.machine import write_down
from hpckit.worker.next_links import NextLinks
from hpckit.worker.outcome import GO_ON, NOT_STARTED, SUPERSEDED, TERMINATED, Outcome
from hpckit.worker.settling import Settled, Settling
from hpckit.worker.signals import Signals
from hpckit.worker.words import end_attempt, insist

if TYPE_CHECKING:
    from hpckit.scheduler.base import Scheduler


def run_links(folder: str) -> None:
    """What every task of the array runs; submitit unpickles it with the chain's path."""
    signals = Signals()
    signals.install()
    chain = read_json(Path(folder) / "chain.json")
    if chain is None:
        raise SystemExit(f"hpckit: {folder} holds no chain: was the run deleted?")
    # A site without arrays has jobs of one link each.
    task = int(os.environ.get("SLURM_ARRAY_TASK_ID", "1"))
    home = open_run(Path(chain["home"]))
    if home is None:
        raise SystemExit(f"hpckit: {chain['home']} is no run: was it deleted?")
    run = home
    if home.is_sweep:
        point = open_run(home.dir / point_name(chain["offset"] + task))
        assert point is not None
        run = point
    scheduler = _scheduler(run.scheduler)
    link = Link(run=run, chain=chain, task=task, scheduler=scheduler, signals=signals)
    raise SystemExit(link.serve())


def _scheduler(kind: str) -> Scheduler:
    from hpckit.scheduler import choose

    return choose(kind)


@dataclass(kw_only=True)
class Link:
    """One task of the array, serving a run."""

    run: Run
    chain: Mapping[str, Any]
    task: int
    scheduler: Scheduler
    signals: Signals

    def __post_init__(self) -> None:
        self.herald = Herald(self.run)
        self.settling = Settling(run=self.run, scheduler=self.scheduler)
        self.next = NextLinks(
            run=self.run, chain=self.chain, task=self.task, scheduler=self.scheduler
        )

    def serve(self) -> int:
        """Run an attempt if there is anything to do; the exit code tells Slurm how it went."""
        try:
            return self._serve()
        finally:
            self.herald.finish()

    def _serve(self) -> int:
        end = final(self.run.ledger().events())
        if end is not None:
            print(f"hpckit: nothing to do: the run is {end.data['state']}", flush=True)
            self.next.cancel()
            return 0
        if not self.next.is_newest():
            print("hpckit: nothing to do: another submission took this one's place", flush=True)
            # Not 0: if that one never came to be, a reader must not take ours for the run's end.
            return GO_ON
        cancelled = self._cancelled()
        if cancelled is not None:
            return self._finish(cancelled)
        previous = self.settling.last()
        if previous is None:
            return self._attempt(None)
        if previous.may_live:
            return self._wait_for(previous.attempt)
        previous = self._repaired(previous)
        if previous.outcome.state is not None:
            return self._end_with(previous)
        if previous.outcome.needs_others:
            return self._leave_to_others(previous)
        return self._attempt(previous)

    def _cancelled(self) -> Outcome | None:
        """A person's word: it is written down before anything is cancelled."""
        if self.run.is_cancelled():
            return Outcome(state="cancelled", reason="cancelled with hpckit cancel")
        return None

    def _repaired(self, previous: Settled) -> Settled:
        """With what the policy says of an end that the attempt itself could not tell."""
        if previous.outcome.kind is None or previous.outcome.state is not None:
            return previous
        healing = Healing(run=self.run, spec=self.run.spec(), attempt=previous.attempt)
        answer = healing.answer(previous.outcome, None, _how_far(previous.attempt, previous.node))
        outcome = answer.outcome
        if answer.plan is not None and outcome.state is None:
            self.next.prepare(answer.plan)
            # We have what the attempt before had: what needs more is for the ones after us.
            outcome = dataclasses.replace(outcome, needs_others=_changes_resources(answer))
        return dataclasses.replace(previous, outcome=outcome)

    def _came_up(self) -> None:
        """What the links before us could not is forgiven."""
        with contextlib.suppress(OSError):
            (self.run.chain_folder(self.chain["number"]) / STARTS).unlink(missing_ok=True)

    def _wait_for(self, attempt: Attempt) -> int:
        """Nobody takes its place; the next link looks again, if need be in another chain."""
        self._came_up()
        reason = f"attempt {attempt.number} may be alive"
        print(f"hpckit: {reason}: left to the next link", flush=True)
        outcome = self.next.or_stop(Outcome(state=None, reason=reason), self._attempts_left())
        return outcome.exit_code

    def _end_with(self, previous: Settled) -> int:
        """The run's end before the attempt's, or who dies between goes on with what has ended."""
        exit_code = self._finish(previous.outcome)
        with contextlib.suppress(OSError):
            self._write_down(previous, previous.attempt.dir / "settled.json")
        return exit_code

    def _leave_to_others(self, previous: Settled) -> int:
        self._write_down(previous, previous.attempt.dir / "settled.json")
        print(f"hpckit: {previous.outcome.reason}: left to the next link", flush=True)
        outcome = self.next.or_stop(previous.outcome, self._attempts_left())
        return self._finish(outcome) if outcome.state is not None else outcome.exit_code

    def _attempt(self, previous: Settled | None) -> int:
        started = now_iso()
        attempt = self._claim(started)
        self._came_up()
        write_down(self.run, attempt, self.chain.get("code"))
        if previous is not None:
            # In our own folder: what the attempt before us still writes is not read any more.
            self._write_down(previous, attempt.dir / "previous.json")
        ledger = self.run.ledger(f"attempt-{attempt.number:03d}")
        ledger.write("attempt", number=attempt.number, job_id=job_id_of(os.environ))
        print(f"hpckit: {self.run.id}: attempt {attempt.number}", flush=True)
        self._tell_applied(attempt)
        self.herald.begin(attempt, self.run.spec())
        answer = Attempting(
            run=self.run,
            attempt=attempt,
            signals=self.signals,
            started=started,
            checked=self._checked,
            code=self.chain.get("code"),
            before_launch=self.herald.before_launch,
        ).serve()
        served(self.run.dir, END, attempt.job_id)
        return self._conclude(attempt, self._weighed(answer, attempt))

    def _tell_applied(self, attempt: Attempt) -> None:
        """What was asked for since the attempt before, and what of it this job has."""
        events, spec = believed(self.run.ledger().events()), self.run.spec()
        nodes = nodes_of(str(attempt.about().get("node")))
        said = applied_resources(
            spec.resources, events, had=self.run.had, has=attempt.has, nodes=nodes
        )
        if not (spec.checkpoint.files or is_a_session(spec, events)):
            # Of these nobody else tells what their arguments are by now.
            said += applied_params(spec.params, events, "resumed", "applied")
        if said:
            ledger = self.run.ledger(f"attempt-{attempt.number:03d}")
            ledger.write("applied", attempt=attempt.number, changed=said)

    @staticmethod
    def _write_down(previous: Settled, path: Path) -> None:
        write_json(path, {"ended": previous.ended, "reason": previous.outcome.reason})

    def _claim(self, started: str) -> Attempt:
        environ = os.environ
        job = environ.get("SLURM_ARRAY_JOB_ID")
        return self.run.claim_attempt(
            {
                "job_id": job_id_of(environ),
                "chain": self.chain["number"],
                "task": self.task,
                "node": environ.get("SLURM_JOB_NODELIST", socket.gethostname()),
                "started": started,
                "worker_pid": os.getpid(),
                "memory": _memory(environ),
                "log": f"{job}_{self.task}.log" if job else f"{environ['SLURM_JOB_ID']}.log",
            }
        )

    def _weighed(self, answer: Answer, attempt: Attempt) -> Outcome:
        """What the attempt's end means for the run, with all that is known beside it."""
        outcome = answer.outcome
        if outcome.reason.startswith(NOT_STARTED) and self._failed_so_before(attempt):
            outcome = dataclasses.replace(outcome, state="failed")
        if outcome.state is None and (cancelled := self._cancelled()) is not None:
            return cancelled
        if outcome.state is None and self._is_interrupted(outcome):
            # Whatever the worker was about just then. Who it was, the next link asks the scheduler.
            outcome = Outcome(state=None, reason=TERMINATED)
        if outcome.reason == TERMINATED:
            outcome = self._preempted(attempt) or outcome
        elif outcome.state is None and answer.plan is not None:
            self.next.prepare(answer.plan)
        # Who terminated a last attempt, a person or the cluster, its reader asks the scheduler.
        if outcome.state is not None or outcome.reason in (TERMINATED, SUPERSEDED):
            return outcome
        return self.next.or_stop(outcome, self._attempts_left())

    def _is_interrupted(self, outcome: Outcome) -> bool:
        """Whether the job was told to end, and not only because the program saved for too long."""
        end = float(os.environ.get("SLURM_JOB_END_TIME", 0))
        return self.signals.terminated and (outcome.kind != "time_limit" or time.time() < end)

    def _preempted(self, attempt: Attempt) -> Outcome | None:
        """Preemption speaks to the ranks alone: whether it was that, the scheduler knows."""
        with contextlib.suppress(Exception):
            if not self.scheduler.is_preempted(job_id_of(os.environ)):
                return None
            outcome = Outcome(state=None, reason="preempted", kind="preemption")
            healing = Healing(run=self.run, spec=self.run.spec(), attempt=attempt)
            return healing.answer(outcome, None, _how_far(attempt)).outcome
        return None

    def _attempts_left(self) -> int:
        return self.run.spec().limits.attempts - len(self.run.attempts())

    def _conclude(self, attempt: Attempt, outcome: Outcome) -> int:
        """The last words: the run's before the attempt's, or who dies between runs it again."""
        print(f"hpckit: {outcome.reason}", flush=True)
        if not self.run.is_served_by(attempt.number):
            # Our node was given up for lost, and another attempt serves the run by now.
            return outcome.exit_code
        if outcome.state is not None:
            self._finish(outcome, attempt=attempt.number)
        with contextlib.suppress(OSError):
            end_attempt(attempt, outcome)
        return outcome.exit_code

    def _failed_so_before(self, attempt: Attempt) -> bool:
        """Once may be bad luck; twice in a row it is what was asked for that cannot start."""
        before = [
            each.ended() or {} for each in self.run.attempts() if each.number < attempt.number
        ]
        return bool(before) and str(before[-1].get("reason", "")).startswith(NOT_STARTED)

    def _checked(self, outcome: Outcome) -> Outcome:
        """A failure that may be the end of our own job: then it is not ours to judge.

        On a node that Slurm has given up the worker may live on; what it writes must not end
        a run that the next link goes on with.
        """
        status, _ = self.settling.status_of(job_id_of(os.environ))
        if status is not None and status.phase is Phase.RUNNING:
            return outcome
        return Outcome(state=None, reason=TERMINATED)

    def _finish(self, outcome: Outcome, **by: int) -> int:
        """Write the end of the run, then spare the queue the links that are left."""
        # By the chain, a reader knows the submission that it ends, whatever the clocks say.
        about = {"state": outcome.state, "reason": outcome.reason, "chain": self.chain["number"]}
        ledger = self.run.ledger()
        try:
            insist(lambda: ledger.write("finished", **about, **by))
        except OSError as error:
            # Our exit code says the same to the scheduler, and by it to whoever asks.
            print(f"hpckit: the end could not be written down: {error}", flush=True)
        self.next.cancel()
        return outcome.exit_code


def _how_far(attempt: Attempt, node: str | None = None) -> Seen:
    """How far an attempt came, by what it has left behind."""
    from hpckit.status.steps import steps_done

    launches = attempt.launches()
    step = steps_done(attempt)
    return Seen(
        step=step,
        has_stepped=step is not None,
        logs=launches[-1] if launches else None,
        node=node,
    )


def _changes_resources(answer: Answer) -> bool:
    changes = answer.plan.changes if answer.plan is not None else {}
    return any(name.startswith("resources.") for name in changes)


def _memory(environ: Mapping[str, str]) -> int | None:
    """What the cluster gave this job on each node, in MB, whether or not it was asked for."""
    memory = environ.get("SLURM_MEM_PER_NODE", "")
    return int(memory) or None if memory.isdecimal() else None


def job_id_of(environ: Mapping[str, str]) -> str:
    """The job's id as squeue and sacct print it."""
    array = environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{environ['SLURM_ARRAY_TASK_ID']}" if array else environ["SLURM_JOB_ID"]

"""Inside the allocation, one a job: launches the program, watches it, writes down how it ended.

Slurm starts one link of the array after the other, however the last one ended. A link begins by
reading the ledger: is there anything to do? It imports no torch, and it installs its signal
handlers before anything else: a signal that comes earlier would kill it.
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

from hpckit.clock import iso, now_iso
from hpckit.errors import SchedulerSilent
from hpckit.files import read_json, write_json
from hpckit.ledger import final, last
from hpckit.run import STARTS, Attempt, Run, chain_folder, open_run, point_name
from hpckit.scheduler.base import Phase
from hpckit.worker.outcome import NOT_STARTED, TERMINATED, Outcome, after_a_silent_end
from hpckit.worker.watch import Signals, Watch, end_attempt, insist

if TYPE_CHECKING:
    from hpckit.scheduler.base import JobStatus, Scheduler


# As long as Slurm waits between SIGTERM and SIGKILL at most sites, and then some.
SETTLE_S = 120.0


def run_links(folder: str) -> None:
    """What every task of the array runs; submitit unpickles it with the chain's path."""
    signals = Signals()
    signals.install()
    chain = read_json(Path(folder) / "chain.json")
    if chain is None:
        raise SystemExit(f"hpckit: {folder} holds no chain: was the run deleted?")
    task = int(os.environ["SLURM_ARRAY_TASK_ID"])
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """How the attempt before this one ended, by the scheduler's word."""

    outcome: Outcome
    ended: str


@dataclass(kw_only=True)
class Link:
    """One task of the array, serving a run."""

    run: Run
    chain: Mapping[str, Any]
    task: int
    scheduler: Scheduler
    signals: Signals

    def serve(self) -> int:
        """Run an attempt if there is anything to do; the exit code tells Slurm how it went."""
        events = self.run.ledger().events()
        end = final(events)
        if end is not None:
            print(f"hpckit: nothing to do: the run is {end.data['state']}", flush=True)
            self._cancel_rest()
            return 0
        submission = last(self.run.home_ledger().events(), "submit")
        if submission is None or self.chain["number"] not in submission.data["chains"]:
            print("hpckit: nothing to do: another submission took this one's place", flush=True)
            return 0
        cancelled = self._cancelled()
        if cancelled is not None:
            return self._finish(cancelled)
        previous = self._settle_previous()
        if previous is not None and previous.outcome.state is not None:
            return self._finish(previous.outcome)
        return self._attempt(previous)

    def _cancelled(self) -> Outcome | None:
        """A person's word: it is written down before anything is cancelled."""
        for ledger in (self.run.ledger(), self.run.home_ledger()):
            if last(ledger.events(), "cancel") is not None:
                return Outcome(state="cancelled", reason="cancelled with hpckit cancel")
        return None

    def _settle_previous(self) -> Settled | None:
        """What the attempt before this one leaves to be decided, if it could not say so itself."""
        attempts = self.run.attempts()
        if not attempts:
            return None
        previous = attempts[-1]
        ended = previous.ended()
        if ended is not None and ended["reason"] != TERMINATED:
            return None
        status = self._end_of(str(previous.about().get("job_id")))
        when = ended["ended"] if ended else _end_time(status, previous)
        return Settled(outcome=after_a_silent_end(status), ended=when)

    def _end_of(self, job_id: str) -> JobStatus | None:
        """How a job ended, by the scheduler's word, waited for if it is still ending.

        The next link may start while the one before is saving what scancel interrupted: whether
        a person ended it is not to be guessed.
        """
        pause_s, until = 0.5, time.monotonic() + SETTLE_S
        while True:
            found, answered = self._status_of(job_id)
            if found is not None and found.phase is Phase.ENDED:
                return found
            if answered and found is None:
                return self._in_history(job_id)
            if time.monotonic() > until:
                return found
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 10.0)

    def _status_of(self, job_id: str) -> tuple[JobStatus | None, bool]:
        """A job as the queue has it, and whether the queue answered at all."""
        try:
            queue = self.scheduler.queue()
        except SchedulerSilent:
            return None, False
        return next((job for job in queue if job.job_id == job_id), None), True

    def _in_history(self, job_id: str) -> JobStatus | None:
        try:
            jobs = self.scheduler.history([self.run.home_id], self.run.created)
        except SchedulerSilent:
            return None
        return next((job for job in jobs if job.job_id == job_id), None)

    def _attempt(self, previous: Settled | None) -> int:
        started = now_iso()
        attempt = self._claim(started)
        with contextlib.suppress(OSError):
            # We came up: what the links before us could not is forgiven.
            (chain_folder(self.run.home, self.chain["number"]) / STARTS).unlink(missing_ok=True)
        if previous is not None:
            # In our own folder: what the attempt before us still writes is not read any more.
            found = {"ended": previous.ended, "reason": previous.outcome.reason}
            write_json(attempt.dir / "previous.json", found)
        ledger = self.run.ledger(f"attempt-{attempt.number:03d}")
        ledger.write("attempt", number=attempt.number, job_id=job_id_of(os.environ))
        print(f"hpckit: {self.run.id}: attempt {attempt.number}", flush=True)
        outcome = Watch(
            run=self.run,
            spec=self.run.spec(),
            attempt=attempt,
            signals=self.signals,
            started=started,
        ).serve()
        return self._conclude(attempt, self._weighed(outcome, attempt))

    def _claim(self, started: str) -> Attempt:
        environ = os.environ
        return self.run.claim_attempt(
            {
                "job_id": job_id_of(environ),
                "chain": self.chain["number"],
                "task": self.task,
                "node": environ.get("SLURM_JOB_NODELIST", socket.gethostname()),
                "started": started,
                "worker_pid": os.getpid(),
                "log": f"{environ.get('SLURM_ARRAY_JOB_ID')}_{self.task}.log",
            }
        )

    def _weighed(self, outcome: Outcome, attempt: Attempt) -> Outcome:
        """What the program's end means for the run, with all that is known beside it."""
        if outcome.is_doubtful:
            outcome = self._checked(outcome)
        if outcome.reason.startswith(NOT_STARTED) and self._failed_so_before(attempt):
            outcome = dataclasses.replace(outcome, state="failed")
        if outcome.reason == TERMINATED:
            outcome = self._cancelled() or outcome
        return self._out_of_links(outcome)

    def _conclude(self, attempt: Attempt, outcome: Outcome) -> int:
        """The last words: the run's before the attempt's, or who dies between runs it again."""
        print(f"hpckit: {outcome.reason}", flush=True)
        if self.run.attempts()[-1].number != attempt.number:
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
        status, _ = self._status_of(job_id_of(os.environ))
        if status is not None and status.phase is Phase.RUNNING:
            return outcome
        return Outcome(state=None, reason=TERMINATED)

    def _out_of_links(self, outcome: Outcome) -> Outcome:
        """An attempt that would go on, but has no next link to go on in."""
        size = self.chain["size"]
        # Who terminated a last attempt, a person or the cluster, its reader asks the scheduler.
        if outcome.state is not None or outcome.reason == TERMINATED:
            return outcome
        if self.run.point is not None:
            return Outcome(state="stopped", reason=f"{outcome.reason}; a point has one attempt")
        if self.task >= size:
            reason = f"{outcome.reason}; all {size} attempts are used"
            return Outcome(state="stopped", reason=reason)
        return outcome

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
        self._cancel_rest()
        return outcome.exit_code

    def _cancel_rest(self) -> None:
        if self.run.point is None and self.task < self.chain["size"]:
            with contextlib.suppress(Exception):
                # A node without scancel loses nothing: the next link ends in a second.
                array_id = os.environ["SLURM_ARRAY_JOB_ID"]
                self.scheduler.cancel([array_id], pending_only=True)


def _end_time(status: JobStatus | None, attempt: Attempt) -> str:
    if status is not None and status.ended:
        return str(status.ended)
    return iso(attempt.last_sign() or time.time())


def job_id_of(environ: Mapping[str, str]) -> str:
    """The job's id as squeue and sacct print it."""
    array = environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{environ['SLURM_ARRAY_TASK_ID']}" if array else environ["SLURM_JOB_ID"]

"""Inside the allocation, one a job: launches the program, watches it, writes down how it ended.

Slurm starts one link of the array after the other, however the last one ended. A link begins by
reading the ledger: is there anything to do? It imports no torch, and it installs its signal
handlers before anything else: a signal that comes earlier would kill it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit import launch as launching
from hpckit.clock import iso, now_iso, seconds_of
from hpckit.errors import SchedulerSilent
from hpckit.files import read_json, write_atomic, write_json
from hpckit.ledger import final, last
from hpckit.limits import hours_used, unit_name, units
from hpckit.outcome import (
    GO_ON,
    NOT_STARTED,
    TERMINATED,
    Outcome,
    after_a_silent_end,
    judge,
)
from hpckit.rank_script import Layout, Places, render
from hpckit.run import Attempt, Run, open_run
from hpckit.scheduler.base import Phase
from hpckit.snapshot import make_work_folder

if TYPE_CHECKING:
    from hpckit.scheduler.base import JobStatus, Scheduler
    from hpckit.spec import JobSpec

HEARTBEAT_S = 30.0
POLL_S = 0.1
GRACE_S = 60.0


@dataclass(kw_only=True)
class Signals:
    """What has been signalled so far; handlers only take note."""

    time_limit: bool = False
    terminated: bool = False
    seen: list[str] = field(default_factory=list)

    def install(self) -> None:
        signal.signal(signal.SIGUSR2, self._note)
        signal.signal(signal.SIGTERM, self._note)
        # srun and scancel may send it first; its default would be harmless, submitit's is not.
        signal.signal(signal.SIGCONT, signal.SIG_IGN)

    def _note(self, number: int, _frame: object) -> None:
        self.seen.append(signal.Signals(number).name)
        if number == signal.SIGUSR2:
            self.time_limit = True
        else:
            self.terminated = True


def run_links(chain_folder: str) -> None:
    """What every task of the array runs; submitit unpickles it with the chain's path."""
    signals = Signals()
    signals.install()
    chain = read_json(Path(chain_folder) / "chain.json")
    if chain is None:
        raise SystemExit(f"hpckit: {chain_folder} holds no chain: was the run deleted?")
    task = int(os.environ["SLURM_ARRAY_TASK_ID"])
    home = open_run(Path(chain["home"]))
    if home is None:
        raise SystemExit(f"hpckit: {chain['home']} is no run: was it deleted?")
    run = home
    if home.is_sweep:
        point = open_run(home.dir / f"{chain['offset'] + task:03d}")
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
        verdict = self._cancelled() or self._settle_previous()
        if verdict is not None:
            self._finish(verdict)
            return verdict.exit_code
        return self._attempt()

    def _cancelled(self) -> Outcome | None:
        """A person's word: it is written down before anything is cancelled."""
        for ledger in (self.run.ledger(), self.run.home_ledger()):
            if last(ledger.events(), "cancel") is not None:
                return Outcome(state="cancelled", reason="cancelled with hpckit cancel")
        return None

    def _settle_previous(self) -> Outcome | None:
        """What the attempt before this one leaves to be decided, if it could not say so itself."""
        attempts = self.run.attempts()
        if not attempts:
            return None
        previous = attempts[-1]
        ended = previous.ended()
        if ended is not None and ended["reason"] != TERMINATED:
            return None
        status = self._status_of(previous.about().get("job_id"))
        outcome = after_a_silent_end(status)
        when = ended["ended"] if ended else _end_time(status, previous)
        write_json(previous.dir / "ended.json", {"ended": when, "reason": outcome.reason})
        return outcome if outcome.state is not None else None

    def _status_of(self, job_id: str | None) -> JobStatus | None:
        return next((job for job in self._queue() if job.job_id == job_id), None)

    def _queue(self) -> list[JobStatus]:
        try:
            return self.scheduler.queue()
        except SchedulerSilent:
            return []

    def _attempt(self) -> int:
        environ = os.environ
        attempt = self.run.claim_attempt(
            {
                "job_id": job_id_of(environ),
                "chain": self.chain["number"],
                "task": self.task,
                "node": environ.get("SLURM_JOB_NODELIST", socket.gethostname()),
                "started": now_iso(),
                "worker_pid": os.getpid(),
                "log": f"{environ.get('SLURM_ARRAY_JOB_ID')}_{self.task}.log",
            }
        )
        spec = self.run.spec()
        ledger = self.run.ledger(f"attempt-{attempt.number:03d}")
        ledger.write("attempt", number=attempt.number, job_id=job_id_of(environ))
        print(f"hpckit: {self.run.id}: attempt {attempt.number}", flush=True)
        outcome = Watch(run=self.run, spec=spec, attempt=attempt, signals=self.signals).serve()
        if outcome.is_doubtful:
            outcome = self._checked(outcome)
        if outcome.reason.startswith(NOT_STARTED) and self._failed_so_before(attempt):
            outcome = dataclasses.replace(outcome, state="failed")
        if outcome.reason == TERMINATED:
            outcome = self._cancelled() or outcome
        outcome = self._out_of_links(outcome)
        end_attempt(attempt, outcome)
        ledger.write("ended", number=attempt.number, reason=outcome.reason)
        print(f"hpckit: {outcome.reason}", flush=True)
        if outcome.state is not None:
            self._finish(outcome)
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
        status = self._status_of(job_id_of(os.environ))
        if status is not None and status.phase is Phase.RUNNING:
            return outcome
        return Outcome(state=None, reason=TERMINATED)

    def _out_of_links(self, outcome: Outcome) -> Outcome:
        """An attempt that would go on, but has no next link to go on in."""
        size = self.chain["size"]
        if outcome.state is not None or outcome.exit_code != GO_ON:
            return outcome
        if self.run.point is not None:
            return Outcome(state="stopped", reason=f"{outcome.reason}; a point has one attempt")
        if self.task >= size:
            reason = f"{outcome.reason}; all {size} attempts are used"
            return Outcome(state="stopped", reason=reason)
        return outcome

    def _finish(self, outcome: Outcome) -> None:
        """Write the end of the run, then spare the queue the links that are left."""
        self.run.ledger().write("finished", state=outcome.state, reason=outcome.reason)
        self._cancel_rest()

    def _cancel_rest(self) -> None:
        if self.run.point is None and self.task < self.chain["size"]:
            with contextlib.suppress(Exception):
                # A node without scancel loses nothing: the next link ends in a second.
                array_id = os.environ["SLURM_ARRAY_JOB_ID"]
                self.scheduler.cancel([array_id], pending_only=True)


def end_attempt(attempt: Attempt, outcome: Outcome) -> None:
    """The attempt's own last word."""
    about = {"ended": now_iso(), "reason": outcome.reason, "exit_code": outcome.exit_code}
    write_json(attempt.dir / "ended.json", {**about, "program": outcome.program})


def _end_time(status: JobStatus | None, attempt: Attempt) -> str:
    if status is not None and status.ended:
        return str(status.ended)
    return iso(attempt.last_sign() or time.time())


def job_id_of(environ: Mapping[str, str]) -> str:
    """The job's id as squeue and sacct print it."""
    array = environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{environ['SLURM_ARRAY_TASK_ID']}" if array else environ["SLURM_JOB_ID"]


@dataclass(kw_only=True)
class Watch:
    """One attempt: start the program, listen, and judge how it ended."""

    run: Run
    spec: JobSpec
    attempt: Attempt
    signals: Signals
    foreground: bool = False

    def serve(self) -> Outcome:
        spent = self._limit_spent(time.time())
        if spent is not None:
            return Outcome(state="stopped", reason=spent)
        try:
            logs = self._prepare()
        except OSError as error:
            where = error.filename or self.run.dir
            return Outcome(state="failed", reason=f"cannot write {where}: {error.strerror}")
        launch = self._start(logs)
        told = self._wait(launch)
        return judge(
            launching.rank_exits(logs),
            ranks=self._layout().world_size,
            told=told,
            started=(logs / "step").exists(),
            srun_log=_said(logs / "srun.log"),
        )

    def _layout(self) -> Layout:
        return launching.layout_of(self.spec, os.environ)

    def _prepare(self) -> Path:
        """The launch's folder with its scripts, and the working folder if it is the first."""
        logs = self.attempt.dir / "logs" / "launch-1"
        logs.mkdir(parents=True)
        work = self.run.dir / "work"
        make_work_folder(self.run.home, work)
        places = Places(
            run=self.run.dir,
            home=self.run.home,
            work=work,
            logs=logs,
            params=self.attempt.dir / "params.json",
            trainer_starter=self.attempt.dir / "start_trainer.py",
        )
        write_json(places.params, dict(self.spec.params))
        starter = Path(__file__).with_name("start_trainer.py")
        shutil.copyfile(starter, places.trainer_starter)
        known = {"run": self.run.id, "attempt": self.attempt.number, "checkpoint": ""}
        scripts = render(
            self.spec, layout=self._layout(), places=places, known=known, python=sys.executable
        )
        for name, text in scripts.items():
            write_atomic(logs / name, text)
        return logs

    def _start(self, logs: Path) -> launching.Launch:
        on_slurm = os.environ.get("HPCKIT_SCHEDULER") != "local" and "SLURM_JOB_ID" in os.environ
        if self.foreground:
            return launching.in_foreground(self._layout(), logs)
        kind = launching.SlurmStep if on_slurm else launching.LocalProcesses
        return kind(self._layout(), logs)

    def _wait(self, launch: launching.Launch) -> str | None:
        """Wait for the program; tell it to end when something says so, and say what it was."""
        told: str | None = None
        kill_at, beat_at, look_at = float("inf"), 0.0, 0.0
        while not launch.poll():
            now = time.time()
            if now >= beat_at:
                (self.attempt.dir / "heartbeat").touch()
                beat_at = now + HEARTBEAT_S
            if told is None:
                if now >= look_at or self.signals.seen:
                    told, look_at = self._why_end(now), now + 1.0
                if told is not None:
                    print(f"hpckit: {told}: telling the program to save and end", flush=True)
                    launch.signal(signal.SIGTERM)
                    kill_at = now + GRACE_S if told.startswith("limits") else float("inf")
            elif now >= kill_at:
                launch.kill()
            time.sleep(POLL_S)
        if told is None and self.signals.terminated:
            # The ranks heard it first, and had ended before we looked.
            told = TERMINATED
        return told

    def _why_end(self, now: float) -> str | None:
        if self.signals.terminated:
            return TERMINATED
        if self.signals.time_limit:
            return "time limit"
        return self._limit_spent(now)

    def _limit_spent(self, now: float) -> str | None:
        """Which of the run's hard limits is reached, if any."""
        limits = self.spec.limits
        used = hours_used(self.run.attempts(), units(self.spec), alive=self.attempt.number)
        if limits.gpu_hours is not None and used >= limits.gpu_hours:
            return f"limits.gpu_hours: {limits.gpu_hours:g} {unit_name(self.spec)} are used"
        age_s = now - seconds_of(self.run.created)
        if limits.total is not None and age_s >= limits.total:
            return f"limits.total: {age_s / 3600:.1f} h have passed since it was submitted"
        return None


def _said(path: Path) -> str:
    """What srun complained of, in one line."""
    with contextlib.suppress(OSError):
        said = path.read_text(errors="replace").splitlines()
        return "; ".join(line for line in said if "lacks support for cpu binding" not in line)[
            -500:
        ]
    return ""

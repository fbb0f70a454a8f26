"""One attempt: start the program, listen for what would end it, and judge how it ended."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpckit.clock import now_iso, seconds_of
from hpckit.files import read_json, write_atomic, write_json
from hpckit.limits import hours_used, unit_name, units
from hpckit.run import PROGRAM, Attempt, Run
from hpckit.submission.plan import lead_s
from hpckit.submission.snapshot import make_work_folder
from hpckit.worker import launch as launching
from hpckit.worker.log_watch import watched_log
from hpckit.worker.outcome import TERMINATED, Outcome, judge
from hpckit.worker.processes import LocalProcesses, SlurmStep
from hpckit.worker.rank_script import Layout, Places, render

if TYPE_CHECKING:
    from hpckit.spec import JobSpec

HEARTBEAT_S = 30.0
# An attempt starts its program once.
LAUNCH = 1
POLL_S = 0.1
GRACE_S = 60.0
LATE_WORDS_S = 3.0
INSIST_S = 120.0
# With less than a few pages of room a filesystem is full.
ROOM = 64 * 1024
# Slurm may send its signal a minute early; one that comes earlier still, a person has sent.
EARLY_S = 75.0
# A controller that cannot be told is not asked ten times a second.
TELL_AGAIN_S = 2.0


@dataclass(kw_only=True)
class Signals:
    """What has been signalled so far; handlers only take note."""

    time_limit: bool = False
    terminated: bool = False
    # Until then, by time.monotonic(), the program may be ending by itself.
    patient_until: float = 0.0

    def install(self, *ending: int) -> None:
        """Listen; `ending` are further signals that mean the same as SIGTERM."""
        signal.signal(signal.SIGUSR2, self._note)
        for number in (signal.SIGTERM, *ending):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        if number == signal.SIGUSR2:
            self.time_limit = True
        else:
            self.terminated = True


@dataclass(kw_only=True)
class Watch:
    """One attempt: start the program, listen, and judge how it ended."""

    run: Run
    spec: JobSpec
    attempt: Attempt
    signals: Signals
    started: str
    foreground: bool = False

    def serve(self) -> Outcome:
        spent = self._limit_spent(time.time())
        if spent is not None:
            return Outcome(state="stopped", reason=spent)
        try:
            logs = self._prepare()
        except OSError as error:
            where = error.filename or self.run.dir
            what = error.strerror or error
            return Outcome(state="failed", reason=f"cannot write {where}: {what}")
        launch = self._start(logs)
        ranks = self.layout.world_size
        with watched_log(self.run, self.spec, self.attempt, logs, ranks=ranks):
            told = self._wait(launch)
        return judge(
            self._exits(logs),
            ranks=ranks,
            told=told,
            started=(logs / "step").exists(),
            srun_log=_said(logs / "srun.log") or _full(logs),
            stopped=self._stopped(),
        )

    def _stopped(self) -> str | None:
        """Why the training stopped itself, by its own word."""
        for event in reversed(self.run.ledger().events()):
            if event.kind == "stopped" and event.data.get("attempt") == self.attempt.number:
                return str(event.data.get("reason"))
        return None

    @functools.cached_property
    def layout(self) -> Layout:
        """How many processes there are, and where they meet."""
        return launching.layout_of(self.spec, os.environ)

    def _prepare(self) -> Path:
        """The launch's folder with its scripts, and the working folder if it is the first."""
        logs = self.attempt.dir / "logs" / f"launch-{LAUNCH}"
        logs.mkdir(parents=True)
        work = self.run.dir / "work"
        make_work_folder(self.run.home, work)
        about = read_json(self.run.home / "code.json") or {}
        places = Places(
            run=self.run.dir,
            home=self.run.home,
            work=work,
            logs=logs,
            params=self.attempt.dir / "params.json",
            trainer_starter=self.attempt.dir / "start_trainer.py",
            sources=(str(about["source"]),) if about.get("left_out") else (),
        )
        write_json(places.params, dict(self.spec.params))
        starter = Path(__file__).with_name("start_trainer.py")
        shutil.copyfile(starter, places.trainer_starter)
        known = {
            "run": self.run.id,
            "attempt": self.attempt.number,
            "launch": LAUNCH,
            "checkpoint": "",
        }
        scripts = render(
            self.spec, layout=self.layout, places=places, known=known, python=sys.executable
        )
        for name, text in scripts.items():
            write_atomic(logs / name, text)
        return logs

    def _start(self, logs: Path) -> launching.Launch:
        if self.foreground:
            # A terminal's modules are of no use to a batch job.
            from hpckit.scheduler.local_state import Process
            from hpckit.worker.terminal import in_foreground

            launch = in_foreground(self.layout, logs)
            # Should we be killed, whoever asks finds what we leave behind.
            with contextlib.suppress(OSError):
                write_json(self.attempt.dir / PROGRAM, Process.of(launch.pid)._asdict())
            return launch
        on_slurm = launching.inside_slurm(os.environ)
        return (SlurmStep if on_slurm else LocalProcesses)(self.layout, logs)

    def _exits(self, logs: Path) -> list[launching.RankExit]:
        """The ranks' own words; another node's may take a moment on a shared filesystem."""
        until = time.monotonic() + LATE_WORDS_S
        while True:
            found = launching.rank_exits(logs)
            if len(found) >= self.layout.world_size or time.monotonic() > until:
                return found
            time.sleep(POLL_S)

    def _wait(self, launch: launching.Launch) -> str | None:
        """Wait for the program; tell it to end when something says so, and say what it was."""
        told: str | None = None
        sent, tell_at, kill_at, beat_at, look_at = False, 0.0, float("inf"), 0.0, 0.0
        while not launch.poll():
            now = time.time()
            if now >= beat_at:
                # A filesystem that is full or away for a while is no reason to end a training.
                with contextlib.suppress(OSError):
                    (self.attempt.dir / "heartbeat").touch()
                beat_at = now + HEARTBEAT_S
            if told is None:
                told = self._signalled() or (self._limit_spent(now) if now >= look_at else None)
                look_at = max(look_at, now + 1.0) if now >= look_at else look_at
                if told is not None:
                    kill_at = now + self._grace_s(told)
                    room = "" if kill_at == float("inf") else f", in {GRACE_S:.0f} s at most"
                    print(f"hpckit: {told}: telling the program to save and end{room}", flush=True)
            if told is not None and not sent and now >= tell_at:
                sent, tell_at = launch.signal(signal.SIGTERM), now + TELL_AGAIN_S
            if now >= kill_at:
                launch.kill()
            time.sleep(POLL_S)
        # The ranks may have heard it first, and have ended before we looked.
        return told or (TERMINATED if self.signals.terminated else None)

    def _grace_s(self, told: str) -> float:
        """How long the program may take to end; a scheduler that ends a job kills it itself."""
        return GRACE_S if told.startswith("limits") or self.foreground else float("inf")

    def _signalled(self) -> str | None:
        if self.signals.terminated and time.monotonic() >= self.signals.patient_until:
            return TERMINATED
        if self.signals.time_limit and not 0 < self._due - time.time() < EARLY_S:
            return "time limit"
        return None

    @functools.cached_property
    def _due(self) -> float:
        """When the program is to be told of the time limit, by the spec."""
        end = os.environ.get("SLURM_JOB_END_TIME", "")
        limit = seconds_of(self.started) + self.spec.resources.time
        return (float(end) if end.isdecimal() else limit) - lead_s(self.spec)

    @functools.cached_property
    def _hours_before(self) -> float:
        """What the attempts before this one have used; it does not change any more."""
        before = [each for each in self.run.attempts() if each.number != self.attempt.number]
        return hours_used(before, units(self.spec))

    def _limit_spent(self, now: float) -> str | None:
        """Which of the run's hard limits is reached, if any."""
        limits = self.spec.limits
        ours_s = now - seconds_of(self.started)
        used = self._hours_before + ours_s / 3600 * units(self.spec)
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
        worth = [line for line in said if "lacks support for cpu binding" not in line]
        return "; ".join(worth)[-500:]
    return ""


def _full(folder: Path) -> str:
    """Why nobody could write anything, where that is so."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder).free < ROOM:
            return f"no space is left in {folder}"
    return ""


def end_attempt(attempt: Attempt, outcome: Outcome, for_s: float = INSIST_S) -> None:
    """The attempt's own last word."""
    about = {
        "ended": now_iso(),
        "reason": outcome.reason,
        "exit_code": outcome.exit_code,
        "program": outcome.program,
    }
    insist(lambda: write_json(attempt.dir / "ended.json", about), for_s)


def insist(write: Callable[[], None], for_s: float = INSIST_S) -> None:
    """Write what must not be lost, again and again for a while if the filesystem refuses."""
    until = time.monotonic() + for_s
    while True:
        try:
            return write()
        except OSError as error:
            if time.monotonic() > until:
                raise
            print(f"hpckit: {error}: trying again", flush=True)
            time.sleep(5.0)

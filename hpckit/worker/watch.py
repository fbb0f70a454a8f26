"""One attempt: start the program, listen for what would end it, and judge how it ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpckit.clock import now_iso, seconds_of
from hpckit.files import write_atomic, write_json
from hpckit.limits import hours_used, unit_name, units
from hpckit.run import Attempt, Run
from hpckit.submission.snapshot import make_work_folder
from hpckit.worker import launch as launching
from hpckit.worker.outcome import TERMINATED, Outcome, judge
from hpckit.worker.rank_script import Layout, Places, render

if TYPE_CHECKING:
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


def end_attempt(attempt: Attempt, outcome: Outcome) -> None:
    """The attempt's own last word."""
    about = {"ended": now_iso(), "reason": outcome.reason, "exit_code": outcome.exit_code}
    write_json(attempt.dir / "ended.json", {**about, "program": outcome.program})

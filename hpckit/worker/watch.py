"""One launch: start the program, listen for what would end it, and judge how it ended."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpckit.clock import seconds_of
from hpckit.files import write_json
from hpckit.heal.rules import NOT_SAID
from hpckit.ledger import Event
from hpckit.monitor.incident import Incident
from hpckit.requests import END, waiting
from hpckit.run import PROGRAM, Attempt, Run, served_by_another
from hpckit.submission.plan import lead_s
from hpckit.worker import launch as launching
from hpckit.worker.evidence import line_of_srun
from hpckit.worker.log_healing import LogHealing
from hpckit.worker.log_watch import LogWatch, tell, watched_log
from hpckit.worker.outcome import (
    BESIDE,
    DIVERGES,
    HANGS,
    NOT_STARTED,
    SUPERSEDED,
    TERMINATED,
    TIME_LIMIT,
    Outcome,
    judge,
)
from hpckit.worker.processes import LocalProcesses, SlurmStep, end_leftovers
from hpckit.worker.rank_script import Layout
from hpckit.worker.scripts import write_scripts
from hpckit.worker.signals import Signals
from hpckit.worker.spending import Spending
from hpckit.worker.stall import LOG, SLOW_S, Sign, Stall, Stalls, signs_in

if TYPE_CHECKING:
    from hpckit.spec import JobSpec

HEARTBEAT_S = 30.0
POLL_S = 0.1
# How often files are looked at for what may be asked.
LOOK_S = 1.0
GRACE_S = 60.0
# So long the ranks may write down where they hang.
STACKS_S = 10.0
LATE_WORDS_S = 3.0
# With less than a few pages of room a filesystem is full.
ROOM = 64 * 1024
# Slurm may send its signal a minute early; one that comes earlier still, a person has sent.
EARLY_S = 75.0
# A controller that cannot be told is not asked ten times a second.
TELL_AGAIN_S = 2.0


@dataclass(kw_only=True)
class Watch:
    """One start of the program, watched until all of its ranks have ended."""

    run: Run
    spec: JobSpec
    attempt: Attempt
    signals: Signals
    started: str
    number: int = 1
    # What {checkpoint} stands for.
    checkpoint: str = ""
    # A snapshot of the job's folder that is newer than the working folder.
    code: str | None = None
    foreground: bool = False
    # Nodes of the job that turned out bad.
    without: tuple[str, ...] = ()
    # Who acts on what the program's log shows.
    healing: LogHealing | None = None
    # A person's commands: they need the working folder, and are not run where nothing is launched.
    before_launch: Callable[[], None] = lambda: None
    stalls: Stalls = field(init=False)

    def __post_init__(self) -> None:
        self._remedy = self.spec.heal.get("hang", NOT_SAID)
        self.stalls = Stalls(after_s=self._remedy.after)
        self._told_of: int | None = None
        self._spending = Spending(
            run=self.run, spec=self.spec, attempt=self.attempt, started=self.started
        )
        self._log: LogWatch | None = None
        self._signs_at = 0.0

    @property
    def logs(self) -> Path:
        return self.attempt.dir / "logs" / f"launch-{self.number}"

    def serve(self) -> Outcome:
        spent = self._spending.spent(time.time())
        if spent is not None:
            return Outcome(state="stopped", reason=spent)
        try:
            logs = write_scripts(
                self.run,
                self.spec,
                self.attempt,
                self.number,
                layout=self.layout,
                checkpoint=self.checkpoint,
                code=self.code,
            )
        except OSError as error:
            where = error.filename or self.run.dir
            what = error.strerror or error
            return Outcome(state=None, reason=f"{NOT_STARTED}: cannot write {where}: {what}")
        self.before_launch()
        launch = self._start(logs)
        ranks = self.layout.world_size
        with watched_log(
            self.run, self.spec, self.attempt, logs, ranks=ranks, healing=self.healing
        ) as self._log:
            told = self._wait(launch)
        last, exits = self._last_word(), self._exits(logs)
        stops = last is not None and last.kind == "stopped"
        diverges = self._log is not None and self._log.wants_an_end
        if diverges and (told is None or (stops and told in BESIDE)):
            # It came to its end before anybody could end it; what it ended with is of no use.
            told = DIVERGES
        if served_by_another(self.run.dir, self.attempt.number, self.number):
            # However it came to its end. A program that does not look for itself may live on where
            # Slurm has given up the node.
            told = SUPERSEDED
            end_leftovers(self.run.dir, self.attempt.number, self.number)
        # As far as they have come, and not as far as was seen a second before.
        self.stalls.look(time.monotonic(), self._signs())
        return judge(
            exits,
            ranks=ranks,
            told=told,
            started=(logs / "step").exists(),
            srun_log=_said(logs / "srun.log") or _full(logs),
            stopped=str(last.data.get("reason")) if last and last.kind == "stopped" else None,
            asked=last.data.get("plan") if last and last.kind != "stopped" else None,
        )

    def _last_word(self) -> Event | None:
        """What the training of this launch wrote down last of what was decided."""
        for event in reversed(self.run.ledger().events()):
            mine = event.data.get("attempt"), event.data.get("launch", self.number)
            if mine == (self.attempt.number, self.number) and (
                event.kind == "stopped"
                or (event.kind in ("incident", "restart") and event.data.get("plan"))
            ):
                return event
        return None

    @functools.cached_property
    def layout(self) -> Layout:
        """How many processes there are, and where they meet."""
        return launching.layout_of(self.spec, os.environ, self.number, self.without)

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
                beat_at = now + HEARTBEAT_S
                try:
                    (self.attempt.dir / "heartbeat").touch()
                except OSError:
                    # A filesystem that is full or away for a while is no reason to end a training:
                    # nor can the ranks write how far they are.
                    self._signs_at = beat_at
            if told is None:
                told = self._signalled()
                if told is None and now >= look_at:
                    look_at = now + LOOK_S
                    # What cannot be read just now says nothing.
                    with contextlib.suppress(OSError):
                        told = self._found(now)
                if told is not None:
                    grace_s = self._grace_s(told)
                    kill_at = now + grace_s
                    print(f"hpckit: {told}: {_doing(told, grace_s)}", flush=True)
            if told is not None and not sent and now >= tell_at and now < kill_at:
                number = signal.SIGABRT if told.startswith(HANGS) else signal.SIGTERM
                sent, tell_at = launch.signal(number), now + TELL_AGAIN_S
            if now >= kill_at:
                launch.kill()
            time.sleep(POLL_S)
        # The ranks may have heard it first, and have ended before we looked.
        return told or (TERMINATED if self.signals.terminated else None)

    def _grace_s(self, told: str) -> float:
        """How long the program may take to end; a scheduler that ends a job kills it itself."""
        if told in (SUPERSEDED, DIVERGES):
            # What it would save now is of no use, and may take a good one's place.
            return 0.0
        if told.startswith(HANGS):
            return STACKS_S
        if told.startswith("limits") or self.foreground:
            return GRACE_S
        # A person's wish sets no time, and what hangs would never save.
        return float("inf") if told in (TERMINATED, TIME_LIMIT) else SLOW_S

    def _signalled(self) -> str | None:
        if self.signals.terminated and time.monotonic() >= self.signals.patient_until:
            return TERMINATED
        if self.signals.time_limit and not 0 < self._due - time.time() < EARLY_S:
            return TIME_LIMIT
        return None

    def _found(self, now: float) -> str | None:
        """What files and limits say of why the launch must end."""
        spent = self._spending.spent(now)
        if spent is not None or self.foreground:
            return spent
        if self._log is not None and self._log.wants_an_end:
            return DIVERGES
        if served_by_another(self.run.dir, self.attempt.number, self.number):
            return SUPERSEDED
        if (asked := waiting(self.run.dir, END, self._job)) is not None:
            return asked
        if now < self._signs_at:
            return None
        self._signs_at = now + self.stalls.every_s
        stall = self.stalls.look(time.monotonic(), self._signs())
        if stall is None:
            return None
        if self._remedy.do == "tell":
            self._tell(stall)
            return None
        return f"{HANGS}: {stall}"

    def _tell(self, stall: Stall) -> None:
        """Write down a hang that nothing is done about, once where it stands."""
        if stall.step == self._told_of:
            return
        incident = Incident(kind="hang", step=stall.step, answer="tell", said=f"{HANGS}: {stall}")
        self.run.ledger(f"attempt-{self.attempt.number:03d}").write(
            "incident",
            attempt=self.attempt.number,
            launch=self.number,
            incident=incident.to_json(),
        )
        self._told_of = stall.step
        tell(str(incident))

    @functools.cached_property
    def _job(self) -> str:
        return str(self.attempt.about().get("job_id"))

    def _signs(self) -> dict[int, Sign]:
        """Where the ranks stand: by their own word, or by what one of them prints."""
        found = signs_in(self.logs, self.layout.world_size)
        step = self._log.step if self._log is not None and not found else None
        return {0: Sign(step=step, phase=LOG)} if step is not None else found

    @functools.cached_property
    def _due(self) -> float:
        """When the program is to be told of the time limit, by the spec."""
        end = os.environ.get("SLURM_JOB_END_TIME", "")
        limit = seconds_of(self.started) + self.spec.resources.time
        return (float(end) if end.isdecimal() else limit) - lead_s(self.spec)


def _doing(told: str, grace_s: float) -> str:
    if told in (SUPERSEDED, DIVERGES):
        return "ending the program"
    if told.startswith(HANGS):
        return "asking all ranks where they are, and ending them"
    room = "" if grace_s == float("inf") else f", in {grace_s:.0f} s at most"
    return f"telling the program to save and end{room}"


def _said(path: Path) -> str:
    """What srun complained of, in one line."""
    with contextlib.suppress(OSError):
        return line_of_srun(path.read_text(errors="replace"))
    return ""


def _full(folder: Path) -> str:
    """Why nobody could write anything, where that is so."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder).free < ROOM:
            return f"no space is left in {folder}"
    return ""

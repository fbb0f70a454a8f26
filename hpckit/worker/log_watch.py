"""What the program prints, watched while it runs: readings on disk, incidents told.

It works on a thread of its own, and whatever goes wrong in it is told once and ends neither the
training nor the wait for it. Where the program keeps checkpoints that one can go back to, it asks
what is to be done, and the worker does it; elsewhere it only tells.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hpckit.ledger import Ledger
from hpckit.monitor.episodes import Episodes

if TYPE_CHECKING:
    from hpckit.monitor.incident import Incident
    from hpckit.monitor.reading import Reading
    from hpckit.monitor.readings.sink import Sink
    from hpckit.run import Attempt, Run
    from hpckit.spec import JobSpec
    from hpckit.worker.log_healing import LogHealing

LOOK_S = 0.5
# What is left of a log when the program has ended is read within this time.
LAST_LOOK_S = 20.0
# Troubles of so many kinds are told, each once.
MOST_TOLD = 20


class Follows(Protocol):
    """Where the readings come from."""

    def poll(self) -> list[Reading]:
        """What is complete by now."""

    def rest(self) -> list[Reading]:
        """All that is left, when nothing more is written."""

    def close(self) -> None: ...


class Judges(Protocol):
    """Who says what is wrong."""

    def observe(self, reading: Reading) -> list[Incident]:
        """Take in one step."""


def tell(text: str) -> None:
    # A full disk under our own log is no reason to stop watching.
    with contextlib.suppress(OSError):
        print(f"hpckit: {text}", flush=True)


@dataclass(kw_only=True)
class LogWatch:
    """Follows one rank's log, on a thread, until it is told to finish."""

    follower: Follows
    lookout: Judges
    sinks: Sequence[Sink]
    ledger: Ledger
    attempt: int
    launch: int = 1
    _over: threading.Event = field(default_factory=threading.Event)
    _told: set[str] = field(default_factory=set)
    _episodes: Episodes = field(default_factory=Episodes)
    _readings: int = 0
    # Who acts on incidents; without one they are told.
    healing: LogHealing | None = None
    # Where the program stands by what it prints.
    step: int | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self.run, name="log watch", daemon=True)
        self._thread.start()

    def finish(self, within_s: float = LAST_LOOK_S) -> None:
        """Have the rest read; a watch that is stuck is left behind."""
        self._over.set()
        self._thread.join(within_s)
        if self._thread.is_alive():
            tell(f"the end of the log was not read within {within_s:g} s")

    def run(self) -> None:
        while not self._over.wait(LOOK_S):
            self.look()
        self.look(last=True)
        if not self._readings:
            tell(
                "monitor.log: no line of the log matched, so nothing was watched; "
                "try patterns with hpckit check --log"
            )
        for close in (self.follower.close, *(sink.close for sink in self.sinks)):
            with self._guarded():
                close()

    def look(self, *, last: bool = False) -> None:
        """Take in what the program has printed since the last look."""
        with self._guarded():
            for reading in self.follower.rest() if last else self.follower.poll():
                self._take(reading)

    def _take(self, reading: Reading) -> None:
        self._readings += 1
        self.step = reading.step
        if self.healing is not None:
            self.healing.note(reading, time.time())
        for sink in self.sinks:
            with self._guarded():
                sink.write(reading)
        with self._guarded():
            for incident in self.lookout.observe(reading):
                self._report(incident)

    @property
    def wants_an_end(self) -> bool:
        """Whether the program is to be ended, and started again from before the trouble."""
        return self.healing is not None and self.healing.plan is not None

    def _report(self, incident: Incident) -> None:
        if self.healing is not None and not self.wants_an_end and self.healing.answer(incident):
            tell(f"{incident}; {self.healing.plan}")
            return
        if not self._episodes.is_more(incident):
            tell(str(incident))
            with self._guarded():
                where = {"attempt": self.attempt, "launch": self.launch}
                self.ledger.write("incident", **where, incident=incident.to_json())
        for sink in self.sinks:
            with self._guarded():
                sink.incident(incident)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            said = f"watching the log: {type(error).__name__}: {error}"
            if said not in self._told and len(self._told) < MOST_TOLD:
                self._told.add(said)
                tell(said)


@contextlib.contextmanager
def watched_log(
    run: Run,
    spec: JobSpec,
    attempt: Attempt,
    logs: Path,
    *,
    ranks: int,
    healing: LogHealing | None = None,
) -> Iterator[LogWatch | None]:
    """Watch the log of a launch while the program runs, where the spec asks for it."""
    watch = None
    if spec.monitor.log is not None:
        try:
            watch = _watch_of(run, spec, attempt, logs, ranks)
            watch.healing = healing
            watch.start()
        except Exception as error:
            watch = None
            tell(f"the log is not watched: {type(error).__name__}: {error}")
    try:
        yield watch
    finally:
        if watch is not None:
            watch.finish()


def _watch_of(run: Run, spec: JobSpec, attempt: Attempt, logs: Path, ranks: int) -> LogWatch:
    # A worker that watches nothing is up without these.
    from hpckit.monitor.log import Follower, LogReader, patterns_of
    from hpckit.monitor.lookout import Lookout
    from hpckit.monitor.readings.tensorboard import TensorBoardSink
    from hpckit.monitor.readings.writer import ReadingsWriter

    assert spec.monitor.log is not None
    patterns = patterns_of(spec.monitor.log.name or spec.monitor.log.patterns)
    rank = ranks - 1 if patterns.last_rank else 0
    reader = LogReader(patterns, tell=tell)
    return LogWatch(
        follower=Follower(logs / f"rank-{rank}.log", reader),
        lookout=Lookout.of(spec.monitor, run.dir / "work"),
        # One folder of events for all attempts: TensorBoard then shows one curve.
        sinks=(
            ReadingsWriter(attempt.dir / "readings" / logs.name),
            TensorBoardSink(run.dir / "tensorboard"),
        ),
        # Not the worker's own file: one has one writer.
        ledger=run.ledger(f"attempt-{attempt.number:03d}-log"),
        attempt=attempt.number,
        launch=int(logs.name.removeprefix("launch-")),
    )

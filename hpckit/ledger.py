"""The append-only history of a run: one file a process that writes, merged on read.

No locks and no shared appends, so that it holds on any shared filesystem. An event carries
its time, its writer and what happened; a torn last line is passed over, and so is one that makes
no sense.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpckit.clock import now_iso
from hpckit.files import append_line, read_lines

# The restart that the same writer wrote before was refused: nobody is to act on it.
TAKEN_BACK = "taken_back"
# Whole numbers, wherever they stand: a line that says otherwise makes no sense.
COUNTS = ("number", "attempt", "launch", "rollbacks", "step", "from_step", "chain", "serial")
FINAL_STATES = ("done", "stopped", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of a ledger."""

    time: str
    writer: str
    kind: str
    data: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """Reads all writers' files of a folder, writes only its own."""

    def __init__(self, folder: Path, writer: str | None = None) -> None:
        self.folder = folder
        self._writer = writer

    @property
    def writer(self) -> str:
        """A name that no other process has."""
        if self._writer is None:
            self._writer = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        return self._writer

    def write(self, kind: str, **data: Any) -> None:
        """Append an event; it is on disk when this returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = {"time": now_iso(), "kind": kind, **data}
        append_line(self.folder / f"{self.writer}.jsonl", line)

    def events(self) -> list[Event]:
        """Every event of every writer that stands, in order of time."""
        found = [event for events in self.by_writer().values() for event in _standing(events)]
        found.sort(key=lambda event: event.time)
        return found

    def by_writer(self) -> dict[str, list[Event]]:
        """Each writer's events, in the order in which it wrote them."""
        try:
            paths = sorted(self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {
            path.stem: [_event(path.stem, line) for line in read_lines(path) if _makes_sense(line)]
            for path in paths
            if path.suffix == ".jsonl"
        }


def _standing(events: list[Event]) -> list[Event]:
    """One writer's events without a restart that it took back."""
    if last(events, TAKEN_BACK) is None:
        return events
    return [event for event in events if not is_by_hand(event)]


def _makes_sense(line: dict[str, Any]) -> bool:
    return all(isinstance(line.get(key, 0), int) for key in COUNTS)


def _event(writer: str, line: dict[str, Any]) -> Event:
    rest = {key: value for key, value in line.items() if key not in ("time", "kind")}
    return Event(
        time=str(line.get("time", "")), writer=writer, kind=str(line.get("kind", "")), data=rest
    )


def last(events: list[Event], kind: str) -> Event | None:
    """The newest event of a kind."""
    return next((event for event in reversed(events) if event.kind == kind), None)


def submission_of(events: list[Event]) -> Event | None:
    """The newest submission: each says which one it is, whatever the clocks say."""
    found = [event for event in events if event.kind == "submit"]
    return max(found, key=lambda event: (event.data.get("serial", 0), event.time), default=None)


def is_cancelled(events: list[Event]) -> bool:
    """Whether a person's cancel stands: one who starts the run again takes it back."""
    said = [event for event in events if event.kind == "cancel" or is_by_hand(event)]
    newest = max(said, key=lambda event: event.time, default=None)
    return newest is not None and newest.kind == "cancel"


def is_by_hand(event: Event) -> bool:
    """Whether a person has started the run again."""
    return event.kind == "restart" and bool(event.data.get("by_hand"))


def final(events: list[Event]) -> Event | None:
    """The end of a run: the first one that was written of its newest submission.

    An attempt's word counts until the next one has begun: on a node that was given up for lost, a
    worker may live on and end a run that another serves by now. What a worker wrote says which
    submission it ends by its chain: the clocks of the machines need not agree.
    """
    numbers = [int(event.data.get("number", 0)) for event in events if event.kind == "attempt"]
    newest = max(numbers, default=0)
    submission = submission_of(events)
    for event in events:
        if (
            event.kind == "finished"
            and int(event.data.get("attempt", newest)) >= newest
            and (submission is None or _ends(event, submission))
        ):
            return event
    return None


def _ends(event: Event, submission: Event) -> bool:
    chain = event.data.get("chain")
    if chain is None:
        return event.time >= submission.time
    return chain in submission.data.get("chains", ())

"""What a training says: lines for a person, events for the ledger; rank 0 speaks for all."""

from __future__ import annotations

import time
from typing import Any

from hpckit.checkpoint.names import Segment
from hpckit.ledger import Ledger
from hpckit.monitor.episodes import Episodes
from hpckit.monitor.incident import Incident
from hpckit.monitor.readings.background import tell
from hpckit.train.progress import Progress

# What could not be written is tried again so often.
AGAIN_S = 2.0


class Teller:
    """Says each thing once, in the log and in the ledger."""

    def __init__(self, ledger: Ledger | None, *, speaks: bool, progress: Progress) -> None:
        self.ledger = ledger
        self.speaks = speaks
        self.progress = progress
        self._episodes = Episodes()
        self._once: set[str] = set()
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        self._tried_at = 0.0

    def say(self, text: str) -> None:
        if self.speaks:
            self.progress.line(f"hpckit: {text}")

    def say_of_rank(self, rank: int, text: str) -> None:
        """Trouble of any rank: rank 0 may not know of it."""
        if self.speaks:
            self.say(text)
        else:
            tell(f"rank {rank}: {text}")

    def once(self, text: str) -> None:
        if text not in self._once:
            self._once.add(text)
            self.say(text)

    def write(self, kind: str, **data: Any) -> None:
        """An event; what a disk refuses is told, stops nobody, and is written later."""
        if self.ledger is None or not self.speaks:
            return
        self._waiting.append((kind, data))
        self.write_waiting(at_once=True)

    def write_waiting(self, *, at_once: bool = False) -> None:
        """In order: what comes later may build on what came before."""
        now = time.monotonic()
        if not self._waiting or self.ledger is None:
            return
        if not at_once and now - self._tried_at < AGAIN_S:
            return
        self._tried_at = now
        try:
            while self._waiting:
                kind, data = self._waiting[0]
                self.ledger.write(kind, **data)
                self._waiting.pop(0)
        except OSError as error:
            self.once(f"the ledger could not be written: {error.strerror or error}")

    def incident(self, incident: Incident, segment: Segment, **more: Any) -> None:
        if self._episodes.is_more(incident):
            return
        self.say(str(incident))
        where = {"attempt": segment.attempt, "launch": segment.launch}
        self.write("incident", **where, incident=incident.to_json(), **more)

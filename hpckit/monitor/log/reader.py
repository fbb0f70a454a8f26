"""What a program prints, read as readings."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from hpckit.monitor.log.groups import Found, found_in
from hpckit.monitor.log.lines import Lines
from hpckit.monitor.log.matching import matcher
from hpckit.monitor.log.patterns import Patterns
from hpckit.monitor.log.steps import Steps
from hpckit.monitor.reading import Reading

# After so long without a word nothing more is said about a step.
QUIET_S = 10.0


def _to_stderr(text: str) -> None:
    print(f"hpckit: {text}", file=sys.stderr, flush=True)


class LogReader:
    """Takes a log's bytes in any pieces, gives each reading when its step is over.

    The log is one rank's: a step is a number of the whole training, and what the other ranks
    print of it would make it twice.
    """

    def __init__(
        self,
        patterns: Patterns,
        *,
        clock: Callable[[], float] = time.time,
        quiet_s: float = QUIET_S,
        tell: Callable[[str], None] = _to_stderr,
    ) -> None:
        self._lines = Lines()
        self._steps = Steps()
        self._matcher = matcher(patterns, tell)
        self._redrawn = patterns.redrawn
        self._clock = clock
        self._quiet_s = quiet_s
        self._heard = clock()
        # A bar goes on showing what a validation found; only what is new is a finding.
        self._shown: dict[str, float] = {}

    def feed(self, data: bytes) -> list[Reading]:
        """The readings that this piece of the log completes; fed with nothing, after a quiet
        time, the one that waits."""
        now = self._clock()
        found = list(self._readings(self._lines.take(data), now)) if data else []
        if data:
            self._heard = now
        elif now - self._heard >= self._quiet_s and self._steps.is_open():
            found += self._closed()
        return found

    def end_line(self) -> list[Reading]:
        """What stands half in a log whose rest will not come."""
        return list(self._readings(self._lines.rest(), self._clock()))

    def flush(self) -> list[Reading]:
        """All that is left: nothing more is to come."""
        return self.end_line() + self._closed()

    def close(self) -> None:
        self._matcher.close()

    def _closed(self) -> list[Reading]:
        reading = self._steps.close()
        return [] if reading is None else [reading]

    def _readings(self, lines: list[str], now: float) -> Iterator[Reading]:
        for matches in self._matcher.match(lines):
            found = found_in(matches) if matches else None
            if found is None:
                continue
            reading = self._steps.take(self._new(found) if self._redrawn else found, now)
            if reading is not None:
                yield reading

    def _new(self, found: Found) -> Found:
        values = {
            name: value
            for name, value in found.values.items()
            if not name.startswith("val/") or self._shown.get(name) != value
        }
        self._shown |= {name: v for name, v in values.items() if name.startswith("val/")}
        return Found(position=found.position, values=values, parameters=found.parameters)

    def state_dict(self) -> dict[str, Any]:
        return {
            "lines": self._lines.state_dict(),
            "steps": self._steps.state_dict(),
            "shown": dict(self._shown),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._lines.load_state_dict(state["lines"])
        self._steps.load_state_dict(state["steps"])
        self._shown = dict(state["shown"])

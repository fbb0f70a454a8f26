"""A log of long ago, read as if it were watched: do the patterns find what they should?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.monitor.incident import Incident, number
from hpckit.monitor.log.patterns import patterns_of
from hpckit.monitor.log.reader import LogReader
from hpckit.monitor.lookout import Lookout

if TYPE_CHECKING:
    from hpckit.monitor.reading import Reading
    from hpckit.spec.parts import Monitor

CHUNK = 1 << 16
# More incidents than these are counted and not printed.
SHOWN = 20


@dataclass(kw_only=True, slots=True)
class Span:
    """One kind of number: how often it came, and how it began and ended."""

    count: int = 0
    first: float = 0.0
    last: float = 0.0

    def add(self, value: float) -> None:
        if self.count == 0:
            self.first = value
        self.last = value
        self.count += 1


@dataclass(kw_only=True)
class Tryout:
    """What was found in a log."""

    readings: int = 0
    first_step: int | None = None
    last_step: int | None = None
    values: dict[str, Span] = field(default_factory=dict)
    incidents: list[Incident] = field(default_factory=list)

    def add(self, reading: Reading) -> None:
        self.readings += 1
        self.first_step = reading.step if self.first_step is None else self.first_step
        self.last_step = reading.step
        for name, value in reading.values.items():
            self.values.setdefault(name, Span()).add(value)

    def to_json(self) -> dict[str, Any]:
        spans = {
            name: {"count": span.count, "first": str(span.first), "last": str(span.last)}
            for name, span in self.values.items()
        }
        return {
            "readings": self.readings,
            "first_step": self.first_step,
            "last_step": self.last_step,
            "values": spans,
            "incidents": [{"kind": i.kind, "acts": i.acts, "said": str(i)} for i in self.incidents],
        }

    def lines(self) -> list[str]:
        if not self.readings:
            return ["no reading: no line of it matches the patterns of monitor.log"]
        found = [f"{self.readings:,} readings, steps {self.first_step:,} to {self.last_step:,}"]
        width = max(map(len, self.values))
        for name, span in sorted(self.values.items()):
            ends = f"{number(span.first)} to {number(span.last)}"
            found.append(f"  {name:{width}}  {span.count:,} time{'s' * (span.count != 1)}, {ends}")
        found.append(f"incidents that would have been told: {len(self.incidents)}")
        found += [f"  {each.answer}  {each}" for each in self.incidents[:SHOWN]]
        if len(self.incidents) > SHOWN:
            found.append(f"  and {len(self.incidents) - SHOWN} more")
        return found


def try_log(monitor: Monitor, path: Path, folder: Path) -> Tryout:
    """Read a whole log; a user's own rules are found in `folder`."""
    assert monitor.log is not None
    reader = LogReader(patterns_of(monitor.log.name or monitor.log.patterns))
    lookout, found = Lookout.of(monitor, folder), Tryout()

    def take(readings: list[Reading]) -> None:
        for reading in readings:
            found.add(reading)
            found.incidents += lookout.observe(reading)

    try:
        with open(path, "rb") as stream:
            while data := stream.read(CHUNK):
                take(reader.feed(data))
        take(reader.flush())
    finally:
        reader.close()
    return found

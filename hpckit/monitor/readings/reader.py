"""Reading readings back: one curve, whatever was thinned, rolled back or begun again.

    for reading in merged([attempt / "readings" for attempt in attempts]):
        print(reading.step, reading.get("train/loss"))

Where a run went back to an earlier step, in one folder or with the next, the rows that come later
count from that step on; the branch that was left stays out.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.rows import STEP, decode, decode_incident, step_of, whole_lines
from hpckit.monitor.readings.segments import in_order

# How often a writer may replace files under a reader between two readings; it takes it minutes.
RETRIES = 20
TAIL = 65_536
# What a file that was replaced answers, here and on another node.
REPLACED = (errno.ENOENT, errno.ESTALE)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A file as it was at the first look, so that all are read as of one moment."""

    path: Path
    size: int
    # Its lowest step; infinite where it has none.
    low: float


def read_readings(folder: Path) -> Iterator[Reading]:
    """The readings of a folder in order of step, also while it is being written."""
    return merged([folder])


def merged(folders: Iterable[Path]) -> Iterator[Reading]:
    """The readings of several folders, one after the other in time, as one curve."""
    folders, last, retries = list(folders), -1, 0
    while True:
        try:
            for reading in _pass(folders, last):
                yield reading
                last, retries = reading.step, 0
            return
        except OSError as error:
            retries += 1
            if error.errno not in REPLACED or retries > RETRIES:
                raise


def read_incidents(folder: Path) -> list[Incident]:
    """Every incident of a folder as it came, also those of a branch that was left."""
    found = (decode_incident(line) for part in _parts(folder) for line in _lines(part))
    return [each for each in found if each is not None]


def first_step(folder: Path) -> int | None:
    """The step of the first whole row; only the beginning of the oldest files is read."""
    for segment in in_order(folder):
        with open(folder / segment.file, "rb") as stream:
            steps = (step_of(line) for line in whole_lines(stream.read(TAIL)))
            if (step := next((each for each in steps if each is not None), None)) is not None:
                return step
    return None


def last_step(folder: Path) -> int | None:
    """The step of the last whole row; only the end of the newest file is read."""
    for segment in reversed(in_order(folder)):
        step = _last_step_in(folder / segment.file)
        if step is not None:
            return step
    return None


def last_readings(folder: Path) -> list[Reading]:
    """The newest ones, as many as the end of the newest file holds."""
    for segment in reversed(in_order(folder)):
        with open(folder / segment.file, "rb") as stream:
            end = stream.seek(0, 2)
            begin = max(0, end - TAIL)
            stream.seek(begin)
            lines = whole_lines(stream.read(end - begin))[begin > 0 :]
        found = [each for line in lines if (each := decode(line)) is not None]
        if found:
            return found
    return []


def _pass(folders: list[Path], last: int) -> Iterator[Reading]:
    """All readings after a step, by what the files hold now."""
    parts = [part for folder in folders for part in _parts(folder)]
    limits, limit = [], math.inf
    for part in reversed(parts):
        limits.append(limit)
        limit = min(limit, part.low)
    for part, limit in zip(parts, reversed(limits), strict=True):
        for lines in _valid(_lines(part), limit):
            reading = _joined(lines)
            if reading is not None and reading.step > last:
                yield reading


def _parts(folder: Path) -> Iterator[_Part]:
    for segment in in_order(folder):
        path = folder / segment.file
        data = path.read_bytes()
        steps = (step_of(line) for line in whole_lines(data) if STEP.match(line))
        low = min((step for step in steps if step is not None), default=math.inf)
        yield _Part(path=path, size=len(data), low=low)


def _lines(part: _Part) -> list[bytes]:
    with open(part.path, "rb") as stream:
        return whole_lines(stream.read(part.size))


def _valid(lines: list[bytes], limit: float) -> Iterator[list[bytes]]:
    """The rows whose step is below all that come later; those of one step together."""
    found: list[list[bytes]] = []
    after: float | None = None
    for line in reversed(lines):
        step = step_of(line)
        if step is None:
            continue
        if step < limit:
            found.append([line])
            limit = step
        elif found and step == limit == after:
            found[-1].append(line)
        after = step
    return (rows[::-1] for rows in reversed(found))


def _joined(lines: list[bytes]) -> Reading | None:
    readings = [each for each in map(decode, lines) if each is not None]
    if len(readings) < 2:
        return readings[0] if readings else None
    return Reading(
        step=readings[0].step,
        time=readings[-1].time,
        values={name: value for each in readings for name, value in each.values.items()},
        parameters={name: norms for each in readings for name, norms in each.parameters.items()},
    )


def _last_step_in(path: Path) -> int | None:
    size = TAIL
    with open(path, "rb") as stream:
        end = stream.seek(0, 2)
        while True:
            begin = max(0, end - size)
            stream.seek(begin)
            lines = whole_lines(stream.read(end - begin))
            # The first may have begun before.
            for line in reversed(lines[begin > 0 :]):
                step = step_of(line)
                if step is not None:
                    return step
            if begin == 0:
                return None
            size *= 4

"""All readings of a run as columns, also those of branches that were left.

    columns = read_columns([attempt / "readings/launch-1", ...])
    steps, values = columns.counting("train/loss")

`merged` gives the one curve that counts. A picture of what happened needs the others, too: the
explosion is on the branch that a rollback gave up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpckit.monitor.readings.reader import REPLACED, RETRIES
from hpckit.monitor.readings.rows import PARAMETERS, STEP, decode, whole_lines
from hpckit.monitor.readings.segments import in_order

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
# A segment is decoded in parts, so that a damaged line costs its neighbours nothing but time.
LINES = 256
# What a damaged line may say beyond that is no step.
MOST_STEPS = 1 << 60


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """One row a reading, in the order in which they came."""

    step: Ints
    # Seconds since the epoch, NaN where nobody looked at a clock.
    time: Floats
    # The folder that it stands in, by its place in the list.
    folder: Ints
    # A trail ends where the run goes back; `counts` says which rows no later trail replaced.
    trail: Ints
    counts: Bools
    # By name: the rows that have it, and its values there.
    values: Mapping[str, tuple[Ints, Floats]]
    # The rows that have the norms of parameters, by optimizer.
    parameters: tuple[tuple[int, Mapping[str, Mapping[str, float]]], ...]

    def counting(self, name: str) -> tuple[Ints, Floats]:
        """Steps and values of the one curve that counts."""
        rows, values = self.values[name]
        stays = self.counts[rows]
        return self.step[rows[stays]], values[stays]

    def left(self, name: str) -> Iterator[tuple[Ints, Floats]]:
        """Each branch that was left, from the last reading that still counts on."""
        rows, values = self.values[name]
        trails, stays = self.trail[rows], self.counts[rows]
        for trail in np.unique(trails[~stays]):
            here = np.flatnonzero((trails == trail) & ~stays)
            first = here[0]
            if first and trails[first - 1] == trail:
                here = np.concatenate(([first - 1], here))
            yield self.step[rows[here]], values[here]


def read_columns(folders: Iterable[Path]) -> Columns:
    """The readings of several folders, one after the other in time."""
    table = _Table()
    for number, folder in enumerate(folders):
        for data in _segments(folder):
            table.add(number, whole_lines(data))
        table.end_folder()
    return table.columns()


def _segments(folder: Path) -> list[bytes]:
    """What its files hold; anew where the writer has replaced some meanwhile."""
    for left in reversed(range(RETRIES)):
        try:
            return [(folder / segment.file).read_bytes() for segment in in_order(folder)]
        except OSError as error:
            if error.errno not in REPLACED or not left:
                raise
    return []


class _Table:
    """Collects rows; those with the same names are turned into arrays together."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._times: list[float] = []
        self._folders: list[int] = []
        self._last: int | None = None
        self._parts: dict[str, list[tuple[Ints, Floats]]] = {}
        self._parameters: list[tuple[int, dict[str, dict[str, float]]]] = []

    def end_folder(self) -> None:
        """What another process wrote is no second part of the same reading."""
        self._last = None

    def add(self, folder: int, lines: list[bytes]) -> None:
        groups: dict[tuple[str, ...], tuple[list[int], list[tuple[Any, ...]]]] = {}
        for row in _rows(lines):
            if row is None or row["step"] > MOST_STEPS:
                self._last = None
                continue
            at = self._row(folder, row)
            found = groups.setdefault(tuple(row), ([], []))
            found[0].append(at)
            found[1].append(tuple(row.values()))
        for names, (rows, values) in groups.items():
            index, numbers = np.array(rows), _numbers(values)
            for place, name in enumerate(names):
                self._parts.setdefault(name, []).append((index, numbers[:, place]))

    def _row(self, folder: int, row: dict[str, Any]) -> int:
        """The place of a reading; two in succession of one step are one in two parts."""
        step, time = row.pop("step"), row.pop("time", None)
        if step != self._last:
            self._steps.append(step)
            self._times.append(np.nan)
            self._folders.append(folder)
        self._last = step
        at = len(self._steps) - 1
        if isinstance(time, (int, float)):
            self._times[at] = time
        parameters = row.pop(PARAMETERS, None)
        if isinstance(parameters, dict):
            self._parameters.append((at, _norms(parameters)))
        return at

    def columns(self) -> Columns:
        step = np.array(self._steps, dtype=np.int64)
        return Columns(
            step=step,
            time=np.array(self._times, dtype=np.float64),
            folder=np.array(self._folders, dtype=np.int64),
            trail=np.concatenate(([0], np.cumsum(step[1:] <= step[:-1])))[: len(step)],
            counts=step < _lowest_after(step),
            values={name: _joined(parts) for name, parts in self._parts.items()},
            parameters=tuple(self._parameters),
        )


def _rows(lines: list[bytes]) -> Iterator[dict[str, Any] | None]:
    """The reading of each line as a mapping; None of a line that is none."""
    for begin in range(0, len(lines), LINES):
        part = lines[begin : begin + LINES]
        plain = [line for line in part if STEP.match(line)]
        try:
            found = json.loads(b"[" + b",".join(plain) + b"]")
        except ValueError:
            found = []
        if len(plain) == len(part) == len(found):
            yield from found
        else:
            yield from map(_row_of, part)


def _row_of(line: bytes) -> dict[str, Any] | None:
    if (reading := decode(line)) is None:
        return None
    # What is no whole number is no step of ours.
    if type(reading.step) is not int:
        return None
    parameters = {PARAMETERS: reading.parameters} if reading.parameters else {}
    return {"step": reading.step, "time": reading.time, **reading.values, **parameters}


def _numbers(values: list[tuple[Any, ...]]) -> Floats:
    """Numbers; "nan" and "inf" are words in JSON. What makes no sense counts as NaN."""
    try:
        return np.array(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return np.array([[_number(each) for each in row] for row in values], dtype=np.float64)


def _norms(parameters: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {
        optimizer: {name: _number(norm) for name, norm in norms.items()}
        for optimizer, norms in parameters.items()
        if isinstance(norms, dict)
    }


def _number(value: Any) -> float:
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        return float("nan")


def _lowest_after(step: Ints) -> Floats:
    """Of each row the lowest step of all that came later."""
    lowest = np.minimum.accumulate(step[::-1])[::-1]
    return np.concatenate((lowest[1:].astype(np.float64), [np.inf]))[: len(step)]


def _joined(parts: list[tuple[Ints, Floats]]) -> tuple[Ints, Floats]:
    rows = np.concatenate([each[0] for each in parts])
    values = np.concatenate([each[1] for each in parts])
    order = np.argsort(rows, kind="stable")
    rows, values = rows[order], values[order]
    # Of a reading in two parts the later word stands.
    newest = np.append(rows[1:] != rows[:-1], True) if len(rows) else rows.astype(bool)
    return rows[newest], values[newest]

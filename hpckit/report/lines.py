"""The lines of a chart, thinned: what counts, what was left, and what they are held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hpckit.monitor.readings.columns import Columns, Floats, Ints
from hpckit.report.charts import RATE, Chart
from hpckit.report.thin import chosen

# Points of all lines together: what a page of 2 MB has room for.
POINTS = 90_000
FEWEST, MOST = 240, 4_000
# Points that all surroundings of incidents may have together, and those of one.
AROUND, WIDEST, NARROWEST = 30_000, 100, 8
# A rate is a median of so many stretches: single steps jump.
STRETCHES = 200
# The clip is what a clipped norm became; it has changed where that differs by more.
SAME = 0.01
MOST_BRANCHES = 60
# A longer line is a band of its extremes; where its middle is shows in so many medians.
LONG, MIDDLES = 1_500, 300


@dataclass(frozen=True, kw_only=True)
class Room:
    """How much of each line may be drawn."""

    points: int
    whole: Sequence[tuple[int, int]]


def room_for(lines: int, incidents: Sequence[int], columns: Columns) -> Room:
    """For so many lines on a page; around an incident every step is drawn."""
    lines = max(1, lines)
    points = int(np.clip(POINTS / lines, FEWEST, MOST))
    rows = int(np.clip(AROUND / lines / max(1, len(incidents)), NARROWEST, WIDEST))
    spacing = 1.0
    if len(columns.step) > 1:
        spacing = float(np.median(np.abs(np.diff(columns.step))))
    reach = int(max(1.0, spacing) * rows)
    return Room(points=points, whole=[(step - reach, step + reach) for step in incidents])


def with_rate(columns: Columns) -> Columns:
    """The same with steps a second, by the time that steps took or by the clock."""
    if "time/step" in columns.values:
        rows, seconds = columns.values["time/step"]
        rates = 1 / np.where(seconds > 0, seconds, np.nan)
    else:
        rows, rates = _by_the_clock(columns)
    rows, rates = rows[np.isfinite(rates)], rates[np.isfinite(rates)]
    if len(rows) < 2:
        return columns
    stretches = [each for each in np.array_split(np.arange(len(rows)), STRETCHES) if len(each)]
    middles = np.array([each[len(each) // 2] for each in stretches])
    rates = np.array([np.median(rates[each]) for each in stretches])
    return replace(columns, values={**columns.values, RATE: (rows[middles], rates)})


def _by_the_clock(columns: Columns) -> tuple[Ints, Floats]:
    taken, steps = np.diff(columns.time), np.diff(columns.step)
    here = (np.diff(columns.trail) == 0) & (np.diff(columns.folder) == 0) & (taken > 0)
    rows = np.flatnonzero(here)
    return rows + 1, steps[rows] / taken[rows]


def lines_of(
    chart: Chart, columns: Columns, room: Room, *, plain: bool = False
) -> list[dict[str, Any]]:
    """What is drawn of one run in a chart; `plain`: without what its norms are held against."""
    found = []
    for name, word in chart.lines:
        if name not in columns.values:
            continue
        steps, values = columns.counting(name)
        line = _line("line", word, steps, values, room)
        if chart.optimizer is not None:
            line["gated"] = _gated(columns, chart.optimizer)
        found.append(line)
        if len(steps) > LONG:
            found.append(_middle(word, steps, values))
        left = list(columns.left(name))[-MOST_BRANCHES:]
        narrow = replace(room, points=max(40, room.points // (2 * max(1, len(left)))))
        found += [_line("left", word, *branch, narrow) for branch in left]
    if chart.optimizer is not None and not plain:
        found += _held_against(chart.optimizer, columns, room)
    return found


def _held_against(optimizer: str, columns: Columns, room: Room) -> Iterator[dict[str, Any]]:
    for role in ("usual", "limit"):
        name = f"grad/{role}/{optimizer}"
        if name in columns.values:
            steps, values = columns.counting(name)
            yield _line(role, role, *_changes(steps, values, same=0.0), room)
    steps, values = _clip(optimizer, columns)
    if len(steps):
        yield _line("clip", "clip", steps, values, room)


def _clip(optimizer: str, columns: Columns) -> tuple[Ints, Floats]:
    """The norm that is clipped to, as the clipped steps tell it."""
    norm, factor = (columns.values.get(f"grad/{each}/{optimizer}") for each in ("norm", "clip"))
    if norm is None or factor is None or not np.array_equal(norm[0], factor[0]):
        return np.array([], dtype=np.int64), np.array([])
    rows, norms, factors = norm[0], norm[1], factor[1]
    is_clipped = columns.counts[rows] & np.isfinite(norms) & (factors > 0) & (factors < 1)
    steps, clips = columns.step[rows][is_clipped], (norms * factors)[is_clipped]
    return _changes(steps, clips, same=SAME)


def _changes(steps: Ints, values: Floats, *, same: float) -> tuple[Ints, Floats]:
    """The points of a line that stays where it is until it changes."""
    if len(steps) < 2:
        return steps, values
    differs = np.abs(np.diff(values)) > same * np.abs(values[:-1])
    begins = np.concatenate(([True], differs))
    # The last point before each change, so that the line goes straight up.
    ends = np.concatenate((differs, [True]))
    stays = begins | ends
    return steps[stays], values[stays]


def _middle(word: str, steps: Ints, values: Floats) -> dict[str, Any]:
    """Medians of stretches, where anything of them is finite."""
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    parts = [each for each in np.array_split(np.arange(len(steps)), MIDDLES) if len(each)]
    x = np.array([steps[each[len(each) // 2]] for each in parts], dtype=np.int64)
    y = np.array([np.median(values[each]) for each in parts])
    return {"role": "middle", "name": word, "x": x, "y": y, "of": len(steps)}


def _gated(columns: Columns, optimizer: str) -> list[int]:
    """The steps whose update was held back, as many as one can see."""
    found = columns.values.get(f"grad/gated/{optimizer}")
    if found is None:
        return []
    steps = np.unique(columns.step[found[0][found[1] > 0]])
    places = np.linspace(0, len(steps) - 1, min(len(steps), 400)).astype(int)
    return [int(step) for step in steps[places]]


def _line(role: str, word: str, steps: Ints, values: Floats, room: Room) -> dict[str, Any]:
    places = chosen(steps, values, most=room.points, whole=room.whole)
    x, y = steps[places], values[places]
    return {"role": role, "name": word, "x": x, "y": y, "of": len(steps)}


def encoded(line: Mapping[str, Any]) -> str:
    """A line as JSON: the first step and the distances, five digits of each value.

    JSON has no infinity, but what is too large for a double becomes one again; NaN is null.
    """
    import json

    x = ",".join(map(str, np.diff(line["x"], prepend=0).tolist()))
    y = ",".join(map(number, line["y"].tolist()))
    rest = {key: value for key, value in line.items() if key not in ("x", "y")}
    head = json.dumps(rest, separators=(",", ":"), ensure_ascii=False)[:-1]
    return f'{head},"x":[{x}],"y":[{y}]}}'


def number(value: float) -> str:
    if value - value == 0:
        return f"{value:.5g}"
    return "null" if value != value else "1e999" if value > 0 else "-1e999"

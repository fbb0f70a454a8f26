"""Small bars for a row of numbers: what a curve looks like in a line of text, or in some."""

from __future__ import annotations

import math
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"
PLAIN_BARS = "_.-~=+*#"
# Where a number is not finite, or where something was wrong.
MARK = "!"
HEIGHTS = len(BARS)
# From the lowest bar to the highest: noise is not to look like an explosion.
LEAST_RANGE = math.log(4.0)


def sparkline(
    values: Sequence[float],
    width: int,
    *,
    marked: Sequence[bool] = (),
    is_plain: bool = False,
) -> str:
    """Bars of one row; see `chart`."""
    return chart(values, width, marked=marked, is_plain=is_plain)[0]


def chart(
    values: Sequence[float],
    width: int,
    *,
    rows: int = 1,
    marked: Sequence[bool] = (),
    is_plain: bool = False,
) -> list[str]:
    """Up to `width` bars on a logarithmic scale; of several values in one the largest counts.

    A mark stands on top of what is not finite and of what is `marked`.
    """
    each = _in_a_column(len(values), width)
    begins = range(0, len(values), each)
    columns = [_largest(values[i : i + each]) for i in begins]
    is_marked = [any(marked[i : i + each]) for i in begins]
    logs = [_log(value) for value in columns if math.isfinite(value)]
    bottom, top = min(logs, default=0.0), max(logs, default=0.0)
    bars = PLAIN_BARS if is_plain else BARS
    drawn = [
        _column(_height(value, bottom, top, rows * HEIGHTS), rows, bars, is_bad)
        for value, is_bad in zip(columns, is_marked, strict=True)
    ]
    return ["".join(column[row] for column in drawn).rstrip() for row in reversed(range(rows))]


def _column(height: int | None, rows: int, bars: str, is_marked: bool) -> str:
    """One bar from below; None: it is beyond any scale."""
    whole, rest = divmod(rows * HEIGHTS - 1 if height is None else height, HEIGHTS)
    top = MARK if is_marked or height is None else bars[rest]
    return (bars[-1] * whole + top).ljust(rows)


def _in_a_column(count: int, width: int) -> int:
    """How many stand in one: a power of two, so that columns stay as they are when more come."""
    each = 1
    while count > each * max(1, width):
        each *= 2
    return each


def _largest(values: Sequence[float]) -> float:
    """Infinity where one of them is not finite."""
    return max(values) if all(map(math.isfinite, values)) else math.inf


def _log(value: float) -> float:
    # A loss may be below 0, and a norm 0: as small as can be.
    return math.log(max(value, 1e-12))


def _height(value: float, bottom: float, top: float, heights: int) -> int | None:
    if not math.isfinite(value):
        return None
    share = (_log(value) - bottom) / max(top - bottom, LEAST_RANGE)
    return min(heights - 1, max(0, int(share * heights)))

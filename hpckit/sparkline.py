"""A row of small bars for a row of numbers: what a curve looks like in one line of text."""

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
    """Up to `width` bars on a logarithmic scale; of several values in one the largest counts.

    A mark stands for what is not finite and for what is `marked`.
    """
    each = _in_a_column(len(values), width)
    begins = range(0, len(values), each)
    columns = [_largest(values[i : i + each]) for i in begins]
    is_marked = [any(marked[i : i + each]) for i in begins]
    logs = [_log(value) for value in columns if math.isfinite(value)]
    bottom, top = min(logs, default=0.0), max(logs, default=0.0)
    bars = PLAIN_BARS if is_plain else BARS
    return "".join(
        MARK if is_bad or not math.isfinite(value) else bars[_height(value, bottom, top)]
        for value, is_bad in zip(columns, is_marked, strict=True)
    )


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


def _height(value: float, bottom: float, top: float) -> int:
    share = (_log(value) - bottom) / max(top - bottom, LEAST_RANGE)
    return min(HEIGHTS - 1, max(0, int(share * HEIGHTS)))

"""When a growth began: what was saved before is not damaged by it."""

from __future__ import annotations

from collections.abc import Sequence

from hpckit.monitor.baseline import median

BLOCK = 8
# The update that did the damage is older than the first number that shows it.
MARGIN = 8


def onset(steps: Sequence[int], values: Sequence[float], step: int, usual: float) -> int:
    """The first step that may be damaged, by the last numbers and what was usual before them.

    Where a growth was slow it has moved the usual too, and where it has settled there is no slope
    to follow back: the earlier of both answers is the safe one.
    """
    if not steps:
        return step
    healthy = min(_last_usual(values, usual), _foot_of_the_slope(values))
    return max(min(steps[healthy], step) - MARGIN, min(steps[0], step))


def _last_usual(values: Sequence[float], usual: float) -> int:
    """Where the last block that was at or below the usual began."""
    for begin in range(len(values) - BLOCK, 0, -BLOCK):
        if median(list(values[begin : begin + BLOCK])) <= usual:
            return begin
    return 0


def _foot_of_the_slope(values: Sequence[float]) -> int:
    """Back over the blocks for as long as they get lower: the last number at their lowest."""
    lowest, stale = float("inf"), 0
    for end in range(len(values), 0, -BLOCK):
        level = median(list(values[max(0, end - BLOCK) : end]))
        stale = 0 if level < lowest else stale + 1
        lowest = min(lowest, level)
        if stale == 3:
            break
    return next(i for i in reversed(range(len(values))) if values[i] <= lowest)

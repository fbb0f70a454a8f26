"""Which points of a long curve are drawn: each bucket's extremes, and all around an incident."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def chosen(
    steps: Ints, values: Floats, *, most: int, whole: Iterable[tuple[int, int]] = ()
) -> Ints:
    """The places of about `most` points, none of them a spike's neighbour in its stead.

    Of each bucket of steps those stay that are smallest, largest and first not finite; inside
    `whole`, ranges of steps, all stay.
    """
    number = len(steps)
    if number <= most:
        return np.arange(number)
    keep = np.zeros(number, dtype=bool)
    keep[[0, -1]] = True
    edges = np.linspace(steps[0], steps[-1] + 1, max(1, most // 2) + 1)
    starts = np.unique(np.searchsorted(steps, edges[:-1]))
    starts = starts[starts < number]
    finite = np.isfinite(values)
    for fill, best in ((np.inf, np.minimum), (-np.inf, np.maximum)):
        filled = np.where(finite, values, fill)
        extremes = np.repeat(best.reduceat(filled, starts), np.diff(np.append(starts, number)))
        keep[_firsts(finite & (filled == extremes), starts)] = True
    keep[_firsts(~finite, starts)] = True
    for begin, end in whole:
        keep[np.searchsorted(steps, begin) : np.searchsorted(steps, end, side="right")] = True
    return np.flatnonzero(keep)


def _firsts(where: NDArray[np.bool_], starts: Ints) -> Ints:
    """The first place of each bucket at which it holds."""
    places = np.flatnonzero(where)
    buckets = np.searchsorted(starts, places, side="right")
    return places[np.unique(buckets, return_index=True)[1]]

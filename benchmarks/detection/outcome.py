"""How a run ended, told from the whole of its trace: what no detector could know, and a judge must.

- **diverged**: nothing finite comes any more at the end. The deadline for acting is its first
  non-finite step: from there on a live run would hold back every update. Benign ones are passed
  over: single NaN batches, a float16 scale that finds its level, anything before the fault.
- **lost**: finite to the end, and the loss, smoothed by a trailing median over 50 steps, crosses a
  line and never comes back. The line is above what the run had reached before the fault by 8 times
  its scatter and by half of all it had learned. The deadline is that crossing plus 100 steps: a
  rollback then costs little more than one made at once. A norm that ends 1000 times above what it
  was counts the same way, whatever the loss says: the losses of a GAN tell nothing.
- **sudden**: the first non-finite step is the very step the fault begins at, so nothing could be
  seen before. The gate holds the weights as they were, so 10 more steps are given.
- **recovered**: something went wrong and the run got over it. Neither an alarm nor silence is held
  against anybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.trace import Trace

SMOOTH = 50
REFERENCE = 200
LOST_GRACE = 100
SUDDEN_GRACE = 10
GROWN = 1000.0

Ending = Literal["healthy", "diverged", "sudden", "lost", "recovered"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The ending, and the last step at which acting is in time."""

    ending: Ending
    deadline: int | None = None

    @property
    def bad(self) -> bool:
        return self.deadline is not None


def outcome(trace: Trace) -> Outcome:
    """What became of a run."""
    if trace.healthy:
        return Outcome(ending="healthy")
    return _diverged(trace) or _lost(trace) or Outcome(ending="recovered")


def finite(trace: Trace) -> NDArray[np.bool_]:
    """Which steps are finite in norm and loss."""
    return np.isfinite(trace.norm) & np.isfinite(trace.loss)


def _diverged(trace: Trace) -> Outcome | None:
    good = finite(trace)
    if good[-1] and good[-20:].mean() > 0.5:
        return None
    begin = trace.begin if trace.begin is not None else int(trace.notes.get("fault_at") or 0)
    bad = np.flatnonzero(~good)
    bad = bad[(bad >= begin) & ~np.isin(bad, trace.notes.get("nan_batches", []))]
    if trace.notes.get("float16"):
        # An overflow that training goes on from is the scale finding its level.
        bad = np.array([at for at in bad if good[at : at + 30].mean() < 0.5], dtype=int)
    if len(bad) == 0:
        return None
    first = int(bad[0])
    if trace.begin is not None and first <= trace.begin:
        return Outcome(ending="sudden", deadline=first + SUDDEN_GRACE)
    return Outcome(ending="diverged", deadline=first)


def trailing_median(values: NDArray[np.float64], width: int = SMOOTH) -> NDArray[np.float64]:
    """Median of the last values at each step; fewer at the start."""
    padded = np.concatenate([np.full(width - 1, np.nan), values])
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    return np.asarray(np.nanmedian(windows, axis=1), np.float64)


def _lost(trace: Trace) -> Outcome | None:
    good = finite(trace)
    if good.sum() < 2 * SMOOTH:
        return None
    where = np.flatnonzero(good)
    start = trace.begin if trace.begin is not None else int(trace.notes.get("fault_at") or 0)
    loss = np.asarray(trace.loss[where], np.float64)
    norm = np.log(np.maximum(trace.norm[where], 1e-30).astype(np.float64))
    begin = int(np.searchsorted(where, start))
    crossings = [
        at
        for at in (
            None if trace.family == "sn_gan" or trace.family == "gan" else _gone(loss, begin),
            _gone(norm, begin, above=float(np.log(GROWN))),
        )
        if at is not None
    ]
    if not crossings:
        return None
    return Outcome(ending="lost", deadline=int(where[min(crossings)]) + LOST_GRACE)


def _gone(values: NDArray[np.float64], begin: int, above: float | None = None) -> int | None:
    """Where smoothed values cross their line for good."""
    smooth = trailing_median(values)
    begin, before = _reference(values, smooth, begin)
    usual = float(np.median(before))
    if above is None:
        scatter = 1.4826 * float(np.median(np.abs(before - usual)))
        learned = max(float(np.median(values[:10])) - usual, 0.0)
        above = max(8 * scatter, 0.5 * learned)
    over = smooth > usual + above
    if not over[-1] or begin >= len(over):
        return None
    back = np.flatnonzero(~over)
    return max(int(back[-1]) + 1 if len(back) else 0, begin)


def _reference(
    values: NDArray[np.float64], smooth: NDArray[np.float64], begin: int
) -> tuple[int, NDArray[np.float64]]:
    """The healthy stretch to compare with: before the fault, or the best there was."""
    if begin < SMOOTH:
        begin = int(np.argmin(smooth[SMOOTH // 2 :])) + SMOOTH // 2
    return begin, values[max(0, begin - REFERENCE) : begin + 1]

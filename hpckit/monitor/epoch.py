"""An epoch's gradient norms for a person who looks once an epoch: quantiles and extremes.

A mean of 45.3 may be 400 steps of 45 or one of 18,000; it is told last of all. Norms are counted in
steps of 1%, so that an epoch of any length takes the same room.
"""

from __future__ import annotations

import math

from hpckit.monitor.incident import number
from hpckit.monitor.memory import Memory

STEP = math.log(1.01)
QUANTILES = (0.5, 0.9, 0.99)


class Epoch(Memory):
    """What the gradient norms of one optimizer were since the epoch began."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.steps = 0
        self.non_finite = 0
        self.gated = 0
        self.largest = 0.0
        self.largest_at: int | None = None

    def add(self, step: int, norm: float, *, gated: bool) -> None:
        self.steps += 1
        self.gated += gated
        if not math.isfinite(norm):
            self.non_finite += 1
            return
        # Names, because a checkpoint's JSON has no other keys.
        key = str(round(math.log(norm) / STEP)) if norm > 0 else "zero"
        self.counts[key] = self.counts.get(key, 0) + 1
        if norm > self.largest or self.largest_at is None:
            self.largest, self.largest_at = norm, step

    def quantile(self, share: float) -> float | None:
        """The norm that such a share of the finite ones does not exceed, to 0.5%."""
        rest = share * (self.steps - self.non_finite)
        norms = {
            0.0 if key == "zero" else math.exp(int(key) * STEP): count
            for key, count in self.counts.items()
        }
        for norm in sorted(norms):
            rest -= norms[norm]
            if rest <= 0:
                return norm
        return None

    def values(self) -> dict[str, float]:
        """As numbers of a reading, by the name that stands before the optimizer's."""
        found = {f"p{share * 100:g}": self.quantile(share) for share in QUANTILES}
        found["max"] = self.largest if self.largest_at is not None else None
        named = {name: value for name, value in found.items() if value is not None}
        return {**named, "non_finite": float(self.non_finite), "gated": float(self.gated)}

    def __str__(self) -> str:
        if self.largest_at is None:
            return f"{self.steps} steps, no finite gradient norm"
        said = (
            f"{self.steps} steps: gradient norm {number(self.quantile(0.5))} in the middle, "
            f"99% at most {number(self.quantile(0.99))}, largest {number(self.largest)} "
            f"at step {self.largest_at}"
        )
        more = [f"{self.gated} held back"] if self.gated else []
        more += [f"{self.non_finite} non-finite"] if self.non_finite else []
        return ", ".join([said, *more])

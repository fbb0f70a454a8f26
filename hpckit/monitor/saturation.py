"""Whether clipping has become the rule: then the clip sets the step, and the norm says nothing."""

from __future__ import annotations

from collections import deque

from hpckit.monitor.memory import Memory

WINDOW = 256
MOST = 0.95
FEW = 0.5


class Saturation(Memory):
    """The share of the last steps that were clipped."""

    settings = frozenset({"clip"})

    def __init__(self, clip: float | None = None) -> None:
        self.clip = clip
        self.last: deque[bool] = deque(maxlen=WINDOW)
        self.clipped = 0
        self.told = False

    def observe(self, norm: float, factor: float | None) -> bool:
        """Take in an accepted step; whether saturation begins with it."""
        if factor is None and self.clip is None:
            return False
        # What was multiplied by 0.9999 was not clipped, it was rounded.
        was_clipped = factor < 0.999 if factor is not None else norm > (self.clip or 0.0)
        if len(self.last) == WINDOW:
            self.clipped -= self.last[0]
        self.last.append(was_clipped)
        self.clipped += was_clipped
        if self.told:
            self.told = self.clipped > FEW * WINDOW
            return False
        self.told = self.clipped > MOST * WINDOW
        return self.told

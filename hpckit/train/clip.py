"""Clipping, of one optimizer or of one of its groups; its values may change while it trains."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping
from typing import Any

from hpckit.monitor.memory import Memory

# Before so many accepted norms a percentile means nothing.
FEWEST = 16


class Clip(Memory):
    """By norm, by value, or by a percentile of the norms that were accepted.

    `percentile` looks at the last `of` accepted norms, never at a gated one: a single spike must
    not raise what is clipped to. `at_most` bounds it. `groups` has a Clip of its own for a
    parameter group, by its `name` or its number; such a group is measured and clipped apart.
    """

    def __init__(
        self,
        norm: float | None = None,
        *,
        value: float | None = None,
        percentile: float | None = None,
        of: int = 1000,
        at_most: float | None = None,
        groups: Mapping[str | int, Clip | float] | None = None,
    ) -> None:
        if sum(each is not None for each in (norm, value, percentile)) > 1:
            raise ValueError("clip by norm, by value or by percentile, not by two of them")
        if percentile is not None and groups:
            raise ValueError("clip: give each group its own percentile, not all of them one")
        for name, number in (("norm", norm), ("value", value), ("at_most", at_most)):
            if number is not None and not (math.isfinite(number) and number > 0):
                raise ValueError(f"clip {name} must be above 0, not {number}")
        if percentile is not None and not 0 < percentile <= 100:
            raise ValueError(f"clip percentile must be above 0 and at most 100, not {percentile}")
        if of < FEWEST:
            raise ValueError(f"clip of must be at least {FEWEST} norms, not {of}")
        self.norm = norm
        self.value = value
        self.percentile = percentile
        self.at_most = at_most
        # What a percentile is multiplied by, once it was tightened.
        self.factor = 1.0
        # What the script gave: a resumed run whose script says something else goes by that.
        self.given = [norm, value, percentile, at_most, of]
        self.accepted: deque[float] = deque(maxlen=of)
        self.ordered: list[float] = []
        self.groups = {
            str(name): clip if isinstance(clip, Clip) else Clip(clip)
            for name, clip in (groups or {}).items()
        }

    def limit(self) -> float | None:
        """The norm to clip to now, or None."""
        if self.percentile is None:
            return self.norm
        if len(self.ordered) < FEWEST:
            return self.at_most
        index = min(int(len(self.ordered) * self.percentile / 100), len(self.ordered) - 1)
        limit = self.ordered[index] * self.factor
        # A stretch of zeros must not stop the training for good.
        return min(limit, self.at_most or math.inf) if limit > 0 else self.at_most

    def accept(self, norm: float) -> None:
        """Take in the norm of an update that was applied."""
        if self.percentile is None or not math.isfinite(norm):
            return
        if len(self.accepted) == self.accepted.maxlen:
            del self.ordered[bisect_left(self.ordered, self.accepted[0])]
        self.accepted.append(norm)
        insort(self.ordered, norm)

    def tighten(self, factor: float, *, least: float = 0.0) -> None:
        """Multiply every limit, this one's and the groups'; none comes below `least` by it."""
        for name in ("norm", "value", "at_most"):
            old = getattr(self, name)
            if old is not None:
                setattr(self, name, max(old * factor, min(old, least)))
        if self.percentile is not None:
            self.factor *= factor
        for clip in self.groups.values():
            clip.tighten(factor, least=least)

    def state_dict(self) -> dict[str, Any]:
        own = super().state_dict()
        return {**own, "groups": {name: clip.state_dict() for name, clip in self.groups.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["given"] == self.given:
            super().load_state_dict({**state, "groups": self.groups})
        elif self.percentile is not None:
            for norm in state["accepted"]:
                self.accept(norm)
        for name, clip in self.groups.items():
            if name in state.get("groups", {}):
                clip.load_state_dict(state["groups"][name])


# One for all optimizers, or each its own by name.
Clips = Clip | float | Mapping[str, Clip | float]

"""Whether a launch hangs: a rank that comes to no step for longer than it ever took to one."""

from __future__ import annotations

import contextlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Within the loop, where a step follows the other; what is learned makes it longer.
LEAST_S = 300.0
TIMES = 10.0
# Before the first steps (imports, data, compilation), after a step (validation), and in a save.
SLOW_S = 1800.0
START, WITHIN, AFTER, LOG = "start", "step", "after", "log"
# Where the spec's own word counts.
IN_LOOP = {WITHIN, AFTER}
# Where nothing holds up all threads of a process for long: before its first steps a program may
# read for minutes what it trains on.
UNBEATEN = {START, LOG}
# Not more often than the worker looks at anything, and of many ranks these are many files.
OFTEN_S, SELDOM_S = 1.0, 5.0
# How far apart a program's lines are, or an attached one's steps, nobody knows before it was seen
# so often.
LEAST_INTERVALS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Sign:
    """Where a rank stands, by its own word."""

    step: int
    phase: str
    beat: int = 0
    # By its own last word; others may go on for long.
    has_ended: bool = False

    @property
    def place(self) -> tuple[int, str]:
        return self.step, self.phase


@dataclass(frozen=True, kw_only=True, slots=True)
class Stall:
    """A rank that came to no step for so long, when so much was to be expected."""

    rank: int
    step: int
    phase: str
    for_s: float
    usual_s: float
    is_frozen: bool = False

    def __str__(self) -> str:
        what = "no step" if self.phase in IN_LOOP else f"no sign of progress ({self.phase})"
        if self.is_frozen:
            what = "no sign of life"
        return f"{what} for {self.for_s:.0f} s on rank {self.rank}, after step {self.step}"


@dataclass(kw_only=True)
class Stalls:
    """Watches the ranks of one launch; `after_s` is the spec's word, None learns it.

    What counts is the time in which a rank was seen to stand still: a job that was suspended, and
    one whose filesystem was away, come back with signs that are old.
    """

    after_s: float | None = None
    _looked_s: float | None = None
    _for_s: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    _silent_s: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    _intervals: Counter[int] = field(default_factory=Counter)
    _last: dict[int, Sign] = field(default_factory=dict)
    # The longest that was waited for a step, within the loop and elsewhere.
    _longest: dict[bool, float] = field(default_factory=lambda: {True: 0.0, False: 0.0})

    @property
    def every_s(self) -> float:
        """How often to look."""
        return SELDOM_S if self.after_s is None else min(max(OFTEN_S, self.after_s / 4), SELDOM_S)

    def look(self, now_s: float, signs: Mapping[int, Sign]) -> Stall | None:
        """Take in where the ranks stand now; the one that is stuck the longest, if any is."""
        passed_s = 0.0 if self._looked_s is None else now_s - self._looked_s
        self._looked_s = now_s
        for rank, sign in signs.items():
            self._take(min(passed_s, 2 * self.every_s), rank, sign)
        found = [stall for rank in self._last if (stall := self._stall(rank)) is not None]
        # Others wait for the one that is behind.
        return min(found, key=lambda stall: (stall.step, -stall.for_s), default=None)

    @property
    def step(self) -> int | None:
        """How far all ranks have come; None where nobody said so."""
        return min((sign.step for sign in self._last.values()), default=None)

    @property
    def has_stepped(self) -> bool:
        """Whether any step was done in this launch."""
        return any(sign.phase != START for sign in self._last.values())

    def _take(self, passed_s: float, rank: int, sign: Sign) -> None:
        before = self._last.get(rank)
        self._for_s[rank] += passed_s
        self._silent_s[rank] += passed_s
        if before == sign:
            return
        self._last[rank], self._silent_s[rank] = sign, 0.0
        if before is not None and before.place == sign.place:
            return
        if before is not None and before.phase != START:
            within = before.phase == WITHIN
            self._longest[within] = max(self._longest[within], self._for_s[rank])
            self._intervals[rank] += 1
        self._for_s[rank] = 0.0

    def _stall(self, rank: int) -> Stall | None:
        sign, for_s = self._last[rank], self._for_s[rank]
        if sign.has_ended:
            return None
        phase = self._phase(sign)
        usual_s = self._longest[phase == WITHIN]
        is_frozen = False
        if for_s <= self._patience_s(rank, phase, usual_s):
            for_s = self._silent_s[rank]
            is_frozen = phase not in UNBEATEN and for_s > self._silence_s(phase, usual_s)
            if not is_frozen:
                return None
        return Stall(
            rank=rank,
            step=sign.step,
            phase=phase,
            for_s=for_s,
            usual_s=usual_s,
            is_frozen=is_frozen,
        )

    def _silence_s(self, phase: str, usual_s: float) -> float:
        """How long a heart may stand still: who waits for others, or validates, is alive."""
        if phase in IN_LOOP and self.after_s is not None:
            return self.after_s
        # Where it stood when it froze is not known: its word is a beat old.
        return max(LEAST_S, self.after_s or 0.0, usual_s)

    def _phase(self, sign: Sign) -> str:
        """Ranks begin together: one that froze after its first beat still says that it starts."""
        newest = max(each.step for each in self._last.values())
        return WITHIN if sign.phase == START and sign.step + 1 < newest else sign.phase

    def _patience_s(self, rank: int, phase: str, usual_s: float) -> float:
        # While one validates the others wait for it, within their step.
        phases = {self._phase(each) for each in self._last.values()}
        if phases <= IN_LOOP and self.after_s is not None:
            return self.after_s
        if phases == {WITHIN}:
            return max(LEAST_S, TIMES * usual_s)
        if phase == LOG and self.after_s is not None:
            return self.after_s
        if phase == LOG and self._intervals[rank] < LEAST_INTERVALS:
            return math.inf
        return max(SLOW_S, self.after_s or 0.0, 3 * usual_s)


def signs_in(logs: Path, ranks: int) -> dict[int, Sign]:
    """What the ranks of a launch have written; one that is being written just now is left out."""
    found = {}
    for rank in range(ranks):
        with contextlib.suppress(OSError):
            at = logs / f"rank-{rank}"
            words = at.with_suffix(".pulse").read_text().split(" ")
            step, phase, beat = words if len(words) == 3 else ("", "", "")
            if step.isdigit() and beat.endswith("\n") and beat[:-1].isdigit():
                found[rank] = Sign(
                    step=int(step),
                    phase=phase,
                    beat=int(beat),
                    has_ended=at.with_suffix(".exit").exists(),
                )
    return found

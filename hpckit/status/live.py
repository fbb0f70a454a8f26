"""What a training does just now, by its readings as they come: over rollbacks and attempts."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpckit.monitor.reading import CLIP, GATED, LOSS, NORM, TOTAL, USUAL, Reading
from hpckit.monitor.readings.following import MOST_BYTES, Following
from hpckit.run import Attempt, launches_in
from hpckit.status.pace import Pace

# Readings that say what is usual, and those that say what is now.
NEWEST, NOW = 100, 10
# The strip is kept finer than terminals are wide.
STRETCHES = 1024
Values = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Norm:
    """An optimizer's gradient: its norm now and usually, and the share of steps it was clipped."""

    now: float
    usual: float
    clipped: float


class Live:
    """Follows the newest launch of a run; what was before stays in the strips."""

    def __init__(self, *, most_bytes: int = MOST_BYTES) -> None:
        # By optimizer; where no norms are told, by loss.
        self.strips: dict[str, Strip] = {}
        self.pace = Pace()
        self.newest: deque[Reading] = deque(maxlen=NEWEST)
        self._most_bytes = most_bytes
        self._folder: Path | None = None
        self._following: Following | None = None

    def look(self, attempts: Sequence[Attempt]) -> None:
        """Take in what is new; what cannot be read just now is there at the next look."""
        with contextlib.suppress(OSError):
            for following in self._turns(attempts):
                for each in following.more():
                    if isinstance(each, Reading):
                        self._take(each)
                    elif each.acts:
                        self._mark(each.optimizer)

    def _turns(self, attempts: Sequence[Attempt]) -> Iterator[Following]:
        """What is followed, to its end before the newest launch takes its place."""
        if self._following is not None:
            yield self._following
        folder = newest_launch(attempts)
        if folder is None or folder == self._folder:
            return
        self.pace.cut()
        self._folder = folder
        self._following = Following(folder, most_bytes=self._most_bytes)
        yield self._following

    def _take(self, reading: Reading) -> None:
        if self.newest and reading.step < self.newest[-1].step:
            # It went back: what is usual is of after that.
            self.newest.clear()
        self.newest.append(reading)
        self.pace.add(reading.step, reading.time)
        gated = reading.group(GATED)
        for name, value in (reading.group(NORM) or _loss_of(reading)).items():
            self.strips.setdefault(name, Strip()).add(value, is_bad=bool(gated.get(name)))

    def _mark(self, optimizer: str | None) -> None:
        """Something was wrong at the last reading; whose gradient it was comes first from now."""
        blamed = [optimizer] if optimizer in self.strips else list(self.strips)
        for name in blamed:
            self.strips[name].mark()
        self.strips = {name: self.strips[name] for name in dict.fromkeys([*blamed, *self.strips])}

    @property
    def strip(self) -> Strip:
        """The one to look at where there is room for one."""
        return next(iter(self.strips.values()), Strip())

    @property
    def epoch(self) -> int | None:
        """The one that is under way, from 1; None where nobody tells."""
        told = self.newest[-1].get("epoch") if self.newest else None
        # A sum of many steps may be a little more than the whole number that is meant.
        return math.ceil(told - 1e-6) if told is not None and math.isfinite(told) else None

    @property
    def step(self) -> int | None:
        """Steps that are done."""
        return self.newest[-1].step + 1 if self.newest else None

    @property
    def total(self) -> int | None:
        """Steps that there will be."""
        return total_of(self.newest)

    @property
    def left_s(self) -> float | None:
        if self.total is None or self.step is None:
            return None
        return self.pace.left_s(max(0, self.total - self.step))

    @property
    def losses(self) -> Values:
        """The loss first, then its parts, as they are now: medians of a few."""
        now = list(self.newest)[-NOW:]
        named = dict.fromkeys(name for each in now for name in each.values)
        found = [name for name in named if name.startswith("train/")]
        found.sort(key=lambda name: not (name == LOSS or name.startswith(f"{LOSS}/")))
        return {name: _median([each.values.get(name) for each in now]) for name in found}

    @property
    def norms(self) -> dict[str, Norm]:
        """By optimizer, the one to look at first."""
        now = next((found for each in reversed(self.newest) if (found := each.group(NORM))), {})
        return {name: self._norm(name, now[name]) for name in self.strips if name in now}

    def _norm(self, name: str, now: float) -> Norm:
        usual = self._told(f"{USUAL}/{name}")
        factors = self._told(f"{CLIP}/{name}")
        return Norm(
            now=now,
            # What the detector compares with, where it tells.
            usual=usual[-1] if usual else _median(self._told(f"{NORM}/{name}")),
            clipped=sum(factor < 1 for factor in factors) / len(factors) if factors else 0.0,
        )

    def _told(self, name: str) -> list[float]:
        return [value for each in self.newest if (value := each.get(name)) is not None]


def newest_launch(attempts: Sequence[Attempt]) -> Path | None:
    """The readings of the newest launch that has any."""
    for attempt in reversed(attempts):
        if found := launches_in(attempt.dir / "readings"):
            return found[-1]
    return None


def total_of(readings: Sequence[Reading]) -> int | None:
    """How many steps a training said that it will have done."""
    said = (each.get(TOTAL) for each in reversed(readings))
    total = next((each for each in said if each is not None), math.nan)
    return int(total) if math.isfinite(total) else None


def _median(values: Sequence[float | None]) -> float:
    """Of what is finite; nan where nothing is."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.median(finite) if finite else math.nan


class Strip:
    """The largest norm of each stretch of readings, in the order in which they came.

    Too many stretches become half as many, of twice the length each.
    """

    def __init__(self, most: int = STRETCHES) -> None:
        self.values: list[float] = []
        self.marked: list[bool] = []
        self._most = most
        # Readings in a stretch, and in the last one by now.
        self._length = 1
        self._filled = 1

    def add(self, value: float, *, is_bad: bool = False) -> None:
        if not math.isfinite(value):
            value, is_bad = math.nan, True
        if self._filled < self._length:
            self._filled += 1
            self.values[-1] = _larger(self.values[-1], value)
            self.marked[-1] |= is_bad
            return
        if len(self.values) == self._most:
            self._halve()
            self.add(value, is_bad=is_bad)
            return
        self.values.append(value)
        self.marked.append(is_bad)
        self._filled = 1

    @property
    def largest(self) -> float:
        return max((each for each in self.values if math.isfinite(each)), default=math.nan)

    def mark(self) -> None:
        """Something was wrong at the last reading."""
        self.marked[-1:] = [True] if self.marked else []

    def _halve(self) -> None:
        pairs = range(0, len(self.values), 2)
        self.values = [_larger(*self.values[i : i + 2]) for i in pairs]
        self.marked = [any(self.marked[i : i + 2]) for i in pairs]
        self._length *= 2
        self._filled = self._length


def _loss_of(reading: Reading) -> Values:
    return {LOSS: reading.values[LOSS]} if LOSS in reading.values else reading.group(LOSS)


def _larger(one: float, other: float) -> float:
    """What is not finite was marked; it hides no number."""
    return max((each for each in (one, other) if math.isfinite(each)), default=math.nan)

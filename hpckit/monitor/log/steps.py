"""Readings out of what the lines say: which of them belong together, and which step it is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from hpckit.monitor.log.groups import Found
from hpckit.monitor.reading import MAIN, Reading


@dataclass(kw_only=True, slots=True)
class _Place:
    """Where the program says it is."""

    step: int | None = None
    epoch: int | None = None
    batch: int | None = None
    batches: int | None = None
    # Steps of the epochs before this one, where the program does not print both their number
    # and their length.
    before: int = 0
    # There was an epoch 0; most programs begin with epoch 1.
    from_zero: bool = False
    # It has printed batches, so an epoch alone is no step of its own.
    counts_batches: bool = False

    def move(self, to: Found) -> None:
        position = to.position
        if "step" in position:
            self.step = position["step"]
        batch = position.get("batch")
        if batch is None and position.get("epoch", self.epoch) != self.epoch:
            self._end_epoch()
        elif batch is not None:
            if self.batch is not None and batch < self.batch:
                self._end_epoch()
            self.batch, self.counts_batches = batch, True
        self.epoch = position.get("epoch", self.epoch)
        self.from_zero = self.from_zero or self.epoch == 0
        self.batches = position.get("batches", self.batches)

    def _end_epoch(self) -> None:
        if self.batch is not None:
            # A bar of 30 goes from 30/30 on to 0/30; batches without a length may begin at 0.
            self.before += self.batches or self.batch + 1
            self.batch = None

    def number(self) -> int | None:
        """The step that the place stands for, where it stands for one."""
        if self.step is not None:
            return self.step
        if self.batch is not None:
            if self.batches and self.epoch is not None:
                done = self.epoch if self.from_zero else self.epoch - 1
                return done * self.batches + self.batch
            return self.before + self.batch
        return None if self.counts_batches else self.epoch


@dataclass(kw_only=True, slots=True)
class _Open:
    """A reading that is not complete yet."""

    at: int | None = None
    time: float = 0.0
    values: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, float] = field(default_factory=dict)
    # It adds to a reading that was given already, so it goes with the next one.
    late: bool = False

    def has_any(self, found: Found) -> bool:
        return not (
            self.values.keys().isdisjoint(found.values)
            and self.parameters.keys().isdisjoint(found.parameters)
        )

    def add(self, found: Found) -> None:
        for name, value in found.values.items():
            # A bar that is drawn again at the same step must not hide that it was no number.
            if math.isfinite(self.values.get(name, 0.0)):
                self.values[name] = value
        self.parameters.update(found.parameters)


def _without(found: Found, names: set[str]) -> Found:
    """What a line says beside what is known."""
    return Found(
        position=found.position,
        values={name: value for name, value in found.values.items() if name not in names},
        parameters={name: v for name, v in found.parameters.items() if name not in names},
    )


class Steps:
    """Takes what each line says, gives a reading when the next step begins.

    A step begins where the printed position moves, or where a value comes again on a line that
    names no batch and no step. A step that is not printed grows by at least one: of epochs it is
    the epoch's number as long as there is one reading in each.
    """

    def __init__(self) -> None:
        self._place = _Place()
        self._open = _Open()
        # The reading that was given last: its step, its place, and the names in it.
        self._last = -1
        self._given_at: int | None = None
        self._given: set[str] = set()

    def take(self, found: Found, now: float) -> Reading | None:
        """One line's; the reading that it ends, if it does."""
        if "done" in found.position:
            if found.values:
                # Printed into the bar's own line.
                self._open.add(found)
            return self._done(found.position["done"])
        self._place.move(found)
        at = self._place.number()
        is_placed = not found.position.keys().isdisjoint(("step", "batch"))
        ended = None
        if self._open.late and at != self._open.at:
            self._open.at, self._open.late = at, False
        elif at != self._open.at or (self._open.has_any(found) and not is_placed):
            ended = self.close()
        self._add(found, at, now, is_placed)
        return ended

    def _add(self, found: Found, at: int | None, now: float, is_placed: bool) -> None:
        is_given = at is not None and at == self._given_at
        if is_given and is_placed:
            # A bar of a step that was given, drawn once more.
            found = _without(found, self._given)
        names = {*found.values, *found.parameters}
        if names and not self._open.values and not self._open.parameters:
            late = is_given and self._given.isdisjoint(names)
            self._open = _Open(at=at, time=now, late=late)
        elif not names and not self._open.late:
            self._open.at = at
        self._open.add(found)

    def _done(self, step: int) -> Reading | None:
        # What was measured at a step that is given already goes with the next.
        if not self._open.values or step <= self._last:
            return None
        self._open.at = step
        return self.close()

    def is_open(self) -> bool:
        """Whether something waits for its step to end."""
        return bool(self._open.values or self._open.parameters) and not self._open.late

    def close(self) -> Reading | None:
        """The reading that is open: nothing more is to come for it."""
        was, self._open = self._open, _Open(at=self._open.at)
        if not was.values and not was.parameters:
            return None
        step = self._number(was.at)
        self._last, self._given_at = step, was.at
        self._given = {*was.values, *was.parameters}
        parameters = {MAIN: was.parameters} if was.parameters else {}
        return Reading(step=step, values=was.values, time=was.time, parameters=parameters)

    def _number(self, at: int | None) -> int:
        if self._place.step is not None and at is not None:
            return at
        return max(self._last + 1, 0 if at is None else at)

    def state_dict(self) -> dict[str, Any]:
        return {
            "place": asdict(self._place),
            "open": asdict(self._open),
            "last": self._last,
            "given_at": self._given_at,
            "given": sorted(self._given),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._place = _Place(**state["place"])
        self._open = _Open(**state["open"])
        self._last, self._given_at = state["last"], state["given_at"]
        self._given = set(state["given"])

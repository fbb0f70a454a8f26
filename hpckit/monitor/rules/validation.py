"""Rules about validation: overdue, far below its best, or of a metric that measures nothing."""

from __future__ import annotations

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.rules.base import Rule, Watch


class ValidationOverdue(Rule):
    """There was no validation for twice its interval, counted in steps: a long one is no matter."""

    times = 2.0

    def __init__(self) -> None:
        self.every = 0.0
        self.last: int | None = None

    def observe(self, reading: Reading) -> Incident | None:
        every = reading.values.get("every/validation")
        if every is not None and every - every == 0:
            self.every = every
        if self.every <= 0:
            return None
        # One search through all names: the quickest way to ask, and this is asked at every step.
        validated = "\nval/" in "\n" + "\n".join(reading.values)
        if self.last is None or validated or reading.step < self.last:
            self.last = reading.step
        since = reading.step - self.last
        if not self.lasting(since > self.times * self.every, calm=1):
            return None
        said = f"no validation for {since} steps, it should be every {self.every:g}"
        return self.tell(reading, said, value=since, usual=self.every)


class PesqBelowBest(Watch):
    """Validation's PESQ fell and stays below its best."""

    value = "val/pesq"
    below = 0.15
    evaluations = 3

    def __init__(self) -> None:
        self.best: list[float] = []

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        if not self.best or value > self.best[0]:
            self.best = [value, reading.step]
        best, step = self.best
        if not self.lasting(value < best - self.below, self.evaluations, calm=1):
            return None
        said = f"PESQ {value:.2f}, its best was {best:.2f} at step {step:.0f}"
        return self.tell(reading, said, value=value, usual=best, onset=int(step))


class MetricConstant(Watch):
    """A metric has the same value for all items: it is broken."""

    value = "val_spread/"
    facts = ("val_items/",)
    within = 1e-9
    items = 8

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        items = self.known.get("val_items/" + of, 0)
        if not self.lasting(items >= self.items and value <= self.within, of=of, calm=1):
            return None
        return self.tell(reading, f"{of} is the same for all of {items:g} items", value=value)

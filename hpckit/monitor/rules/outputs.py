"""Rules about what the model puts out: its level, its classes, its codes."""

from __future__ import annotations

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.rules.base import Watch


class ScaleMismatch(Watch):
    """The estimate is much louder or softer than what the loss compares it with."""

    value = "scale/estimate_over_clean"
    low = 0.5
    high = 2.0
    steps = 100
    # A fresh model has first to find the level.
    at_first = 1000

    def __init__(self) -> None:
        self.has_been_well = False

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        wrong = not self.low <= value <= self.high
        self.has_been_well = self.has_been_well or not wrong
        if not self.lasting(wrong, self.steps if self.has_been_well else self.at_first):
            return None
        said = f"scale mismatch: the estimate is at {value:.3g} times the level of the clean signal"
        return self.tell(reading, said, value=value)


class OneClass(Watch):
    """Nearly all predictions are one class, and the targets are not."""

    value = "predictions/largest_class"
    facts = ("targets/largest_class",)
    above = 0.9
    steps = 100

    def __init__(self) -> None:
        # The first steps of a training often answer one class.
        self.started = False

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        share = self.mean(value, self.steps)
        if share is None:
            return None
        if not self.started:
            self.started = True
            return None
        true = self.known.get("targets/largest_class", 0.0)
        # Where nearly all targets are one class, such predictions may well be right.
        if not self.lasting(share > self.above and true < 0.9 * share, 2, calm=2):
            return None
        return self.tell(reading, f"{share:.0%} of the predictions are one class", value=share)


class CodebookUnused(Watch):
    """Most codes are never chosen."""

    value = "codebook/usage"
    below = 0.3
    steps = 500
    # A fresh codebook has first to spread.
    at_first = 2000

    def __init__(self) -> None:
        self.has_been_well = False

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        wrong = value < self.below
        self.has_been_well = self.has_been_well or not wrong
        if not self.lasting(wrong, self.steps if self.has_been_well else self.at_first):
            return None
        said = f"the codebook's perplexity is {value:.0%} of its size"
        return self.tell(reading, said, value=value)

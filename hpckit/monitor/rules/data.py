"""Rules about what the training is fed: nothing, the same again, too little, too late, broken."""

from __future__ import annotations

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.rules.base import Watch


class StepsWithoutData(Watch):
    """A step was taken on an empty batch.

    It acts: momentum and weight decay go on moving the weights, towards nothing that was learned,
    and no later step makes that good.
    """

    value = "data/size"
    answer = "act"
    batches = 1

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        if not self.lasting(value <= 0, self.batches):
            return None
        return self.tell(reading, "a step without data", value=value, onset=reading.step)


class SameBatch(Watch):
    """The same batch again and again, within one epoch."""

    value = "data/batch"
    facts = ("data/expected",)
    times = 3

    def __init__(self) -> None:
        self.last: float | None = None
        self.epoch: float | None = None
        # Whether there are several batches at all: to fit one on purpose is no fault.
        self.varied = False

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        epoch = reading.values.get("epoch")
        if epoch is not None:
            epoch = epoch // 1
        if value == self.last and epoch == self.epoch:
            return self._again(reading, value)
        self.varied = self.varied or (self.last is not None and value != self.last)
        self.last, self.epoch = value, epoch
        self.lasting(False)
        return None

    def _again(self, reading: Reading, value: float) -> Incident | None:
        expected = self.known.get("data/expected")
        has_others = self.varied if expected is None else expected > 1
        if not has_others or not self.lasting(True, self.times - 1):
            return None
        return self.tell(reading, f"the same batch {self.times:g} times running", value=value)


class EpochIncomplete(Watch):
    """An epoch had fewer batches than its data makes."""

    value = "data/batches"
    facts = ("data/expected",)
    within = 0.02

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        expected = self.known.get("data/expected", 0.0)
        # One may be missing: the last one, where it is not full.
        if not self.lasting(value < expected * (1 - self.within) - 1, calm=1):
            return None
        said = f"the epoch had {value:g} batches, its data makes {expected:g}"
        return self.tell(reading, said, value=value, usual=expected)


class DataTimeShare(Watch):
    """The training waits for its data most of the time."""

    value = "time/data"
    above = 0.4
    # Judged over so many steps, and only where the next as many are like them.
    steps = 100

    def __init__(self) -> None:
        self.waited = 0.0
        self.took = 0.0
        self.count = 0
        # The first steps start workers, compile and fill caches.
        self.started = False

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        took = reading.values.get("time/step")
        if took is None or took - took != 0:
            return None
        self.waited += value
        self.took += took
        self.count += 1
        if self.count < self.steps:
            return None
        share = self.waited / self.took if self.took > 0 else 0.0
        self.waited, self.took, self.count = 0.0, 0.0, 0
        if not self.started:
            self.started = True
            return None
        if not self.lasting(share > self.above, 2, calm=10):
            return None
        return self.tell(
            reading, f"{share:.0%} of the time goes into waiting for data", value=share
        )


class FeaturesNonFinite(Watch):
    """Some of the features are NaN or infinite."""

    value = "features/non_finite"
    above = 0.01
    batches = 50

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        share = self.mean(value, self.batches)
        if share is None or not self.lasting(share > self.above, calm=2):
            return None
        return self.tell(reading, f"{share:.1%} of the features are not finite", value=share)

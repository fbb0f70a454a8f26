"""Rules about the learning rate: stuck, off its plan, short of its base after the warm-up."""

from __future__ import annotations

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.rules.base import Watch

# Rates below it are the end of a decay, where only rounding is left to differ.
NOTHING = 1e-12


class LearningRateStuck(Watch):
    """A schedule was made, and the rate never changed: the optimizer does not know of it."""

    value = "lr/"
    facts = ("schedule/",)
    epochs = 2

    def __init__(self) -> None:
        # By optimizer: its first rate and epoch; empty once it moved, which proves the schedule.
        self.first: dict[str, list[float]] = {}

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        within = self.known.get("schedule/" + of)
        epoch = reading.values.get("epoch")
        if not within or epoch is None or epoch - epoch != 0:
            return None
        first = self.first.get(of)
        if first is None:
            # Taken up in the midst of a training: the rate may have moved before, and rest now.
            first = self.first[of] = [value, epoch] if epoch < 1 else []
        if not first or value != first[0]:
            self.first[of] = []
            return None
        lasted = epoch - first[1]
        if not self.lasting(lasted >= within - 1 + self.epochs, of=of):
            return None
        said = f"the learning rate is {value:.3g} since {lasted:.0f} epochs, its schedule unused"
        return self.tell(reading, said, value=value, optimizer=of)


class LearningRateOffSchedule(Watch):
    """The rate in force is not the planned one."""

    value = "lr_planned/"
    within = 0.05
    # A plan that is one step ahead differs by as much, for the first steps of a warm-up.
    steps = 100

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        rate = reading.values.get("lr/" + of)
        if rate is None or rate - rate != 0:
            return None
        off = abs(rate - value) > self.within * abs(value) + NOTHING
        if not self.lasting(off, self.steps, of=of):
            return None
        said = f"the learning rate is {rate:.3g}, planned is {value:.3g}"
        return self.tell(reading, said, value=rate, usual=value, optimizer=of)


class LearningRateAfterWarmup(Watch):
    """The warm-up is over and never led to the base rate."""

    value = "lr/"
    facts = ("lr_base/", "warmup/")
    within = 0.05

    def __init__(self) -> None:
        self.judged: list[str] = []

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        base, until = self.known.get("lr_base/" + of), self.known.get("warmup/" + of)
        if base is None or until is None or of in self.judged:
            return None
        # Schedules disagree whether step n is the last of the warm-up or the next.
        late = reading.step - until
        if late <= max(2, until / 100):
            return None
        self.judged.append(of)
        # What is first seen long after the warm-up may be a decay's.
        if late > max(10, until / 10) or abs(value - base) <= self.within * base:
            return None
        said = f"the warm-up ended at a learning rate of {value:.3g}, its base is {base:.3g}"
        return self.tell(reading, said, value=value, usual=base, optimizer=of)

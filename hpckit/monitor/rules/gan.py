"""Rules about two optimizers against each other: one wins, one stands still, one learns nothing."""

from __future__ import annotations

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.rules.base import Watch


class DiscriminatorWinning(Watch):
    """A discriminator tells all apart, and the generator does not fool it.

    For least-squares losses: 1 at the start, 0.5 at the equilibrium, about 0.3 in health. Told at
    `warn`, and once more at `fail`.
    """

    value = "train/discriminator/"
    warn = 0.2
    fail = 0.1
    steps = 500
    adversarial = 0.8

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        if value >= self.warn and not self._episodes:
            return None
        adversarial = reading.values.get("train/adversarial")
        if adversarial is None or adversarial - adversarial != 0:
            return None
        fails = adversarial > self.adversarial
        has_won = self.lasting(fails and value < self.fail, self.steps, of=of + " fail")
        wins = self.lasting(fails and value < self.warn, self.steps, of=of + " warn")
        if not has_won and not wins:
            return None
        said = f"discriminator {of} {'has won' if has_won else 'is winning'}: loss {value:.3g}"
        said += f" for {self.steps:g} steps, the generator's adversarial loss {adversarial:.3g}"
        return self.tell(reading, said, value=value)


class DiscriminatorNotUpdated(Watch):
    """An optimizer stopped, or skips most updates that were planned, while another goes on."""

    value = "updates/"
    facts = ("updates_planned/",)
    below = 0.5
    steps = 500

    def __init__(self) -> None:
        # By optimizer: step, its count, and that of all together, where the present stretch began.
        self.began: dict[str, list[float]] = {}

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        began = self.began.get(of)
        if began is None or reading.step < began[0] or value < began[1]:
            self.began[of] = [reading.step, value, _all_updates(reading)]
            return None
        passed = reading.step - began[0]
        if passed < self.steps:
            return None
        grown, total = value - began[1], _all_updates(reading)
        missing = self._is_missing(of, passed, grown, total - began[2])
        self.began[of] = [reading.step, value, total]
        if not self.lasting(missing, of=of, calm=2):
            return None
        said = f"updated {grown:g} times in {passed:g} steps"
        return self.tell(reading, said, value=value, optimizer=of)

    def _is_missing(self, of: str, passed: float, grown: float, all_grown: float) -> bool:
        planned = self.known.get("updates_planned/" + of)
        if planned is not None:
            return grown < self.below * planned * passed
        # One that never began may be meant to begin later.
        return grown <= 0 < self.began[of][1] and all_grown > 0


class TargetSpreadZero(Watch):
    """All items of a batch have the same target: it teaches nothing about the single ones."""

    value = "targets/spread"
    within = 1e-6
    batches = 10

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        # A batch of one has no spread, and says nothing.
        if reading.values.get("data/size", 2) < 2:
            return None
        if not self.lasting(value <= self.within, self.batches):
            return None
        said = f"the targets of each of {self.batches:g} batches running were all the same"
        return self.tell(reading, said, value=value)


def _all_updates(reading: Reading) -> float:
    return sum(each for each in reading.group("updates").values() if each - each == 0)

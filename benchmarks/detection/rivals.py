"""The rules that others use, by their published descriptions; `act` is where each raises its alarm.

- zclip: ZClip's z above 2.5 on moving averages (.97) begun on 25 steps; they learn what was clipped
- autoclip: AutoClip's QuantileClip, above the .9 quantile of the last 1000 norms
- olmo_skip_step: OLMo-core's, loss or norm not within 6 sigma of the mean of the last 128
- megatron_loss, megatron_norm: Megatron-LM's rerun machine, 10 times the largest of the first 100
- kill_loss_spike: LLM Foundry's, loss at least twice the mean of the last 100, 5 in a row
- rolling_median: norm above 10 times the median of the last 100
- field: log norm against median and MAD of 256 accepted ones, an act on the gate in 3 of 5 steps

What a non-finite value does to each one's memory is kept as published.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections import deque
from collections.abc import Callable
from typing import Protocol

from hpckit.monitor.incident import Answer, Incident


class Judged(Protocol):
    """What can be judged: hpckit's detector, and the rules here."""

    def observe(self, *, step: int, loss: float | None, norm: float) -> Incident | None: ...


def alarm(
    kind: str, step: int, said: str, *, onset: int | None = None, answer: Answer = "act"
) -> Incident:
    return Incident(kind=kind, step=step, answer=answer, said=said, onset=onset)


class ZClip:
    """Its mean and variance become NaN with the first NaN, and it is silent from there on."""

    def __init__(self, z: float = 2.5, alpha: float = 0.97, warm: int = 25) -> None:
        self.z, self.alpha, self.warm = z, alpha, warm
        self.first: list[float] = []
        self.mean = self.variance = 0.0

    def observe(self, *, step: int, loss: float | None, norm: float) -> Incident | None:
        if len(self.first) < self.warm:
            self.first.append(norm)
            if len(self.first) == self.warm:
                self.mean = sum(self.first) / self.warm
                self.variance = sum((x - self.mean) ** 2 for x in self.first) / self.warm
            return None
        scatter = math.sqrt(self.variance)
        z = (norm - self.mean) / (scatter + 1e-6)
        clips = z > self.z
        if clips:
            norm = self.mean + self.z * scatter * (self.z / z)
        self.mean = self.alpha * self.mean + (1 - self.alpha) * norm
        # Not `** 2`, which is an error where it overflows.
        off = norm - self.mean
        self.variance = self.alpha * self.variance + (1 - self.alpha) * off * off
        return alarm("explosion", step, f"z {z:.3g}") if clips else None


class AutoClip:
    """The quantile is taken with the new norm already in the history, as published."""

    def __init__(self, quantile: float = 0.9, length: int = 1000) -> None:
        self.quantile, self.length = quantile, length
        self.history: deque[float] = deque()
        self.ordered: list[float] = []
        self.poisoned = False

    def observe(self, *, step: int, loss: float | None, norm: float) -> Incident | None:
        # The quantile of a history with a NaN is NaN, until that has left the window.
        self.history.append(norm)
        if not math.isnan(norm):
            bisect.insort(self.ordered, norm)
        if len(self.history) > self.length:
            old = self.history.popleft()
            if not math.isnan(old):
                del self.ordered[bisect.bisect_left(self.ordered, old)]
        if len(self.ordered) < len(self.history):
            return None
        limit = self.ordered[int(self.quantile * (len(self.ordered) - 1))]
        return alarm("explosion", step, f"above {limit:.3g}") if norm > limit else None


class Window:
    """Mean and standard deviation of the last values; with a NaN among them both are NaN."""

    def __init__(self, length: int) -> None:
        self.values: deque[float] = deque(maxlen=length)

    def within(self, value: float, sigmas: float) -> bool:
        """Whether a value is not far above the others; nothing is within a NaN."""
        count = len(self.values)
        mean = sum(self.values) / count
        squares = sum((x - mean) * (x - mean) for x in self.values)
        return value <= mean + sigmas * math.sqrt(squares / (count - 1))


class SkipStep:
    """A skipped value stays in the window: a large one hides the next, a NaN skips 128 more."""

    def __init__(self, sigmas: float = 6.0, length: int = 128) -> None:
        self.sigmas, self.least = sigmas, length // 2
        self.losses, self.norms = Window(length), Window(length)

    def observe(self, *, step: int, loss: float | None, norm: float) -> Incident | None:
        far = len(self.norms.values) >= self.least and not self._within(loss, norm)
        self.norms.values.append(norm)
        self.losses.values.append(0.0 if loss is None else loss)
        return alarm("explosion", step, "beyond 6 sigma") if far else None

    def _within(self, loss: float | None, norm: float) -> bool:
        by_loss = loss is None or self.losses.within(loss, self.sigmas)
        return by_loss and self.norms.within(norm, self.sigmas)


class Spiky:
    """Ten times the largest of the first hundred, of the loss or of the norm."""

    def __init__(self, of: str, factor: float = 10.0, count: int = 100) -> None:
        self.of, self.factor, self.left, self.largest = of, factor, count, 0.0

    def observe(self, *, step: int, loss: float | None, norm: float) -> Incident | None:
        value = loss if self.of == "loss" else norm
        if value is None or not math.isfinite(value):
            return None
        if self.left > 0:
            self.left -= 1
            self.largest = max(self.largest, abs(value))
            return None
        spiky = value >= self.factor * self.largest
        return alarm("explosion", step, f"{value:.3g}, once {self.largest:.3g}") if spiky else None


class KillLossSpike:
    """Works on losses that are positive; a NaN in its window makes its mean NaN and resets it."""

    def __init__(self, times: float = 2.0, patience: int = 4, length: int = 100) -> None:
        self.times, self.patience = times, patience
        self.losses: deque[float] = deque(maxlen=length)
        self.running = 0

    def observe(self, *, step: int, loss: float | None, norm: float) -> Incident | None:
        if loss is None:
            return None
        full = len(self.losses) == self.losses.maxlen
        mean = sum(self.losses) / len(self.losses) if full else math.nan
        self.running = self.running + 1 if loss >= self.times * mean else 0
        self.losses.append(loss)
        if self.running > self.patience:
            return alarm("loss_lost", step, f"loss {loss:.3g}, on average {mean:.3g}")
        return None


class RollingMedian:
    """Ten times the median of the last norms that were finite."""

    def __init__(self, times: float = 10.0, length: int = 100, least: int = 20) -> None:
        self.times, self.least = times, least
        self.values: deque[float] = deque(maxlen=length)

    def observe(self, *, step: int, loss: float | None, norm: float) -> Incident | None:
        if not math.isfinite(norm):
            return None
        usual = math.inf
        if len(self.values) >= self.least:
            usual = statistics.median(self.values)
        self.values.append(norm)
        high = norm > self.times * usual
        return alarm("explosion", step, f"{norm:.3g}, usually {usual:.3g}") if high else None


class Field:
    """A gate on log norms, and an act where the gate closes again and again."""

    def __init__(self) -> None:
        self.accepted: deque[float] = deque(maxlen=256 + 16)
        self.gates: deque[bool] = deque(maxlen=5)
        self.count = self.broken = self.wild = 0
        self.usual, self.scatter = 0.0, math.inf
        self.calibrated = False

    def observe(self, *, step: int, loss: float | None, norm: float) -> Incident | None:
        if not math.isfinite(norm) or (loss is not None and not math.isfinite(loss)):
            self.gates.append(True)
            # Overflows before the first finite norm are a float16 scale that finds its level.
            self.broken += self.calibrated
            acts = self.broken >= 3
            return alarm("non_finite", step, "not finite", answer="act" if acts else "skip")
        self.calibrated, self.broken = True, 0
        x = math.log(max(norm, 1e-30))
        active = self.count >= 64
        above = x - self.usual if active else 0.0
        gated = active and above > max(6 * self.scatter, math.log(8))
        self.wild = self.wild + 1 if above > math.log(1000) else 0
        self.gates.append(gated)
        if not gated:
            self._accept(x)
            return None
        acts = sum(self.gates) >= 3 or self.wild >= 2
        said = f"{math.exp(min(above, 700.0)):.3g} times its usual"
        return alarm(
            "explosion" if acts else "bad_batch", step, said, answer="act" if acts else "skip"
        )

    def _accept(self, x: float) -> None:
        self.accepted.append(x)
        self.count += 1
        # A median of 256 each 8 steps, lagged 16: close enough and much faster.
        if self.count % 8 == 0 and self.count >= 64:
            old = sorted(list(self.accepted)[:-16])
            self.usual = old[len(old) // 2]
            off = sorted(abs(value - self.usual) for value in old)
            self.scatter = max(1.4826 * off[len(off) // 2], 0.10)


def _hpckit() -> Judged:
    from hpckit.monitor.detector import Detector

    return Detector()


DETECTORS: dict[str, Callable[[], Judged]] = {
    "hpckit": _hpckit,
    "zclip": ZClip,
    "autoclip": AutoClip,
    "olmo_skip_step": SkipStep,
    "megatron_loss": lambda: Spiky("loss"),
    "megatron_norm": lambda: Spiky("norm"),
    "kill_loss_spike": KillLossSpike,
    "rolling_median": RollingMedian,
    "field": Field,
}

"""What one small training is to be: model, optimizer, schedule, and what goes wrong in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["constant", "warmup_cosine", "drops", "restarts"]

# The first step whose update or weights are bad is known for these; the others creep in.
KNOWN_BEGIN = frozenset(
    {
        "lr_jump",
        "weight_scale",
        "weight_noise",
        "bit_flip",
        "data_nan",
        "data_huge",
        "moments_lost",
        "shrink",
        "fade",
        "label_noise",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that goes wrong, from a step on."""

    kind: str
    at: int = 0
    # A factor, or a share: what it means is the kind's own.
    size: float = 1.0

    @property
    def begin(self) -> int | None:
        return self.at if self.kind in KNOWN_BEGIN else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All that decides a run."""

    family: str
    name: str
    seed: int
    steps: int
    optimizer: str = "adamw"
    lr: float = 1e-3
    beta2: float = 0.999
    eps: float = 1e-8
    clip: float | None = None
    schedule: Schedule = "constant"
    # A restart also empties the optimizer's memory.
    forgets: bool = False
    # Where the data gets harder, and how hard it is from there.
    curriculum: tuple[tuple[int, float], ...] = ()
    # The share of batches that are outliers, a healthy thing.
    outliers: float = 0.0
    # Single batches of NaN, also healthy: their update is held back.
    nan_batches: tuple[int, ...] = ()
    # Loss scaling of a float16 training: its first scale, and after how many good steps it doubles.
    scale: float | None = None
    scale_interval: int = 2000
    fault: Fault | None = None

    def rate(self, step: int) -> float:
        """The learning rate of a step, with its fault."""
        return self.lr * scheduled(self.schedule, step, self.steps) * _faulty_rate(self.fault, step)

    def hardness(self, step: int) -> float:
        """How hard the data of a step is; 1 is usual."""
        return next((hard for since, hard in reversed(self.curriculum) if step >= since), 1.0)


def scheduled(schedule: Schedule, step: int, steps: int) -> float:
    """A schedule's factor on the learning rate."""
    part = step / steps
    if schedule == "warmup_cosine":
        return step / (0.05 * steps) if part < 0.05 else 0.5 * (1 + math.cos(math.pi * part)) + 0.01
    if schedule == "drops":
        return 0.1 ** sum(part >= at for at in (0.5, 0.8))
    if schedule == "restarts":
        return 0.5 * (1 + math.cos(math.pi * (part * 4 % 1))) + 0.01
    return 1.0


def _faulty_rate(fault: Fault | None, step: int) -> float:
    if fault is None or step < fault.at:
        return 1.0
    if fault.kind in ("lr_hot", "lr_jump"):
        return fault.size
    if fault.kind == "lr_ramp":
        # A rate beyond this is inf in float32 weights at once, which no ramp is.
        return min(fault.size ** (step - fault.at), 1e12)
    return 1.0

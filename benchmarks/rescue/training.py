"""What a training of this benchmark is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Batch = list[Tensor]
# Batches beyond a training's steps: three times a hundred may be left out.
SPARE = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a person chooses: right in the oracle's, wrong in the bad ones."""

    lr: float
    clip: float | None
    steps: int
    # The share of the steps over which the rate rises, and that over which it falls at the end.
    warmup: float = 0.05
    decay: float = 0.5
    # A second stage: from this share of the steps on the rate is `lr`, and a quarter of it before.
    second_stage: float = 0.0


@dataclass(kw_only=True)
class Player:
    """One optimizer with its schedule, and what it minimises."""

    optimizer: Optimizer
    schedule: LambdaLR
    loss: Callable[[Batch], Tensor]

    @property
    def parameters(self) -> list[Tensor]:
        return [each for group in self.optimizer.param_groups for each in group["params"]]


@dataclass(kw_only=True)
class Training:
    """Models, players in the order in which they move, batches in theirs, and the last word.

    It is over after so many steps, as language models' are: there are more batches than it needs.
    """

    models: dict[str, nn.Module]
    players: dict[str, Player]
    batches: list[Batch]
    steps: int
    clip: float | None
    # The loss on data that nobody trains on.
    evaluate: Callable[[], Tensor]

    @property
    def epochs(self) -> int:
        """Enough for all steps, whatever is left out."""
        return -(-(self.steps + SPARE) // len(self.batches))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of training, with settings that are right and settings that are wrong."""

    build: Callable[[int, Settings], Training]
    oracle: Settings
    bad: Settings


def scheduled(optimizer: Optimizer, settings: Settings) -> LambdaLR:
    """Up in a line, level, and down in a cosine."""
    up = max(1.0, settings.warmup * settings.steps)
    down = max(1.0, settings.decay * settings.steps)

    def factor(step: int) -> float:
        left = min(1.0, max(0.0, (settings.steps - step) / down))
        stage = 1.0 if step >= settings.second_stage * settings.steps else 0.25
        return stage * min(1.0, (step + 1) / up) * (0.01 + 0.495 * (1 - math.cos(math.pi * left)))

    return LambdaLR(optimizer, factor)

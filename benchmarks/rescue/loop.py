"""A training by a plain PyTorch loop, with one of the rivals between backward and step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle, islice

import torch

from benchmarks.rescue.rivals import Guard
from benchmarks.rescue.training import Player, Training

# A run that showed nothing finite for so long shows nothing more.
DEAD_STEPS = 40


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What became of one training."""

    # The loss on data held out; NaN where the training did not come to its end.
    final: float = math.nan
    steps: int = 0
    seconds: float = 0.0
    # When the first value was not finite.
    broken_at: int | None = None
    clipped: int = 0
    # Steps left out.
    skipped: int = 0
    # Of hpckit: the steps that each rollback cost, what was seen, and why it stopped, if it did.
    replayed: list[int] = field(default_factory=list)
    # Of these, updates that had been applied.
    undone: list[int] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)
    stopped: str = ""

    @property
    def rollbacks(self) -> int:
        return len(self.replayed)


def train(training: Training, make_guard: Callable[[float | None], Guard]) -> Outcome:
    """To the end, or to where nothing finite comes any more."""
    guards = {name: make_guard(training.clip) for name in training.players}
    outcome = Outcome()
    dead = 0
    for batch in islice(cycle(training.batches), training.steps):
        whole = [
            _move(player, batch, guards[name], outcome) for name, player in training.players.items()
        ]
        for player in training.players.values():
            player.schedule.step()
        if not all(whole) and outcome.broken_at is None:
            outcome.broken_at = outcome.steps
        outcome.steps += 1
        dead = 0 if all(whole) else dead + 1
        if dead == DEAD_STEPS:
            return outcome
    outcome.final = evaluated(training)
    return outcome


def evaluated(training: Training) -> float:
    with torch.no_grad():
        return float(training.evaluate())


def _move(player: Player, batch: list[torch.Tensor], guard: Guard, outcome: Outcome) -> bool:
    """One optimizer's step; whether it was finite."""
    player.optimizer.zero_grad()
    loss = player.loss(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [each.grad for each in player.parameters if each.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
    value = float(loss.detach())
    factor = guard.factor(value, norm)
    if factor is None:
        outcome.skipped += 1
    else:
        if factor != 1.0:
            outcome.clipped += 1
            torch._foreach_mul_(gradients, factor)
        player.optimizer.step()
    return math.isfinite(norm) and math.isfinite(value)

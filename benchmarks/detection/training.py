"""Trains one small model by its recipe and writes down what a monitor would have seen.

The recorded norm is the total over a player's gradients before clipping, the loss is that of the
same step. Non-finite updates are held back, as hpckit's gate and float16's loss scaling do, so one
NaN batch stays one NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.detection.recipe import Recipe
from benchmarks.detection.tampering import tamper_data, tamper_weights

# A run that showed nothing finite for so long shows nothing more.
DEAD_STEPS = 40

Batch = list[torch.Tensor]


@dataclass(kw_only=True)
class Player:
    """One optimizer's part of a model: its parameters and what it minimises."""

    parameters: list[torch.nn.Parameter]
    loss: Callable[[Batch], torch.Tensor]


@dataclass(kw_only=True)
class Task:
    """A model with its data."""

    players: dict[str, Player]
    batch: Callable[[float], Batch]


@dataclass(kw_only=True)
class Scaler:
    """The scale of a float16 training's loss, as torch.amp.GradScaler moves it."""

    scale: float
    interval: int
    good: int = 0

    def update(self, overflowed: bool) -> None:
        if overflowed:
            self.scale, self.good = self.scale * 0.5, 0
            return
        self.good += 1
        if self.good == self.interval:
            self.scale, self.good = self.scale * 2, 0


@dataclass(kw_only=True)
class Seat:
    """A player at work, and its record."""

    player: Player
    optimizer: torch.optim.Optimizer
    norms: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    clipped: int = 0


def make_optimizer(recipe: Recipe, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    betas = (0.9, recipe.beta2)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=recipe.lr)
    if recipe.optimizer == "momentum":
        return torch.optim.SGD(parameters, lr=recipe.lr, momentum=0.9)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.lr, betas=betas, eps=recipe.eps)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, betas=betas, eps=recipe.eps)
    raise ValueError(f"no optimizer {recipe.optimizer!r}; there are sgd, momentum, adam, adamw")


def train(recipe: Recipe, make_task: Callable[[], Task]) -> dict[str, Seat]:
    """Run a recipe to its end, or to where nothing finite comes any more."""
    torch.manual_seed(recipe.seed)
    odd = np.random.default_rng(recipe.seed)
    task = make_task()
    seats = {
        name: Seat(player=player, optimizer=make_optimizer(recipe, player.parameters))
        for name, player in task.players.items()
    }
    scaler = (
        None if recipe.scale is None else Scaler(scale=recipe.scale, interval=recipe.scale_interval)
    )
    dead = 0
    for step in range(recipe.steps):
        _before(recipe, step, seats)
        batch = tamper_data(recipe, step, task.batch(recipe.hardness(step)), odd)
        # Every player moves, also after one that was held back.
        held = [seat for seat in seats.values() if not _move(seat, recipe, batch, scaler)]
        dead = dead + 1 if held else 0
        if dead == DEAD_STEPS:
            break
    return seats


def _before(recipe: Recipe, step: int, seats: dict[str, Seat]) -> None:
    restarted = recipe.forgets and step and step % (recipe.steps // 4) == 0
    for seat in seats.values():
        if restarted:
            seat.optimizer.state.clear()
        for group in seat.optimizer.param_groups:
            group["lr"] = recipe.rate(step)
    # In a GAN the fault is in the last player, the generator.
    seat = list(seats.values())[-1]
    tamper_weights(recipe.fault, step, seat.player.parameters, seat.optimizer)


def _move(seat: Seat, recipe: Recipe, batch: Batch, scaler: Scaler | None) -> bool:
    """One optimizer's step; whether it was finite and so applied."""
    scale = 1.0 if scaler is None else scaler.scale
    for parameter in seat.player.parameters:
        parameter.grad = None
    loss = seat.player.loss(batch)
    (loss * scale).backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in seat.player.parameters if p.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))) / scale
    seat.norms.append(norm)
    seat.losses.append(float(loss.detach()))
    whole = math.isfinite(norm) and math.isfinite(seat.losses[-1])
    if scaler is not None:
        scaler.update(not whole)
    if whole:
        _apply(seat, recipe, gradients, norm, scale)
    return whole


def _apply(seat: Seat, recipe: Recipe, gradients: list[Any], norm: float, scale: float) -> None:
    factor = 1.0 / scale
    if recipe.clip is not None and norm > recipe.clip:
        factor *= recipe.clip / norm
        seat.clipped += 1
    if factor != 1.0:
        torch._foreach_mul_(gradients, factor)
    seat.optimizer.step()

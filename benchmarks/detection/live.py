"""The corpus's trainings that go wrong, trained again with hpckit's own step: what gets through?

Closed loop: the gate holds updates back, so what follows is what really would. Counted is each step
after which a weight is not finite that was finite before it: by a gradient that was not finite, or
by a learning rate so large that a finite update overflows, which no look at gradients prevents.
Nothing is rolled back here; a run that was acted on is as good as ended and stops soon after.

    python -m benchmarks.detection.live [--runs 4] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.detection import tested_models, tuned_models
from benchmarks.detection.plan import recipes
from benchmarks.detection.recipe import Recipe
from benchmarks.detection.tampering import tamper_data, tamper_weights
from benchmarks.detection.training import Player, make_optimizer
from hpckit.train import Stepper

SEED = 0
# Steps that a run goes on after the first act.
AFTER = 30


@dataclass(kw_only=True, slots=True)
class Live:
    """What became of one training."""

    name: str
    family: str
    steps: int = 0
    gated: int = 0
    non_finite_updates: int = 0
    # Weights that overflowed under gradients that were finite: the learning rate did it.
    overflows: int = 0
    acted_at: int | None = None
    said: str = ""


def live(recipe: Recipe) -> Live:
    """Train by a recipe, through a Stepper."""
    torch.manual_seed(recipe.seed)
    odd = np.random.default_rng(recipe.seed)
    task = {**tuned_models.TASKS, **tested_models.TASKS}[recipe.family]()
    players = {name or "main": each for name, each in task.players.items()}
    optimizers = {name: make_optimizer(recipe, each.parameters) for name, each in players.items()}
    scaler = torch.amp.GradScaler(
        "cpu", init_scale=recipe.scale or 1.0, enabled=recipe.scale is not None
    )
    stepper = Stepper(
        model=torch.nn.ParameterList(p for each in players.values() for p in each.parameters),
        optimizers=optimizers,
        clip=recipe.clip,
    )
    found = Live(name=recipe.name, family=recipe.family)
    for step in range(recipe.steps):
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
        last = list(players)[-1]
        tamper_weights(recipe.fault, step, players[last].parameters, optimizers[last])
        batch = tamper_data(recipe, step, task.batch(recipe.hardness(step)), odd)
        for name, player in players.items():
            _move(name, player, batch, stepper, scaler, found)
        for incident in stepper.end():
            if incident.acts and found.acted_at is None:
                found.acted_at, found.said = step, str(incident)
        found.steps += 1
        if found.acted_at is not None and step > found.acted_at + AFTER:
            break
    return found


def _move(
    name: str,
    player: Player,
    batch: list[torch.Tensor],
    stepper: Stepper,
    scaler: Any,
    found: Live,
) -> None:
    for parameter in player.parameters:
        parameter.grad = None
    loss = player.loss(batch)
    scaler.scale(loss).backward()
    was_finite = _finite(player)
    stepper.step(name, loss=loss, scaler=scaler)
    found.gated += int(stepper._values[f"grad/gated/{name}"])
    if was_finite and not _finite(player):
        if math.isfinite(float(stepper._values[f"grad/norm/{name}"])):
            found.overflows += 1
        else:
            found.non_finite_updates += 1


def _finite(player: Player) -> bool:
    return all(bool(torch.isfinite(each).all()) for each in player.parameters)


def chosen(runs: int) -> Iterator[Recipe]:
    """Of each kind of model some that go wrong."""
    seen: dict[str, int] = {}
    for recipe in recipes(SEED):
        if recipe.fault is not None and seen.get(recipe.family, 0) < runs:
            seen[recipe.family] = seen.get(recipe.family, 0) + 1
            yield recipe


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection.live")
    parser.add_argument("--runs", type=int, default=4, help="of each kind of model")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for recipe in chosen(asked.runs):
        found.append(live(recipe))
        last = found[-1]
        what = last.said or "not acted on"
        print(f"{last.name}: {last.gated} of {last.steps} held back; {what}", file=sys.stderr)
    if asked.json:
        print(json.dumps([dataclasses.asdict(each) for each in found], indent=1))
        return
    print(f"{len(found)} trainings that go wrong, {sum(each.steps for each in found):,} steps")
    print(f"  acted on                     {sum(each.acted_at is not None for each in found)}")
    print(f"  updates held back            {sum(each.gated for each in found):,}")
    print(f"  non-finite updates applied   {sum(each.non_finite_updates for each in found)}")
    print(f"  weights that overflowed      {sum(each.overflows for each in found)}")


if __name__ == "__main__":
    main()

"""Small trainings of every form, which are ended at any moment and must go on as if nothing was.

    HPCKIT_RUN_DIR=... python -m tests.train.kill_trainings nested

They leave all that they have at their end in `final-<rank>.pt` in the run's folder.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

import hpckit
from hpckit import requests
from hpckit.train.lag import Lag

ITEMS, BATCH, WIDTH, EPOCHS = 320, 8, 12, 4
# A batch in so many steps is followed by a wish of the body's to save, or by somebody's request.
ASK_EVERY = 33


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a training is made of."""

    nested: bool = False
    ranks: int = 1
    workers: int = 0
    persistent: bool = False
    # The loader has a generator of its own.
    generator: bool = False
    # Batches of one body, or bodies of one step.
    accumulate: int = 1
    bodies: int = 1
    # The type of an autocast; float16 has a scaler.
    autocast: torch.dtype | None = None
    gan: bool = False
    ema: bool = False
    # A GPU's readings are used so many steps later.
    lag: int = 1
    every: str = "20 steps"

    @property
    def spec(self) -> dict[str, Any]:
        """Few to keep and soon good, so that much is deleted."""
        return {"checkpoint": {"every": self.every, "keep": 2, "confirm_steps": 15}}


VARIANTS = {
    "flat": Variant(),
    "flat, 2 workers": Variant(workers=2, every="17 steps"),
    "nested": Variant(nested=True, generator=True),
    "nested, 2 workers": Variant(nested=True, workers=2, persistent=True, every="1 epoch"),
    "accumulate=4": Variant(accumulate=4, every="5 steps"),
    # No epoch of 40 ends with a step.
    "a step every 3rd body": Variant(nested=True, bodies=3, every="4 steps"),
    "bfloat16": Variant(autocast=torch.bfloat16, every="13 steps"),
    "float16, scaler": Variant(autocast=torch.float16, nested=True),
    "GAN": Variant(gan=True, nested=True),
    "GAN, 2 workers": Variant(gan=True, workers=2, persistent=True),
    "EMA": Variant(ema=True, every="11 steps"),
    "late readings": Variant(nested=True, lag=4, every="10 steps"),
    "2 ranks": Variant(ranks=2),
    "2 ranks, nested": Variant(ranks=2, nested=True, ema=True, every="10 steps"),
    "2 ranks, accumulate=4": Variant(ranks=2, accumulate=4, every="3 steps"),
}


class Items(Dataset[tuple[Tensor, Tensor]]):
    """Every item is another one each time: by Python's, NumPy's and torch's numbers."""

    def __init__(self) -> None:
        made = torch.Generator().manual_seed(1)
        self.x = torch.randn(ITEMS, WIDTH, generator=made)
        self.y = self.x[:, :3].sin()

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = self.x[index] * random.uniform(0.9, 1.1) + 0.1 * torch.randn(WIDTH)
        return x + float(numpy.random.normal(0.0, 0.1)), self.y[index]


def network(outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(WIDTH, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, outputs)
    )


class Training:
    """A person's program: what it is made of, its step, and what comes after an epoch."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.run = hpckit.attach(params={"epochs": EPOCHS})
        self.model = network(3)
        self.critic = network(1) if variant.gan else None
        data = Items()
        sampler = DistributedSampler(data, seed=3) if variant.ranks > 1 else None
        self.loader = DataLoader(
            data,
            BATCH,
            shuffle=sampler is None,
            sampler=sampler,
            num_workers=variant.workers,
            persistent_workers=variant.persistent,
            generator=torch.Generator().manual_seed(9) if variant.generator else None,
        )
        self.optimizer: Any = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        if variant.ema:
            self.optimizer = torch.optim.SGD(
                self.model.parameters(), lr=1e-2, momentum=0.9, nesterov=True
            )
        scheduler = torch.optim.lr_scheduler
        if variant.nested:
            self.schedule: Any = scheduler.ReduceLROnPlateau(self.optimizer, patience=0)
        else:
            self.schedule = scheduler.CosineAnnealingLR(self.optimizer, 400)
        self.things = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        if self.critic is not None:
            self.second = torch.optim.Adam(self.critic.parameters(), lr=2e-3, betas=(0.5, 0.9))
            self.things |= {"critic": self.critic, "second": self.second}
        self.scaler = None
        if variant.autocast == torch.float16:
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=25)
            self.things["scaler"] = self.scaler
        if variant.ema:
            self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.95))
            self.things["ema"] = self.ema
        self.forward: Any = self.model
        if variant.ranks > 1:
            self.forward = DistributedDataParallel(self.model)
        self.run.register(clip=1.0, **self.things)
        self.run.stepper.lag = Lag(variant.lag)

    def train(self, on_step: Callable[[int], None]) -> None:
        run, variant = self.run, self.variant
        epochs = run.params["epochs"]
        run.values.setdefault("values", [])
        if variant.nested:
            for _ in run.epochs(epochs):
                for batch in run.batches(self.loader, accumulate=variant.accumulate):
                    self.body(batch, on_step)
                self.tail()
            return
        for batch in run.batches(self.loader, epochs=epochs, accumulate=variant.accumulate):
            self.body(batch, on_step)
            if run.epoch_ends:
                self.validate()

    def body(self, batch: Any, on_step: Callable[[int], None]) -> None:
        variant, run = self.variant, self.run
        batches = batch if variant.accumulate > 1 else [batch]
        for number, (x, y) in enumerate(batches):
            with self.syncs(number == len(batches) - 1):
                loss = self.loss(x, y) / (len(batches) * variant.bodies)
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        run.values["bodies"] = run.values.get("bodies", 0) + 1
        if run.values["bodies"] % variant.bodies:
            return
        run.step(self.optimizer, loss=loss, scaler=self.scaler)
        self.optimizer.zero_grad()
        if variant.ema:
            self.ema.update_parameters(self.model)
        if not variant.nested:
            self.schedule.step()
        run.log(drawn=random.random() + numpy.random.random(), seen=float(x.sum()))
        step = run.step_number + 1
        run.values["seen"] = run.values.get("seen", 0) + len(x)
        if step % ASK_EVERY == 0:
            run.save()
        elif step % ASK_EVERY == 7 and run.is_main:
            requests.ask(Path(os.environ["HPCKIT_RUN_DIR"]), requests.SAVE)
        on_step(step)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        kind = self.variant.autocast
        with torch.autocast("cpu", dtype=kind) if kind is not None else nullcontext():
            made = self.forward(x)
        if self.critic is None:
            return (made.float() - y).square().mean()
        padding = torch.zeros(len(x), WIDTH - 3)
        told = self.critic(torch.cat([made.detach(), padding], 1))
        wrong = nn.functional.softplus(told) + nn.functional.softplus(
            -self.critic(torch.cat([y, padding], 1))
        )
        self.second.zero_grad()
        wrong.mean().backward()
        self.run.step(self.second, loss=wrong.mean())
        fooled = nn.functional.softplus(-self.critic(torch.cat([made, padding], 1)))
        return (made - y).square().mean() + 0.1 * fooled.mean()

    def syncs(self, is_last: bool) -> AbstractContextManager[Any]:
        """Of an accumulation's batches only the last has its gradients exchanged."""
        ranks = self.variant.ranks
        return self.forward.no_sync() if ranks > 1 and not is_last else nullcontext()

    def tail(self) -> None:
        # A rate that hangs on what was found.
        self.schedule.step(self.validate())

    def validate(self) -> float:
        """What draws numbers, and leaves the model as it was."""
        self.forward.eval()
        with torch.no_grad():
            errors = [
                (self.forward(x) - y).square().mean() for x, y in DataLoader(Items(), 64, True)
            ]
        self.forward.train()
        found = torch.stack(errors).mean()
        if self.variant.ranks > 1:
            distributed.all_reduce(found)
        self.run.values["values"].append(float(found))
        self.run.best(found, name="error")
        return float(found)

    def final(self) -> dict[str, Any]:
        """All there is at the end, and what the next numbers would be."""
        run = self.run
        return {
            "step": run.step_number,
            "things": {name: self.state_of(thing) for name, thing in self.things.items()},
            "values": run.values,
            "best": run.best_values.state_dict(),
            "next numbers": [random.random(), numpy.random.random(), float(torch.rand(()))],
            "stepper": without_times(run.stepper.state_dict()),
        }

    def state_of(self, thing: Any) -> dict[str, Any]:
        if self.run.is_main or not isinstance(thing, nn.Module):
            return dict(thing.state_dict())
        # Other ranks' buffers are rank 0's after the next forward: DDP sees to that.
        return dict(thing.named_parameters())


def without_times(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: without_times(v) for k, v in tree.items() if "time" not in str(k)}
    return [without_times(each) for each in tree] if isinstance(tree, list) else tree


def main(name: str, on_step: Callable[[int], None] = lambda step: None) -> None:
    variant = VARIANTS[name]
    folder = Path(os.environ["HPCKIT_RUN_DIR"])
    torch.set_num_threads(1)
    requests.LOOK_S = 0.0
    if variant.ranks > 1:
        distributed.init_process_group("gloo")
    rank = int(os.environ.get("RANK", "0"))
    # Whoever goes on begins with other weights and numbers: all of it must be put back.
    goes_on = any(folder.glob("checkpoints/*/manifest.json"))
    seed = random.SystemRandom().randrange(10**6) if goes_on else rank
    torch.manual_seed(seed if goes_on else 0)
    training = Training(variant)
    for generator in (torch.manual_seed, random.seed, numpy.random.seed):
        generator(seed)
    training.train(on_step)
    torch.save(training.final(), folder / f".final-{rank}.pt")
    os.replace(folder / f".final-{rank}.pt", folder / f"final-{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])

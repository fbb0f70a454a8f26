"""A small training with Lightning; a program, too: `python -m ... OUT [settings]`."""

from __future__ import annotations

import math
import os
import signal
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hpckit.integrations.lightning import HpckitCallback
from tests.integrations.alone import as_program

warnings.filterwarnings("ignore")


def dataset(size: int = 64) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    points = torch.randn(size, 4, generator=generator)
    return TensorDataset(points, points.sum(1, keepdim=True))


class Net(pl.LightningModule):
    """Dropout draws random numbers, batch norm has buffers, AdamW has moments."""

    def __init__(self, lr: float = 1e-2) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1)
        )
        self.losses: list[float] = []

    def training_step(self, batch: Any, number: int) -> Any:
        points, wanted = batch
        loss = nn.functional.mse_loss(self.net(points), wanted)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Any, number: int) -> None:
        points, wanted = batch
        self.log("val_loss", nn.functional.mse_loss(self.net(points), wanted))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Gan(pl.LightningModule):
    """Two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Linear(4, 4)
        self.discriminator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def training_step(self, batch: Any, number: int) -> None:
        points = batch[0]
        opt_g, opt_d = self.optimizers()
        made = self.generator(torch.randn_like(points))
        score = nn.functional.softplus
        loss_d = (
            score(self.discriminator(made.detach())) + score(-self.discriminator(points))
        ).mean()
        opt_d.zero_grad()
        self.manual_backward(loss_d)
        opt_d.step()
        loss_g = score(-self.discriminator(made)).mean()
        opt_g.zero_grad()
        self.manual_backward(loss_g)
        opt_g.step()

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.generator.parameters(), lr=1e-3),
            torch.optim.Adam(self.discriminator.parameters(), lr=1e-3),
        ]


class Crash(Exception):
    """The process would be gone."""


class Disturb(Callback):
    """What may happen to a training: a batch that is no number, an explosion, the end.

    Steps are faster here than a disk: each waits until what was saved is written.
    """

    def __init__(self, **at: int) -> None:
        self.at = at
        self.batches = 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> Any:
        self.batches += 1
        wait_for_checkpoints(trainer)
        if self.batches == self.at.get("nan"):
            batch[0].fill_(float("nan"))
        if 0 <= self.batches - self.at.get("explosion", 1 << 30) < self.at.get("length", 40):
            batch[1].mul_(10.0 ** (1 + self.batches - self.at["explosion"]))
        if self.batches == self.at.get("crash"):
            raise Crash
        if self.batches == self.at.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.batches == self.at.get("term"):
            os.kill(os.getpid(), signal.SIGTERM)


def wait_for_checkpoints(trainer: Any) -> None:
    for each in trainer.callbacks:
        if isinstance(each, HpckitCallback) and each.run.inside and each.run._keeper is not None:
            each.run._kept.saver.wait()


def trainer_of(folder: Path, *callbacks: Any, **settings: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    given = {"accelerator": "cpu", "devices": 1, "enable_model_summary": False, "max_epochs": 5}
    return pl.Trainer(
        default_root_dir=folder, callbacks=list(callbacks), **{**quiet, **given, **settings}
    )


def train(
    folder: Path,
    module: Any = None,
    *,
    callback: Any = None,
    validate: bool = False,
    disturb: dict[str, int] | None = None,
    size: int = 64,
    workers: int = 0,
    beside: Sequence[Any] = (),
    **settings: Any,
) -> Any:
    torch.manual_seed(1)
    module = module if module is not None else Net()
    loader = DataLoader(dataset(size), batch_size=8, shuffle=True, num_workers=workers)
    more = [callback] if callback is not None else []
    trainer = trainer_of(folder, *more, *beside, Disturb(**(disturb or {})), **settings)
    trainer.fit(module, loader, DataLoader(dataset(), batch_size=64) if validate else None)
    return trainer, module


def rate_at(step: int, steps: int) -> float:
    """What the schedule makes of the rate."""
    return 1e-2 * (1 + math.cos(math.pi * step / 40)) / 2


def steps_of(trainer: pl.Trainer) -> int:
    return trainer.global_step


if __name__ == "__main__":
    as_program(train, steps_of, HpckitCallback())

"""A small training with transformers.Trainer; a program, too: `python -m ... OUT [settings]`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from hpckit.integrations.huggingface import HpckitCallback
from tests.integrations.alone import as_program


class Points(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, size: int = 64) -> None:
        generator = torch.Generator().manual_seed(5)
        self.points = torch.randn(size, 4, generator=generator)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"points": self.points[index], "labels": self.points[index].sum()[None]}


class Net(nn.Module):
    """Dropout draws random numbers, AdamW has moments."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1)
        )
        self.losses: list[float] = []

    def forward(self, points: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        made = self.net(points)
        loss = nn.functional.mse_loss(made, labels)
        if self.training:
            self.losses.append(loss.item())
        return {"loss": loss, "logits": made}


class Crash(Exception):
    """The process would be gone."""


class Disturbed(Trainer):
    """Gives a batch that is no number, an explosion, the end.

    Steps are faster here than a disk: each waits until what was saved is written.
    """

    at: dict[str, int]
    batches = 0

    def training_step(self, model: Any, inputs: Any, *args: Any) -> Any:
        self.batches += 1
        wait_for_checkpoints(self)
        if self.batches == self.at.get("nan"):
            inputs["points"] = inputs["points"] * float("nan")
        since = self.batches - self.at.get("explosion", 1 << 30)
        if 0 <= since < self.at.get("length", 40):
            inputs["labels"] = inputs["labels"] * 10.0 ** (1 + since)
        if self.batches == self.at.get("crash"):
            raise Crash
        if self.batches == self.at.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.batches == self.at.get("term"):
            os.kill(os.getpid(), signal.SIGTERM)
        return super().training_step(model, inputs, *args)


def wait_for_checkpoints(trainer: Any) -> None:
    for each in trainer.callback_handler.callbacks:
        if isinstance(each, HpckitCallback) and each.run.inside:
            each.run._kept.saver.wait()


def train(
    folder: Path,
    *,
    callback: TrainerCallback | None = None,
    disturb: dict[str, int] | None = None,
    size: int = 64,
    **settings: Any,
) -> tuple[Trainer, Net]:
    given = {
        "num_train_epochs": 5,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 5,
    }
    torch.manual_seed(1)
    module = Net()
    trainer = Disturbed(
        model=module,
        args=TrainingArguments(str(folder), **{**given, **settings}),
        train_dataset=Points(size),
        eval_dataset=Points(),
        callbacks=[callback] if callback is not None else None,
    )
    trainer.at = disturb or {}
    trainer.train()
    return trainer, module


def rate_at(step: int, steps: int) -> float:
    """What the schedule makes of the rate."""
    return 1e-2 * (1 - step / steps)


def steps_of(trainer: Trainer) -> int:
    return trainer.state.global_step


if __name__ == "__main__":
    as_program(train, steps_of, HpckitCallback())

"""The trainings that runs of these tests are: small, and slow enough to be interrupted."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

import hpckit.train


class Small(hpckit.train.Trainer):
    """Fits a line; how long a step takes is a parameter."""

    epochs = 3
    progress = False

    def build(self) -> None:
        torch.set_num_threads(1)
        generator = torch.Generator().manual_seed(0)
        points = torch.randn(320, 4, generator=generator)
        self.model = self.prepare(self.network())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.loader = self.make_loader(
            TensorDataset(points, points.sum(dim=1, keepdim=True)), batch_size=4
        )

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        points, targets = batch
        time.sleep(self.params.get("step_s", 0.0))
        loss: torch.Tensor = (self.model(points) - targets).square().mean()
        return loss * self.amplified()

    def amplified(self) -> float:
        return 1.0


class Telling(Small):
    """Leaves a line for each step that a rank begins: whose it is, and when it was."""

    def loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        environ = os.environ
        folder = Path(environ["HPCKIT_RUN_DIR"], "told")
        folder.mkdir(exist_ok=True)
        who = (environ[name] for name in ("HPCKIT_ATTEMPT", "HPCKIT_LAUNCH", "RANK"))
        with open(folder / "-".join(who), "a") as told:
            told.write(f"{time.time()} {self.session.step_number}\n")
        return super().loss(batch)


class Exploding(Small):
    """Grows at the same place whatever the learning rate is: no restart heals it."""

    epochs = 20

    def network(self) -> nn.Module:
        return nn.Linear(4, 1)

    def amplified(self) -> float:
        grows_since = self.session.step_number - 420
        return float(1.3 ** max(0, grows_since))


class Failing(Small):
    """Has an error of its own, at one step."""

    def loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        if self.session.step_number == self.params["fails_at"]:
            raise ValueError("these data are broken")
        return super().loss(batch)


class OnBadNode(Telling):
    """One of its nodes has a broken GPU."""

    def loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        is_there = os.environ["SLURMD_NODENAME"] == self.params["bad"]
        if is_there and self.session.step_number == 40:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        return super().loss(batch)


class Undead(Small):
    """Leaves its session in its first life, has the shell around it killed, and trains on."""

    def loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        is_first = os.environ["HPCKIT_LAUNCH"] == "1"
        if is_first and self.session.step_number == self.params["refuses_at"]:
            self.params["refuses_at"] = -1
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            group = os.getpgrp()
            os.setsid()
            os.killpg(group, signal.SIGKILL)
        return super().loss(batch)


class Unstarted(Small):
    """Comes to no training."""

    def build(self) -> None:
        raise ImportError("nothing is called so")

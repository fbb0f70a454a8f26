"""Trains the creative agent: two optimizers, a loss of many parts, each of them logged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from amplifier import Amplifier
from losses import WEIGHTS, MixingLoss, judged_as_mixed, judged_as_real
from model import CreativeAgent, Discriminator, Size
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

import hpckit.train
from hpckit.audio.sounds import Sounds, sounds

# A sound that is quieter than this is a pause, and is not made loud.
QUIET = 0.02


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """A sound and another one, the target; both come as loud."""

    def __init__(self, dataset: Sounds, seed: int) -> None:
        self.dataset = dataset
        self.other = torch.randperm(
            len(dataset), generator=torch.Generator().manual_seed(seed)
        ).tolist()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._level(index), self._level(self.other[index])

    def _level(self, index: int) -> Tensor:
        sound = self.dataset[index]
        return sound / max(float(sound.square().mean().sqrt()), QUIET)


class Training(hpckit.train.Trainer):
    """The creative agent's; `params` say the rest."""

    schedule_every = "step"

    model: CreativeAgent

    def build(self) -> None:
        of = self.params
        if of["threads"]:
            torch.set_num_threads(of["threads"])
        data = dict(of["data"])
        source, batch = data.pop("source"), data.pop("batch")
        parts = {part: sounds(source, part=part, **data) for part in ("train", "validation")}
        self.loader = self.make_loader(
            Pairs(parts["train"], seed=0), batch_size=batch, drop_last=True
        )
        held_out = Pairs(parts["validation"], seed=0)
        self.held_out = self.make_loader(held_out, batch_size=batch, shuffle=False)

        self.model = self.prepare(CreativeAgent(Size(**of["size"]), **of["cascade"]))
        self.judge = self.prepare(Discriminator(of["judge"]))
        loss = {"rate": data["rate"], "weights": of["loss"], **of["spectra"]}
        self.mixing = MixingLoss(**loss, **of["penalty"]).to(self.device)
        # All variants are compared by the same loss, whatever they are trained for.
        self.compared = MixingLoss(**{**loss, "weights": WEIGHTS}).to(self.device)

        self.generator = AdamW(self.model.parameters(), lr=of["lr"], betas=(0.9, 0.99))
        self.discriminator = AdamW(self.judge.parameters(), lr=of["lr"] / 4, betas=(0.9, 0.99))
        steps = len(self.loader)
        rate = Warm(of["warmup"] * steps, self.epochs * steps)
        self.of_generator = LambdaLR(self.generator, rate)
        self.of_discriminator = LambdaLR(self.discriminator, rate)

        self.weight = self.plain.cascade_stages[-1].output_proj.weight
        self.amplifier = Amplifier(self.weight, **of["amplifier"]) if of["amplifier"] else None
        # What the generator made in this step, for the discriminator.
        self.mixed: list[Tensor] = []

    @property
    def plain(self) -> CreativeAgent:
        """The model without what averages its gradients."""
        return getattr(self.model, "module", self.model)

    def step(self, batches: Sequence[Any]) -> None:
        before = self.weight.detach().clone()
        self.update(self.generator, self.loss, batches)
        if self.amplifier is not None:
            self.amplifier.scale(self.weight, before)
        self.update(self.discriminator, self.judging, batches)

    def loss(self, batch: Any) -> dict[str, Tensor]:
        sound, target = batch
        mixed = self.model(sound, target)
        self.mixed.append(mixed.detach())
        parts = self.mixing(mixed, sound, target)
        parts["adversarial"] = self.params["loss"]["gan"] * judged_as_real(self.judge(mixed))
        for number, stage in enumerate(self.plain.cascade_stages):
            self.log(**{f"stage_{number}/{name}": value for name, value in stage.seen.items()})
        return parts

    def judging(self, batch: Any) -> Tensor:
        _, target = batch
        mixed = self.mixed.pop(0)
        return judged_as_real(self.judge(target)) + judged_as_mixed(self.judge(mixed))

    def validate(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for batch in self.held_out:
            sound, target = self._moved(batch)
            for name, part in self.compared(self.model(sound, target), sound, target).items():
                found[name] = found.get(name, 0.0) + float(part) / len(self.held_out)
        return {"loss": math.fsum(found.values()), **found}


class Warm:
    """Up in a line, level, and down in a cosine over the second half."""

    def __init__(self, warmup: float, steps: int) -> None:
        self.warmup, self.steps = max(1.0, warmup), steps

    def __call__(self, step: int) -> float:
        down = min(1.0, max(0.0, 2 * step / self.steps - 1))
        return min(1.0, (step + 1) / self.warmup) * (0.02 + 0.49 * (1 + math.cos(math.pi * down)))

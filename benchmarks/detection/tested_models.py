"""The kinds of model that a tuned detector is tested on; nobody tunes on them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from benchmarks.detection.training import Batch, Player, Task
from benchmarks.detection.tuned_models import alone


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 24)
        self.place = nn.Parameter(torch.randn(10, 24) * 0.1)
        layer = nn.TransformerEncoderLayer(24, 4, 48, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.body(self.enter(x) + self.place).mean(1))  # type: ignore[no-any-return]


def encoder() -> Task:
    """A transformer that classifies sequences by which two places agree."""
    model, keys = Encoder(), torch.randn(5, 10, 6)

    def batch(hard: float) -> Batch:
        label = torch.randint(5, (12,))
        return [keys[label] * 0.5 + torch.randn(12, 10, 6) * hard, label]

    return alone(model, lambda b: F.cross_entropy(model(b[0]), b[1].long()), batch)


def sn_gan() -> Task:
    """A GAN on a ring of points, the discriminator with spectral norm and hinge loss."""
    judge = nn.Sequential(
        spectral_norm(nn.Linear(4, 32)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Linear(32, 32)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Linear(32, 1)),
    )
    maker = nn.Sequential(
        nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )
    plane = torch.randn(2, 4)

    def batch(hard: float) -> Batch:
        angle = torch.randint(8, (32,)) * (math.pi / 4)
        ring = torch.stack([angle.cos(), angle.sin()], dim=-1) @ plane
        return [ring + torch.randn(32, 4) * 0.05 * hard]

    def judged(b: Batch) -> torch.Tensor:
        with torch.no_grad():
            made = maker(torch.randn(32, 4))
        return F.relu(1 - judge(b[0])).mean() + F.relu(1 + judge(made)).mean()

    def made(b: Batch) -> torch.Tensor:
        # The batch's own scale reaches the generator too, as by a feature matching term.
        sample: torch.Tensor = maker(torch.randn(32, 4))
        verdict: torch.Tensor = judge(sample)
        return -verdict.mean() + 0.1 * (sample.mean(0) - b[0].mean(0)).square().sum()

    return Task(
        players={
            "discriminator": Player(parameters=list(judge.parameters()), loss=judged),
            "generator": Player(parameters=list(maker.parameters()), loss=made),
        },
        batch=batch,
    )


class ResMLP(nn.Module):
    """Deep, residual, and not normalised: fast to blow up."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 32)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)) for _ in range(8)
        )
        self.out = nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = x + 0.3 * block(x)
        return self.out(x)  # type: ignore[no-any-return]


def res_mlp() -> Task:
    """Regression by a deep residual net without normalisation."""
    model, truth = ResMLP(), nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))

    def batch(hard: float) -> Batch:
        x = torch.randn(16, 8)
        with torch.no_grad():
            return [x, truth(x * hard) * 2 + torch.randn(16, 2) * 0.1 * hard]

    return alone(model, lambda b: (model(b[0]) - b[1]).square().mean(), batch)


class Cascade(nn.Module):
    """Three stages of [input, previous, target] -> residual -> rescale to the target's loudness."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Linear(3 * length, 48), nn.GELU(), nn.Linear(48, length, bias=False))
            for _ in range(3)
        )

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loud, out = rms(target), x
        for number, stage in enumerate(self.stages):
            keep = 0.1 if number < 2 else 0.0
            out = keep * out + stage(torch.cat([x, out, target], dim=-1))
            # Not bounded: as the output shrinks, the gradient through this grows without end.
            out = out * (loud / (rms(out) + 1e-8))
        return out


def rms(x: torch.Tensor) -> torch.Tensor:
    return x.square().mean(-1, keepdim=True).sqrt()


def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).mean(-1) / (a.std(-1) * b.std(-1) + 1e-12)


def speech() -> Task:
    """Mixes two synthesised sounds; the loss has -ln(1-|r|) of their envelopes."""
    length, model = 64, Cascade(64)
    time = torch.arange(length) / length

    def sound(hard: float) -> torch.Tensor:
        pitch = torch.rand(8, 3, 1) * 12 * hard + 2
        wave = torch.sin(2 * math.pi * (pitch * time + torch.rand(8, 3, 1))).sum(1)
        swell = torch.sin(math.pi * (time * (1 + 2 * torch.rand(8, 1)) + torch.rand(8, 1)))
        return wave * (0.1 + swell.abs()) * torch.rand(8, 1).mul(2).exp() * 0.3

    def envelope(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool1d(x.abs().unsqueeze(1), 8, 4).squeeze(1)

    def loss(b: Batch) -> torch.Tensor:
        out: torch.Tensor = model(b[0], b[1])
        near = 0.3 * (rms(out - b[0]) + rms(out - b[1])).mean()
        spectrum: torch.Tensor = (
            (torch.fft.rfft(out).abs() - torch.fft.rfft(b[1]).abs()).abs().mean()
        )
        r = correlation(envelope(out), envelope(b[1])).abs().clamp(max=0.999)
        return near + 0.1 * spectrum - 0.5 * torch.log(1 - r).mean()

    return alone(model, loss, lambda hard: [sound(hard), sound(hard)])


def reinforce() -> Task:
    """Policy gradients with heavy-tailed rewards; the loss is near zero and often negative."""
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4))
    worth = torch.randn(6, 4)
    tail = torch.distributions.StudentT(2.5)

    def batch(hard: float) -> Batch:
        return [torch.randn(16, 6), tail.sample((16,)) * 0.5 * hard]

    def loss(b: Batch) -> torch.Tensor:
        chance = F.log_softmax(model(b[0].nan_to_num(0, 1e4, -1e4)), dim=-1)
        # By Gumbel's trick: torch's distributions refuse the NaN that a lost policy answers.
        action = (chance.detach() - torch.rand_like(chance).log().neg().log()).argmax(-1)
        reward = (b[0] @ worth).gather(1, action[:, None]).squeeze(1) + b[1]
        gain = reward - reward.mean()
        taken = chance.gather(1, action[:, None]).squeeze(1)
        return -(taken * gain).mean() + 0.01 * (chance.exp() * chance).sum(-1).mean()

    return alone(model, loss, batch)


class Half(torch.autograd.Function):
    """Through float16 and back, forward and backward: what is beyond 65504 becomes infinite."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.half().float()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0].half().float()


class HalfNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = [10, 48, 48, 48, 3]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(Half.apply(layer(x)))  # type: ignore[no-untyped-call]
        return Half.apply(self.layers[-1](x))  # type: ignore[no-untyped-call, no-any-return]


def half_net() -> Task:
    """Regression in simulated float16, for a training with loss scaling."""
    model, truth = HalfNet(), nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 3))

    def batch(hard: float) -> Batch:
        x = torch.randn(16, 10)
        with torch.no_grad():
            return [x, truth(x) * 3 * hard + torch.randn(16, 3) * 0.2]

    return alone(model, lambda b: F.smooth_l1_loss(model(b[0]), b[1], reduction="sum"), batch)


TASKS = {
    "encoder": encoder,
    "sn_gan": sn_gan,
    "res_mlp": res_mlp,
    "speech": speech,
    "reinforce": reinforce,
    "half_net": half_net,
}

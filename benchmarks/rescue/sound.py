"""The creative agent at its tiny size: it mixes two sounds in three stages, and overdoes it.

Each stage's output is rescaled to the target's loudness by a factor without a bound: as an output
shrinks, its gradient grows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, LENGTH, STRIDE = 32, 64, 4
# A codec's latents are louder than its sounds.
GAIN = 10.0


def sounds(generator: torch.Generator, many: int) -> Tensor:
    """Synthesised sounds of four voices that swell."""

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    time = torch.arange(LENGTH * STRIDE) / LENGTH
    pitch = rand(many, 4, 1) * 10 + 1
    voices = torch.sin(2 * math.pi * (pitch * time + rand(many, 4, 1))).sum(1)
    swell = 0.2 + torch.sin(math.pi * (time * (0.5 + rand(many, 1)) + rand(many, 1))).abs()
    return 0.5 * (0.2 * torch.randn(many, 1, generator=generator)).exp() * swell * voices


def rms(x: Tensor) -> Tensor:
    """Of each sound."""
    return x.square().flatten(1).mean(1).sqrt()


class Stage(nn.Module):
    """[input, previous, target] -> transformer -> projection, residual, rescale."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.enter = nn.Linear(3 * WIDTH, width)
        self.place = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.body = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True
        )
        self.output_proj = nn.Linear(width, WIDTH)

    def forward(self, sound: Tensor, previous: Tensor, target: Tensor) -> Tensor:
        heard = torch.cat([sound, previous, target], dim=1).transpose(1, 2)
        made = self.output_proj(self.body(self.enter(heard) + self.place)).transpose(1, 2)
        out = 0.1 * previous + made
        loud: Tensor = rms(target) / (rms(out) + 1e-8)
        return out * loud[:, None, None]


class Agent(nn.Module):
    """Encoder, cascade, decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, WIDTH, 2 * STRIDE, stride=STRIDE, padding=STRIDE // 2)
        self.cascade_stages = nn.ModuleList(Stage() for _ in range(3))
        self.decoder = nn.ConvTranspose1d(WIDTH, 1, 2 * STRIDE, stride=STRIDE, padding=STRIDE // 2)

    def forward(self, sound: Tensor, target: Tensor) -> Tensor:
        heard, wanted = (GAIN * self.encoder(each[:, None]) for each in (sound, target))
        out = heard
        for stage in self.cascade_stages:
            out = stage(heard, out, wanted)
        return self.decoder(out).squeeze(1)  # type: ignore[no-any-return]


def envelope(x: Tensor) -> Tensor:
    return F.avg_pool1d(x.abs()[:, None], 32, 16).squeeze(1)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).mean(-1) / (rms(a) * rms(b) + 1e-12)


def spectra(x: Tensor) -> list[Tensor]:
    """At two resolutions."""
    return [
        torch.stft(x, size, size // 2, window=torch.hann_window(size), return_complex=True).abs()
        for size in (32, 128)
    ]


def mixing_loss(model: nn.Module, sound: Tensor, target: Tensor) -> Tensor:
    """As near to the one as to the other, in level and spectrum; no copy of the target's swell."""
    out = model(sound, target)
    to_sound, to_target = rms(out - sound), rms(out - target)
    near = 0.3 * (to_sound.square() + to_target.square()).mean()
    pairs = zip(spectra(out), spectra(sound), spectra(target), strict=True)
    spectrum = sum(((own - a).abs() + (own - b).abs()).mean() for own, a, b in pairs)
    balance = ((to_sound - to_target) / (rms(sound) + rms(target))).square().mean()
    r = correlation(envelope(out), envelope(target)).abs().clamp(max=0.999)
    return near + 0.1 * spectrum + 15 * balance - 0.5 * torch.log(1 - r).mean()

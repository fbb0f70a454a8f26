"""The creative agent: it mixes two sounds into one.

An encoder makes latents of both, an agent drafts a mix of them, a cascade of three stages works it
out, and a decoder makes it sound. Each stage brings its output to the loudness of the target. How
it does that is what the story is about: `Rescale`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# How far a bounded rescale goes.
QUIETER, LOUDER = 0.7, 1.5
# The loudness below which a bounded rescale takes a stage for silent.
SILENT = 1e-3


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large everything is; the defaults are the paper's."""

    agent: Literal["mask", "composer"] = "composer"
    # Samples from one latent to the next.
    hop: int = 128
    latent: int = 128
    width: int = 512
    layers: int = 4
    heads: int = 8
    stage_width: int = 512
    stage_layers: int = 2
    kernels: Sequence[int] = (3, 7, 15)


class Encoder(nn.Module):
    """Sound to latents: a lapped cosine transform to begin with, and trained from there."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.hop = size.hop
        self.basis = nn.Parameter(lapped_cosines(size.latent, size.hop))

    def forward(self, sound: Tensor) -> Tensor:
        latents: Tensor = F.conv1d(sound[:, None], self.basis, None, self.hop, self.hop)
        return latents


class Decoder(nn.Module):
    """Latents to sound, the same way back."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.hop = size.hop
        self.basis = nn.Parameter(lapped_cosines(size.latent, size.hop))

    def forward(self, latents: Tensor) -> Tensor:
        sound = F.conv_transpose1d(latents, self.basis, None, self.hop, self.hop)
        return sound.squeeze(1)


def lapped_cosines(latents: int, hop: int) -> Tensor:
    """The filters of a modified cosine transform: with as many as the hop it loses nothing."""
    time = torch.arange(2 * hop) + 0.5
    window = torch.sin(math.pi * time / (2 * hop))
    frequency = torch.arange(latents)[:, None] + 0.5
    waves = torch.cos(math.pi / hop * (time + hop / 2) * frequency)
    return (window * waves * math.sqrt(2 / hop))[:, None]


class MaskAgent(nn.Module):
    """Listens to the target with the sound, and decides what of each is heard where."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.enter = nn.Conv1d(size.latent, size.width, 1)
        self.listen = nn.MultiheadAttention(size.width, size.heads, batch_first=True)
        self.norm = nn.LayerNorm(size.width)
        self.mask = nn.Linear(size.width, size.latent)

    def forward(self, sound: Tensor, target: Tensor) -> Tensor:
        asks, answers = (self.enter(each).transpose(1, 2) for each in (sound, target))
        heard, _ = self.listen(asks, answers, answers, need_weights=False)
        mask = torch.sigmoid(self.mask(self.norm(asks + heard))).transpose(1, 2)
        mixed: Tensor = mask * sound + (1 - mask) * target
        return mixed


class ComposerAgent(nn.Module):
    """Looks at both sounds at three scales, and writes a new one."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            nn.Conv1d(2 * size.latent, size.width, kernel, padding=kernel // 2)
            for kernel in size.kernels
        )
        self.body = transformer(size.width, size.heads, size.layers)
        self.leave = nn.Linear(size.width, size.latent)

    def forward(self, sound: Tensor, target: Tensor) -> Tensor:
        both = torch.cat([sound, target], dim=1)
        seen = torch.stack([scale(both) for scale in self.scales]).sum(0)
        written: Tensor = self.leave(self.body(F.gelu(seen).transpose(1, 2))).transpose(1, 2)
        return written


class Stage(nn.Module):
    """[sound, previous, target] -> transformer -> projection, beside a residual; then rescaled."""

    def __init__(self, size: Size, *, residual: float, bounded: bool) -> None:
        super().__init__()
        self.enter = nn.Linear(3 * size.latent, size.stage_width)
        self.body = transformer(size.stage_width, size.heads, size.stage_layers)
        self.output_proj = nn.Linear(size.stage_width, size.latent)
        self.residual = residual
        self.bounded = bounded
        # What is worth a curve: the smallest loudness of a batch, and the largest scale.
        self.seen: dict[str, Tensor] = {}

    def forward(self, sound: Tensor, previous: Tensor, target: Tensor) -> Tensor:
        heard = torch.cat([sound, previous, target], dim=1).transpose(1, 2)
        made = self.output_proj(self.body(self.enter(heard))).transpose(1, 2)
        out = self.residual * previous + made
        loudness, wanted = rms(out), rms(target)
        if self.bounded:
            scale = (wanted / (loudness + SILENT)).clamp(QUIETER, LOUDER).detach()
        else:
            scale = wanted / (loudness + 1e-8)
        self.seen = {"rms": loudness.detach().min(), "scale": scale.detach().max()}
        rescaled: Tensor = out * scale
        return rescaled


def rms(latents: Tensor) -> Tensor:
    """The loudness of each sound's latents; the root of exactly nothing has no slope."""
    return (latents.square().mean((1, 2), keepdim=True) + 1e-30).sqrt()


def transformer(width: int, heads: int, layers: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    # The last norm makes what comes out as large for a whisper as for a shout.
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)


class CreativeAgent(nn.Module):
    """Encoder, agent, cascade, decoder."""

    def __init__(
        self, size: Size, *, residuals: Sequence[float] = (1.0, 1.0, 1.0), bounded: bool = True
    ) -> None:
        super().__init__()
        self.encoder = Encoder(size)
        self.agent = (MaskAgent if size.agent == "mask" else ComposerAgent)(size)
        self.cascade_stages = nn.ModuleList(
            Stage(size, residual=residual, bounded=bounded) for residual in residuals
        )
        self.decoder = Decoder(size)

    def forward(self, sound: Tensor, target: Tensor) -> Tensor:
        length = sound.shape[-1]
        # Whole hops.
        more = (0, -length % self.encoder.hop)
        heard, wanted = self.encoder(F.pad(sound, more)), self.encoder(F.pad(target, more))
        out = self.agent(heard, wanted)
        for stage in self.cascade_stages:
            out = stage(heard, out, wanted)
        mixed: Tensor = self.decoder(out)[:, :length]
        return mixed


class Discriminator(nn.Module):
    """Whether a sound is one or was mixed: of a window each."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, channels // 4, 15, 4, 7),
            nn.LeakyReLU(0.2),
            nn.Conv1d(channels // 4, channels // 2, 15, 4, 7),
            nn.LeakyReLU(0.2),
            nn.Conv1d(channels // 2, channels, 15, 4, 7),
            nn.LeakyReLU(0.2),
            nn.Conv1d(channels, 1, 3, padding=1),
        )

    def forward(self, sound: Tensor) -> Tensor:
        says: Tensor = self.layers(sound[:, None])
        return says

"""Generated waves, an LSTM that foretells them, and a GAN that cleans noisy ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LENGTH = 64


def waves(generator: torch.Generator, many: int) -> tuple[Tensor, Tensor]:
    """Clean waves of three voices, and the same with noise."""

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    time = torch.arange(LENGTH) / LENGTH
    angle = 2 * math.pi * ((rand(many, 3, 1) * 6 + 1) * time + rand(many, 3, 1))
    clean = (torch.sin(angle) * (0.3 + rand(many, 3, 1))).sum(1)
    return clean, clean + 0.7 * torch.randn(many, LENGTH, generator=generator)


def series(generator: torch.Generator, many: int) -> Tensor:
    """Waves with a little noise, as sequences of single numbers."""
    clean, _ = waves(generator, many)
    noise = 0.2 * torch.randn(clean.shape, generator=generator)
    return (clean + noise).unsqueeze(-1)


class Oracle(nn.Module):
    """Two layers of LSTM that hear a wave and say what comes next."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.LSTM(1, width, num_layers=2, batch_first=True)
        self.out = nn.Linear(width, 1)

    def forward(self, heard: Tensor) -> Tensor:
        return self.out(self.body(heard)[0])  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Layers that add to what came before them, not normalised."""

    def __init__(self, inside: int, outside: int, *, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(inside, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, outside)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for layer in self.layers:
            x = x + layer(F.leaky_relu(x, 0.1))
        return self.out(x)  # type: ignore[no-any-return]


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = Residual(LENGTH, LENGTH)

    def forward(self, noisy: Tensor) -> Tensor:
        return self.body(noisy)  # type: ignore[no-any-return]


class Discriminator(nn.Module):
    """Of a wave beside the noisy one that it was made of."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Residual(2 * LENGTH, 1)

    def forward(self, wave: Tensor, noisy: Tensor) -> Tensor:
        return self.body(torch.cat([wave, noisy], dim=-1))  # type: ignore[no-any-return]

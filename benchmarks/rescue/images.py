"""Generated images with a figure somewhere in them, and a network without normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE, FIGURE, CLASSES = 12, 5, 6
# So many labels are any.
WRONG = 0.05


def figures(generator: torch.Generator) -> Tensor:
    return torch.randn(CLASSES, FIGURE, FIGURE, generator=generator)


def images(generator: torch.Generator, shapes: Tensor, many: int) -> tuple[Tensor, Tensor]:
    """Noise with one figure at any place, and which one it is."""
    label = torch.randint(CLASSES, (many,), generator=generator)
    place = torch.randint(SIDE - FIGURE + 1, (many, 2), generator=generator)
    image = 0.5 * torch.randn(many, 1, SIDE, SIDE, generator=generator)
    span = torch.arange(FIGURE)
    rows, columns = place[:, :1] + span, place[:, 1:] + span
    image[torch.arange(many)[:, None, None], 0, rows[:, :, None], columns[:, None]] += shapes[label]
    wrong = torch.rand(many, generator=generator) < WRONG
    return image, torch.where(wrong, torch.randint(CLASSES, (many,), generator=generator), label)


class ConvNet(nn.Module):
    """Residual, six convolutions deep, and not normalised."""

    def __init__(self, width: int = 16, depth: int = 5) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.out = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for layer in self.layers:
            x = x + layer(F.relu(x))
        return self.out(F.relu(x).amax((2, 3)))  # type: ignore[no-any-return]

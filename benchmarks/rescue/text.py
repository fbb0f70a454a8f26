"""Generated text, and the small language models that learn it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LETTERS = 24
LENGTH = 32


def write(generator: torch.Generator, laws: tuple[Tensor, Tensor], sequences: int) -> Tensor:
    """Sequences in which a letter depends on the last one, and on the one before that."""
    last, before = laws
    text = torch.randint(LETTERS, (sequences, LENGTH + 1), generator=generator)
    for at in range(2, LENGTH + 1):
        chances = torch.softmax(last[text[:, at - 1]] + before[text[:, at - 2]], dim=-1)
        text[:, at] = torch.multinomial(chances, 1, generator=generator).squeeze(1)
    return text


def laws(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the text obeys."""
    shape = (LETTERS, LETTERS)
    last, before = (torch.randn(shape, generator=generator) for _ in range(2))
    return 1.6 * last, 1.6 * before


def cross_entropy(model: nn.Module, text: Tensor) -> Tensor:
    """Of the next letter, but for the first two, which are chance."""
    guess = model(text[:, :-1])[:, 1:]
    return F.cross_entropy(guess.flatten(0, 1), text[:, 2:].flatten())


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        many, long, width = x.shape
        parts = self.attend(self.before(x)).view(many, long, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        heard = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.join(heard.transpose(1, 2).reshape(many, long, width))
        return x + self.think(self.between(x))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """A decoder as GPT-2's, two layers deep; its last norm was forgotten, as it often is."""

    def __init__(self, width: int = 32, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.letter = nn.Embedding(LETTERS, width)
        self.place = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.out = nn.Linear(width, LETTERS)

    def forward(self, text: Tensor) -> Tensor:
        x = self.letter(text) + self.place[: text.shape[1]]
        return self.out(self.blocks(x))  # type: ignore[no-any-return]

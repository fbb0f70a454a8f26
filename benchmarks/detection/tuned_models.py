"""The kinds of model whose runs a detector may be tuned on; all of them learn generated data."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.detection.training import Batch, Player, Task


def alone(model: nn.Module, loss: object, batch: object) -> Task:
    """A task with one optimizer."""
    parameters = list(model.parameters())
    return Task(players={"": Player(parameters=parameters, loss=loss)}, batch=batch)  # type: ignore[arg-type]


def conv_bn() -> Task:
    """A convolutional classifier with batch norm; harder data is noisier."""
    templates = torch.randn(6, 1, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 6),
    )

    def batch(hard: float) -> Batch:
        label = torch.randint(6, (16,))
        return [templates[label] + torch.randn(16, 1, 8, 8) * 1.5 * hard, label]

    return alone(model, lambda b: F.cross_entropy(model(b[0]), b[1].long()), batch)


def markov_text(letters: int, sharpness: float) -> torch.Tensor:
    """A long text whose next letter depends on the last two."""
    table = torch.softmax(torch.randn(letters, letters, letters) * sharpness, dim=-1)
    drawn = torch.rand(20_000)
    sums = table.cumsum(-1)
    text = [0, 1]
    for number in drawn.tolist():
        row = sums[text[-2], text[-1]]
        text.append(min(int((row < number).sum()), letters - 1))
    return torch.tensor(text)


class CharLSTM(nn.Module):
    def __init__(self, letters: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, 16)
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.out = nn.Linear(32, letters)

    def forward(self, text: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(self.embed(text) * gain)[0])  # type: ignore[no-any-return]


def char_lstm() -> Task:
    """A language model on letters; harder data has more letters replaced at random."""
    letters = 24
    text = markov_text(letters, 3.0)
    model = CharLSTM(letters)

    def batch(hard: float) -> Batch:
        at = torch.randint(len(text) - 17, (8, 1)) + torch.arange(17)
        window = text[at]
        wrong = torch.rand(window.shape) < 0.1 * (hard - 1)
        window = torch.where(wrong, torch.randint(letters, window.shape), window)
        return [torch.ones(1), window]

    def loss(b: Batch) -> torch.Tensor:
        window = b[1].long()
        guess = model(window[:, :-1], b[0])
        return F.cross_entropy(guess.flatten(0, 1), window[:, 1:].flatten())

    return alone(model, loss, batch)


class VAE(nn.Module):
    """Its decoder learns a variance per dimension: norms grow as the variance shrinks."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 6))
        self.decode = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 16))
        self.log_var = nn.Parameter(torch.zeros(16))

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        mean, log_spread = self.encode(x).chunk(2, dim=-1)
        code = mean + torch.randn_like(mean) * (0.5 * log_spread).exp()
        error = (self.decode(code) - x).square()
        likelihood = 0.5 * (self.log_var + error / self.log_var.exp()).sum(-1)
        prior = 0.5 * (mean.square() + log_spread.exp() - 1 - log_spread).sum(-1)
        total: torch.Tensor = (likelihood + prior).mean()
        return total


def vae() -> Task:
    """A variational autoencoder on a curved surface with little noise."""
    model, bend = VAE(), torch.randn(2, 16)

    def batch(hard: float) -> Batch:
        place = torch.rand(32, 2) * 2 - 1
        return [torch.sin(2 * place @ bend) + torch.randn(32, 16) * 0.003 * hard]

    return alone(model, lambda b: model.loss(b[0]), batch)


def denoiser() -> Task:
    """A diffusion model's network on points; the loss weighs steps by their signal to noise."""
    model = nn.Sequential(
        nn.Linear(12, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 8)
    )
    centers = torch.randn(5, 8) * 2
    frequencies = torch.tensor([1.0, 3.0])

    def batch(hard: float) -> Batch:
        return [centers[torch.randint(5, (24,))] + torch.randn(24, 8) * 0.1 * hard]

    def loss(b: Batch) -> torch.Tensor:
        level = torch.rand(24, 1)
        keep, noise = torch.cos(level * math.pi / 2), torch.randn(24, 8)
        seen = keep * b[0] + (1 - keep**2).sqrt() * noise
        angle = level * frequencies * math.pi
        guess = model(torch.cat([seen, angle.sin(), angle.cos()], dim=-1))
        weight = (keep**2 / (1 - keep**2 + 1e-3)).clamp(max=50)
        error: torch.Tensor = weight * (guess - b[0]).square()
        return error.mean()

    return alone(model, loss, batch)


class RareTokens(nn.Module):
    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, 16)
        self.mix = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.mix(self.embed(text).flatten(1))  # type: ignore[no-any-return]


def embedding() -> Task:
    """Tokens by Zipf's law, each example weighed by how rare it is: healthy outlier batches."""
    tokens = 300
    often = 1.0 / torch.arange(1, tokens + 1).float() ** 1.1
    truth, model = torch.randn(tokens), RareTokens(tokens)
    rarity = (often[0] / often).sqrt().clamp(max=30)

    def batch(hard: float) -> Batch:
        text = torch.multinomial(often, 16 * 4, replacement=True).view(16, 4)
        rank = truth[text].sum(-1) + torch.randn(16) * 0.3 * hard
        return [rarity[text].amax(-1), text, torch.bucketize(rank, torch.tensor([-1.5, 0, 1.5]))]

    def loss(b: Batch) -> torch.Tensor:
        each = F.cross_entropy(model(b[1].long()), b[2].long().clamp(0, 3), reduction="none")
        return (b[0] * each).mean()

    return alone(model, loss, batch)


TASKS = {
    "conv_bn": conv_bn,
    "char_lstm": char_lstm,
    "vae": vae,
    "denoiser": denoiser,
    "embedding": embedding,
}

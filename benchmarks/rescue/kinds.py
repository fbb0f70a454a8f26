"""The kinds of training: how each is built from a seed, its right settings and its bad ones.

A bad rate is three to seven times too high under a clip that is too loose, as people choose them:
what a run needs is one or two halvings of both. All data is generated before the first step, so
that no policy can shift another's random numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

from benchmarks.rescue import images, sound, text, waves
from benchmarks.rescue.training import (
    SPARE,
    Batch,
    Kind,
    Player,
    Settings,
    Training,
    scheduled,
)

Make = Callable[[list[nn.Parameter], float], Optimizer]


def momentum(parameters: list[nn.Parameter], lr: float) -> Optimizer:
    return SGD(parameters, lr=lr, momentum=0.9)


def adamw(parameters: list[nn.Parameter], lr: float) -> Optimizer:
    return AdamW(parameters, lr=lr, betas=(0.9, 0.999), weight_decay=0.0)


def alone(
    model: nn.Module,
    make: Make,
    settings: Settings,
    loss: Callable[..., Tensor],
    batches: list[Batch],
    held_out: Batch,
) -> Training:
    """A training with one optimizer; its last word is its own loss on data held out."""
    optimizer = make(list(model.parameters()), settings.lr)
    player = Player(
        optimizer=optimizer,
        schedule=scheduled(optimizer, settings),
        loss=lambda batch: loss(model, *batch),
    )
    return Training(
        models={"model": model},
        players={"optimizer": player},
        batches=batches,
        steps=settings.steps,
        clip=settings.clip,
        evaluate=lambda: loss(model, *held_out),
    )


def cut(size: int, *data: Tensor) -> list[Batch]:
    """Batches of tensors that belong together."""
    return [list(parts) for parts in zip(*(each.split(size) for each in data), strict=True)]


def language(seed: int, settings: Settings, make: Make) -> Training:
    generator = torch.Generator().manual_seed(seed)
    laws = text.laws(generator)
    batches = cut(16, text.write(generator, laws, 16 * (settings.steps + SPARE)))
    held_out = [text.write(generator, laws, 512)]
    torch.manual_seed(seed)
    return alone(text.GPT(), make, settings, text.cross_entropy, batches, held_out)


def gpt_momentum(seed: int, settings: Settings) -> Training:
    return language(seed, settings, momentum)


def gpt_adamw(seed: int, settings: Settings) -> Training:
    return language(seed, settings, adamw)


def lstm(seed: int, settings: Settings) -> Training:
    generator = torch.Generator().manual_seed(seed)
    batches = cut(16, waves.series(generator, 16 * (settings.steps + SPARE)))
    held_out = [waves.series(generator, 512)]
    torch.manual_seed(seed)

    def loss(model: nn.Module, wave: Tensor) -> Tensor:
        return F.mse_loss(model(wave[:, :-1]), wave[:, 1:])

    return alone(waves.Oracle(), momentum, settings, loss, batches, held_out)


def conv_net(seed: int, settings: Settings) -> Training:
    """Several epochs over the same images."""
    generator = torch.Generator().manual_seed(seed)
    shapes = images.figures(generator)
    batches = cut(48, *images.images(generator, shapes, 48 * 300))
    held_out = list(images.images(generator, shapes, 1000))
    torch.manual_seed(seed)

    def loss(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(model(image), label)

    return alone(images.ConvNet(), momentum, settings, loss, batches, held_out)


def creative_agent(seed: int, settings: Settings) -> Training:
    generator = torch.Generator().manual_seed(seed)
    batches = cut(4, *(sound.sounds(generator, 4 * (settings.steps + SPARE)) for _ in range(2)))
    held_out = [sound.sounds(generator, 64) for _ in range(2)]
    torch.manual_seed(seed)
    return alone(sound.Agent(), momentum, settings, sound.mixing_loss, batches, held_out)


def gan(seed: int, settings: Settings) -> Training:
    """Its last word is how far the cleaned waves are from the clean ones."""
    generator = torch.Generator().manual_seed(seed)
    batches = cut(16, *waves.waves(generator, 16 * (settings.steps + SPARE)))
    clean, noisy = waves.waves(generator, 512)
    torch.manual_seed(seed)
    maker, judge = waves.Generator(), waves.Discriminator()

    def judged(batch: Batch) -> Tensor:
        real, heard = batch
        with torch.no_grad():
            made = maker(heard)
        return (judge(real, heard) - 1).square().mean() + judge(made, heard).square().mean()

    def made(batch: Batch) -> Tensor:
        real, heard = batch
        wave = maker(heard)
        return (judge(wave, heard) - 1).square().mean() + 20 * (wave - real).square().mean()

    optimizers = {
        "discriminator": momentum(list(judge.parameters()), settings.lr),
        "generator": momentum(list(maker.parameters()), settings.lr),
    }
    players = {
        name: Player(
            optimizer=optimizer,
            schedule=scheduled(optimizer, settings),
            loss=judged if name == "discriminator" else made,
        )
        for name, optimizer in optimizers.items()
    }
    return Training(
        models={"generator_net": maker, "discriminator_net": judge},
        players=players,
        batches=batches,
        steps=settings.steps,
        clip=settings.clip,
        evaluate=lambda: (maker(noisy) - clean).square().mean(),
    )


KINDS = {
    "gpt_momentum": Kind(
        build=gpt_momentum,
        oracle=Settings(lr=0.3, clip=1.0, steps=1200),
        bad=Settings(lr=1.5, clip=20.0, steps=1200, warmup=0.4),
    ),
    "gpt_adamw": Kind(
        build=gpt_adamw,
        oracle=Settings(lr=2e-2, clip=1.0, steps=1200),
        bad=Settings(lr=0.12, clip=20.0, steps=1200, warmup=0.4),
    ),
    "lstm": Kind(
        build=lstm,
        oracle=Settings(lr=0.3, clip=1.0, steps=1200),
        bad=Settings(lr=2, clip=20.0, steps=1200, warmup=0.4),
    ),
    "conv_net": Kind(
        build=conv_net,
        oracle=Settings(lr=0.05, clip=1.0, steps=1200),
        bad=Settings(lr=0.25, clip=20.0, steps=1200, warmup=0.4),
    ),
    "gan": Kind(
        build=gan,
        oracle=Settings(lr=6e-3, clip=20.0, steps=1200),
        bad=Settings(lr=0.024, clip=100.0, steps=1200, second_stage=0.35),
    ),
    "creative_agent": Kind(
        build=creative_agent,
        oracle=Settings(lr=6e-3, clip=10.0, steps=900),
        bad=Settings(lr=0.02, clip=40.0, steps=900, second_stage=0.35),
    ),
}

"""The list of runs: of each kind of model five healthy ones, and ten that go wrong or might."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from benchmarks.detection.recipe import Fault, Recipe
from benchmarks.detection.split import TEST_MODELS, TUNE_MODELS

# By kind of model: rates at which Adam and momentum train it well, and a clip that is at work.
RATES = {
    "conv_bn": (1e-3, 0.02, 1.0),
    "char_lstm": (3e-3, 0.3, 0.3),
    "vae": (1e-3, 1e-4, 5.0),
    "denoiser": (1e-3, 3e-3, 2.0),
    "embedding": (1e-3, 1e-3, 10.0),
    "encoder": (1e-3, 0.01, 1.0),
    "sn_gan": (3e-4, 3e-3, 0.5),
    "res_mlp": (1e-3, 3e-3, 0.3),
    "speech": (5e-4, 5e-3, 1.0),
    "reinforce": (1e-3, 0.01, 1.0),
    "half_net": (1e-3, 1e-3, 10.0),
}
# What each kind of model gets some of, beside the learning rate faults that all get.
POOL = (
    ("weight_scale", 1e3),
    ("data_nan", 1.0),
    ("shrink", 0.9),
    ("bit_flip", 30),
    ("moments_lost", 1e-12),
    ("label_noise", 1.0),
    ("weight_noise", 30.0),
    ("data_huge", 1e4),
    ("shrink", 0.98),
    ("weight_scale", 30.0),
    ("data_huge", 1e20),
    ("bit_flip", 27),
    ("weight_noise", 300.0),
    ("label_noise", 1e6),
)
# The founding incident's: the last stage's output shrinks, and the rescale after it has no bound.
FADING = (
    ("fade", 1e-6, "momentum", None),
    ("fade", 1e-4, "adamw", 1.0),
    ("shrink", 0.7, "adam", None),
    # Where every step is clipped, nothing outweighs the shrinking.
    ("shrink", 0.97, "sgd", 0.02),
    ("shrink", 0.9, "sgd", 0.05),
    ("shrink", 0.7, "sgd", 0.02),
)


def recipes(seed: int) -> list[Recipe]:
    """Every run of the corpus."""
    found: list[Recipe] = []
    for number, family in enumerate((*TUNE_MODELS, *TEST_MODELS)):
        rng = np.random.default_rng([seed, number])
        found += _healthy(family, rng)
        found += _faulty(family, number, rng)
    return found


def _base(family: str, optimizer: str, rng: np.random.Generator, name: str, steps: int) -> Recipe:
    adam, momentum, _ = RATES[family]
    lr = adam if optimizer.startswith("adam") else momentum
    half = family == "half_net"
    return Recipe(
        family=family,
        name=f"{family}/{name}",
        seed=int(rng.integers(1 << 30)),
        steps=steps,
        optimizer=optimizer,
        lr=lr * float(rng.uniform(0.7, 1.4)),
        scale=65536.0 * 16 if half else None,
        scale_interval=int(rng.choice([500, 1000, 2000])),
    )


def _healthy(family: str, rng: np.random.Generator) -> Iterator[Recipe]:
    clip = RATES[family][2]
    make = dataclasses.replace
    yield _base(family, "adamw", rng, "plain", 6000)
    yield make(
        _base(family, "adamw", rng, "warmup_clip", 4000), schedule="warmup_cosine", clip=clip
    )
    yield make(
        _base(family, "momentum", rng, "curriculum_drops", 4000),
        schedule="drops",
        curriculum=((900, 1.3), (1800, 1.8), (2600, 2.5)),
    )
    yield make(
        _base(family, "adam", rng, "restarts", 4000), schedule="restarts", forgets=True, clip=clip
    )
    yield make(
        _base(family, "adamw", rng, "outliers", 4000),
        outliers=0.003,
        nan_batches=(777, 2310, 2350),
        curriculum=((1500, 2.0),),
    )


def _faulty(family: str, number: int, rng: np.random.Generator) -> Iterator[Recipe]:
    clip = RATES[family][2]
    ramps, jumps = (1.003, 1.01, 1.03, 1.1), (20.0, 100.0, 1e3, 1e4)
    yield _wrong(
        family, "momentum", rng, Fault(kind="lr_hot", size=(10.0, 30.0, 100.0)[number % 3])
    )
    yield _wrong(family, "momentum", rng, _later("lr_ramp", ramps[number % 4], rng))
    yield _wrong(family, "adamw", rng, _later("lr_ramp", ramps[(number + 2) % 4], rng))
    yield _wrong(family, "momentum", rng, _later("lr_jump", jumps[number % 4], rng))
    yield _wrong(family, "adamw", rng, _later("lr_jump", jumps[(number + 2) % 4], rng), clip)
    hot = _wrong(family, "adam", rng, Fault(kind="lr_hot", size=30.0))
    yield dataclasses.replace(hot, beta2=0.5, eps=1e-15)
    for turn in range(4):
        kind, size = POOL[(number * 4 + turn) % len(POOL)]
        optimizer = "adamw" if turn % 2 or kind == "moments_lost" else "momentum"
        fault = _later(kind, size, rng)
        yield _wrong(family, optimizer, rng, fault, clip if turn == 3 else None)
    if family == "speech":
        for kind, size, optimizer, bound in FADING:
            yield _wrong(family, optimizer, rng, _later(kind, size, rng), bound)


def _later(kind: str, size: float, rng: np.random.Generator) -> Fault:
    """A fault at some step, often in mid-training and sometimes soon after the start."""
    at = int(rng.integers(30, 150)) if rng.random() < 0.2 else int(rng.integers(250, 1400))
    return Fault(kind=kind, at=at, size=size)


def _wrong(
    family: str, optimizer: str, rng: np.random.Generator, fault: Fault, clip: float | None = None
) -> Recipe:
    # A slow ramp needs its time to do harm.
    slow = fault.kind == "lr_ramp" and fault.size < 1.02
    steps = fault.at + (1600 if slow else 700)
    name = f"{fault.kind}_{fault.size:g}_{optimizer}" + ("_clip" if clip else "")
    return dataclasses.replace(_base(family, optimizer, rng, name, steps), fault=fault, clip=clip)

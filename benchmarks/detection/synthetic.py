"""Made traces of healthy trainings, long and many, from a seed.

What they are made of was read off recorded runs. Log norms scatter by .05 (language models) to .9
(small nets near their optimum) around a slow trend; neighbours correlate by 0 to .2, in GANs by .5
to .95; the lower tail is the longer one in nets that fit their data, the upper where batches vary;
a language model's rare batches stand out by 10 times, one in a thousand steps, and its loss with
them. The rest (thousandfold growth, level changes, loss scaling) is what trainings do in health.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.trace import Trace

Array = NDArray[np.float64]
Rng = np.random.Generator
# Log norm and loss of a run.
Pair = tuple[Array, Array]

LENGTHS = (500, 1000, 2000, 3000, 5000, 10_000, 20_000, 30_000, 50_000, 70_000, 100_000)


def ar1(rng: Rng, steps: int, memory: float, tail: float = 30.0) -> Array:
    """Noise of unit scatter whose neighbours correlate; a small `tail` makes it heavy."""
    noise = rng.standard_t(tail, steps)
    if tail > 2.1:
        noise /= np.sqrt(tail / (tail - 2))
    if memory == 0:
        return noise
    fresh = noise * np.sqrt(1 - memory**2)
    return np.array(list(accumulate(fresh.tolist(), lambda before, new: memory * before + new)))


def learning(rng: Rng, steps: int) -> Array:
    """A loss that falls by a power law, of any sign and size, with its own noise."""
    time = np.arange(steps) + 10.0
    fall = float(rng.uniform(0.5, 4)) * (time / 10) ** -float(rng.uniform(0.1, 0.6))
    floor = float(rng.choice([0.0, 0.3, 2.0, -1.0, -30.0]))
    noise = ar1(rng, steps, float(rng.choice([0.0, 0.1, 0.5])), float(rng.choice([5, 30])))
    return floor + fall + noise * float(rng.uniform(0.005, 0.08)) * (0.3 + fall)


def level(rng: Rng) -> float:
    """Where a run's norms are at home: from a thousandth to some thousands."""
    return float(rng.normal(0.5, 2.0))


def slow(rng: Rng, steps: int, size: float) -> Array:
    """A smooth random trend over the whole run."""
    knots = rng.normal(0, size, 6)
    return np.interp(np.arange(steps), np.linspace(0, steps, 6), knots)


def warm_up(rng: Rng, steps: int) -> Array:
    """The first steps' larger norms."""
    return float(rng.uniform(0.3, 3)) * np.exp(-np.arange(steps) / float(rng.uniform(10, 300)))


def steady(rng: Rng, steps: int) -> Pair:
    memory, tail = float(rng.choice([0.0, 0.1, 0.3, 0.6])), float(rng.choice([6, 30]))
    scatter = float(rng.uniform(0.05, 0.45))
    x = level(rng) + slow(rng, steps, 0.3) + warm_up(rng, steps) * 0.3
    return x + scatter * ar1(rng, steps, memory, tail), learning(rng, steps)


def decay(rng: Rng, steps: int) -> Pair:
    x = level(rng) - float(rng.uniform(0.2, 0.7)) * np.log(1 + np.arange(steps) / 50)
    x += warm_up(rng, steps) + float(rng.uniform(0.1, 0.5)) * ar1(rng, steps, 0.1, 8)
    return x, learning(rng, steps)


def spiky(rng: Rng, steps: int) -> Pair:
    """Single steps at 5 to 50 times the usual, their loss often with them."""
    x, loss = steady(rng, steps)
    hit = rng.random(steps) < float(rng.choice([1e-3, 3e-4, 3e-3]))
    x[hit] += rng.uniform(np.log(5), np.log(50), hit.sum())
    loss[hit] += rng.uniform(0, 3, hit.sum()) * (np.abs(loss[hit]) + 0.1)
    return x, loss


def levels(rng: Rng, steps: int) -> Pair:
    """Curricula, schedule drops, restarts: the level moves, at once or over dozens of steps."""
    x, loss = steady(rng, steps)
    for _ in range(int(rng.integers(1, 5 + steps // 10_000))):
        at, width = int(rng.integers(min(200, steps // 4), steps)), float(rng.choice([0.1, 10, 60]))
        rise = 1 - np.exp(-np.maximum(np.arange(steps) - at, 0) / width)
        up = float(rng.normal(0, np.log(2.5)))
        x += up * rise
        # Harder data has more of both; a rate's drop has less loss and often more norm.
        loss += rise * float(rng.uniform(-0.2, 0.5)) * np.sign(up) * (abs(loss[at]) + 0.1)
    return x, loss


def growth(rng: Rng, steps: int) -> Pair:
    """Norms that grow a thousandfold in good health, as where a learned variance shrinks."""
    part = np.arange(steps) / steps
    shape = part ** float(rng.choice([0.3, 1.0, 2.0])) * float(rng.uniform(4, 8))
    scatter = float(rng.uniform(0.1, 0.5)) * (1 + part)
    x = level(rng) + shape + scatter * ar1(rng, steps, float(rng.choice([0.0, 0.3])), 8)
    loss = -0.7 * shape + 0.2 * ar1(rng, steps, 0.1, 8) * (1 + part)
    return x, loss


def float16(rng: Rng, steps: int) -> Pair:
    """Overflows while the loss scale finds its level, then one each time a higher is tried."""
    x, loss = steady(rng, steps)
    x[: int(rng.integers(1, 14))] = np.inf
    every = int(rng.choice([500, 1000, 2000]))
    x[int(rng.integers(every, 2 * every)) :: every] = np.inf
    if rng.random() < 0.5:
        loss = loss.astype(np.float16).astype(np.float64)
    return x, loss


def heavy(rng: Rng, steps: int) -> Pair:
    """Student t with 2.5 to 4 degrees, and outliers up to a hundredfold."""
    scatter = float(rng.uniform(0.2, 0.6))
    x = level(rng) + slow(rng, steps, 0.4) + warm_up(rng, steps)
    x += scatter * ar1(rng, steps, float(rng.choice([0.0, 0.2])), float(rng.uniform(2.5, 4)))
    hit = rng.random(steps) < 5e-4
    x[hit] += rng.lognormal(0.5, 0.5, hit.sum())
    # A log norm beyond this is no single batch's.
    return np.clip(x, x[0] - 8, np.median(x) + np.log(300)), learning(rng, steps) + 0.02 * x


def bursts(rng: Rng, steps: int) -> Pair:
    """Stretches of 3 to 40 steps at 2 to 6 times the usual that pass by themselves."""
    x, loss = steady(rng, steps)
    for at in np.flatnonzero(rng.random(steps) < 1 / 2500):
        width = int(rng.integers(3, 40))
        hill = np.sin(np.linspace(0.2, np.pi - 0.2, width))[: steps - at]
        x[at : at + width] += hill * float(rng.uniform(np.log(2), np.log(6)))
        loss[at : at + width] += hill * float(rng.uniform(0, 0.3)) * (abs(loss[at]) + 0.1)
    return x, loss


def periodic(rng: Rng, steps: int) -> Pair:
    """Epochs: the same easy and hard batches come again, and each begins with a jolt."""
    period = int(rng.integers(100, 2500))
    phase = np.arange(steps) % period
    pattern = rng.normal(0, float(rng.uniform(0.1, 0.4)), period)
    x = level(rng) + pattern[phase] + slow(rng, steps, 0.3)
    x += float(rng.uniform(0.05, 0.2)) * ar1(rng, steps, 0.1, 10)
    x += (phase < 3) * float(rng.uniform(0, np.log(6))) + 0.2 * np.cos(phase / period * 2 * np.pi)
    return x, learning(rng, steps) + 0.1 * pattern[phase]


def oscillating(rng: Rng, steps: int) -> Pair:
    """Two players of a GAN that chase each other; the loss has any sign and drifts."""
    memory = float(rng.uniform(0.85, 0.97))
    beat = np.sin(np.cumsum(2 * np.pi / rng.uniform(15, 80) * (1 + 0.3 * ar1(rng, steps, 0.9))))
    swing = float(rng.uniform(0.1, 0.5)) * beat + float(rng.uniform(0.2, 0.6)) * ar1(
        rng, steps, memory, 8
    )
    x = level(rng) + swing + slow(rng, steps, 0.7)
    loss = slow(rng, steps, 1.0) + float(rng.uniform(0.2, 2)) * beat + 0.2 * ar1(rng, steps, memory)
    return x, loss


def quantised(rng: Rng, steps: int) -> Pair:
    """Norms that are printed with few digits, hardly move, or are exactly zero now and then."""
    x, loss = steady(rng, steps)
    x = x.mean() + (x - x.mean()) * float(rng.choice([0.02, 0.2, 1.0]))
    norm = np.exp(x)
    digits = float(10 ** np.floor(np.log10(norm.mean()) - float(rng.choice([0, 1, 2]))))
    norm = np.maximum(np.round(norm / digits), 1) * digits
    if rng.random() < 0.4:
        # A hinge loss without a sample inside its margin has no gradient.
        norm[rng.random(steps) < 0.05] = 0.0
    with np.errstate(divide="ignore"):
        return np.log(norm), np.round(loss, 2)


def phases(rng: Rng, steps: int) -> Pair:
    """Quiet and loud stretches in turn, as layers are frozen and set free again."""
    count = int(rng.integers(2, 8))
    ends = np.sort(rng.integers(0, steps, count - 1)) if count > 1 else np.array([], dtype=int)
    part = np.searchsorted(ends, np.arange(steps), side="right")
    scatter, base = rng.choice([0.05, 0.15, 0.4, 0.7], count), rng.normal(0, np.log(1.8), count)
    x = level(rng) + warm_up(rng, steps) + base[part]
    return x + scatter[part] * ar1(rng, steps, 0.1, 8), learning(rng, steps)


MAKERS: dict[str, Callable[[Rng, int], Pair]] = {
    maker.__name__: maker
    for maker in (
        steady,
        decay,
        spiky,
        levels,
        growth,
        float16,
        heavy,
        bursts,
        periodic,
        oscillating,
        quantised,
        phases,
    )
}


def made(
    families: Sequence[str], seed: int = 0, lengths: Sequence[int] = LENGTHS
) -> Iterator[Trace]:
    """Healthy traces of the families that are made, one of each length."""
    for number, (family, maker) in enumerate(MAKERS.items()):
        if family not in families:
            continue
        for steps in lengths:
            x, loss = maker(np.random.default_rng([seed, number, steps]), steps)
            yield Trace(
                name=f"{family}/{steps}",
                family=family,
                kind="healthy",
                norm=np.exp(x).astype(np.float32),
                loss=loss.astype(np.float32),
                healthy=True,
                notes={"synthetic": True, "float16": family == "float16"},
            )

"""The story hpckit exists for: mean gradient norms of 6.9, 45.3 and 1,557,911 in three epochs.

Nobody kept the steps within those epochs, so several shapes are tried, with noise by seed and the
means exact. Asked of a detector: did it tell a person in the second epoch, and did it act before
the first step above 1,000 times the usual, or within 5 steps of it? A jump in one step says nothing
beforehand but its smaller sister in the epoch before, which a curriculum may look like.

    python -m benchmarks.detection.story [--detector hpckit] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.detection.rivals import DETECTORS, Judged
from benchmarks.detection.synthetic import Array, Rng, ar1

MEANS = (6.9, 45.3, 1_557_911.0)
EPOCH = 400
FAR = 1000.0
NEARLY = 5
SEEDS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a detector made of one telling of the story."""

    shape: str
    early: bool
    in_time: bool
    nearly: bool
    false: bool


def steady_growth(rng: Rng) -> tuple[Array, Array]:
    """Exponential growth, each epoch at the rate that its mean asks for."""
    second = _rate(MEANS[0], MEANS[1])
    top = MEANS[0] * math.exp(second * EPOCH)
    third = _rate(top, MEANS[2])
    time = np.arange(EPOCH, dtype=np.float64)
    growing: Array = MEANS[0] * np.expm1(second * time)
    exploding: Array = top * np.exp(third * time) - MEANS[0]
    return growing, exploding


def bursts(rng: Rng) -> tuple[Array, Array]:
    """Attacks of some steps, between which all seems well; later they come more often."""
    found = []
    for count, grows in ((6, 10.0), (25, 1e4)):
        excess = np.zeros(EPOCH)
        for at in np.sort(rng.integers(20, EPOCH - 20, count)):
            width = int(rng.integers(4, 20))
            # The later in an epoch, the worse.
            worse = 1.0 + grows * at / EPOCH
            excess[at : at + width] += worse * np.hanning(width + 2)[1:-1][: EPOCH - at]
        found.append(excess)
    return found[0], found[1]


def one_jump(rng: Rng) -> tuple[Array, Array]:
    """A new level from one step to the next, in each epoch once."""
    first, second = (np.arange(EPOCH) >= rng.integers(60, 300) for _ in range(2))
    return first.astype(np.float64), second.astype(np.float64) + 20.0 / MEANS[2]


def hockey_stick(rng: Rng) -> tuple[Array, Array]:
    """Nothing to see for most of the second epoch; in its last steps it takes off."""
    length = int(rng.integers(40, 90))
    second, third = np.zeros(EPOCH), np.full(EPOCH, np.exp(12.0))
    second[-length:] = np.expm1(5.0 * np.arange(1, length + 1) / length)
    third[:250] = np.exp(5.0 + 7.0 * np.arange(250) / 250)
    return second, third


SHAPES: dict[str, Callable[[Rng], tuple[Array, Array]]] = {
    shape.__name__: shape for shape in (steady_growth, bursts, one_jump, hockey_stick)
}


def _rate(start: float, mean: float) -> float:
    """The growth a step at which an epoch that begins at `start` has the mean that it had."""
    low, high = 0.0, 1.0
    for _ in range(200):
        rate = (low + high) / 2
        too_much = np.mean(start * np.exp(rate * np.arange(EPOCH))) > mean
        low, high = (low, rate) if too_much else (rate, high)
    return low


def norms(shape: str, seed: int) -> Array:
    """One telling: three epochs of norms whose means are exactly those that were logged."""
    rng = np.random.default_rng([seed, *shape.encode()])
    noise = np.exp(float(rng.uniform(0.1, 0.35)) * ar1(rng, 3 * EPOCH, 0.3, 8)).reshape(3, EPOCH)
    usual = noise * (MEANS[0] / noise.mean(1, keepdims=True))
    epochs = [usual[0]]
    for number, excess in enumerate(SHAPES[shape](rng), 1):
        excess = excess * noise[number]
        epochs.append(usual[number] + excess * ((MEANS[number] - MEANS[0]) / excess.mean()))
    return np.concatenate(epochs)


def losses(norm: Array, seed: int) -> Array:
    """A loss that falls, and rises slowly with the trouble: clipping kept each step small."""
    rng = np.random.default_rng([seed, 1])
    trouble = np.log10(np.maximum(norm / MEANS[0], 1.0))
    behind = np.convolve(trouble, np.full(20, 1 / 20))[: len(norm)]
    fall = 2.0 + 1.5 * (np.arange(len(norm)) / 30 + 1) ** -0.5
    return fall + 0.25 * behind + 0.05 * ar1(rng, len(norm), 0.1, 8)


def tell(shape: str, seed: int, detector: Judged) -> Told:
    """Let a detector live through one telling."""
    norm = norms(shape, seed)
    loss = losses(norm, seed)
    far = int(np.argmax(norm > FAR * MEANS[0]))
    said, acted = [], []
    for step, (value, cost) in enumerate(zip(norm.tolist(), loss.tolist(), strict=True)):
        incident = detector.observe(step=step, loss=cost, norm=value)
        if incident is not None:
            said.append(step)
            if incident.acts:
                acted.append(step)
    return Told(
        shape=shape,
        early=any(EPOCH <= step < 2 * EPOCH for step in said),
        in_time=any(EPOCH <= step < far for step in acted),
        nearly=any(EPOCH <= step <= far + NEARLY for step in acted),
        false=any(step < EPOCH for step in acted),
    )


def tellings(name: str, seeds: int = SEEDS) -> Iterator[Told]:
    for shape in SHAPES:
        for seed in range(seeds):
            yield tell(shape, seed, DETECTORS[name]())


def counted(told: list[Told]) -> dict[str, dict[str, int]]:
    """By shape, how many of the tellings went how."""
    return {
        shape: {
            "of": len(some),
            "told_in_epoch_2": sum(one.early for one in some),
            "acted_in_time": sum(one.in_time for one in some),
            "acted_within_5_steps": sum(one.nearly for one in some),
            "acted_in_epoch_1": sum(one.false for one in some),
        }
        for shape in SHAPES
        for some in [[one for one in told if one.shape == shape]]
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection.story")
    parser.add_argument("--detector", action="append", choices=tuple(DETECTORS))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = {name: counted(list(tellings(name))) for name in asked.detector or DETECTORS}
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    print(f"of {SEEDS}: told in epoch 2 / acted before / or within 5 steps / falsely in epoch 1")
    print(" " * 18, *(f"{shape:>16}" for shape in SHAPES))
    for name, shapes in found.items():
        cells = ("/".join(str(count) for count in list(n.values())[1:]) for n in shapes.values())
        print(f"{name:18}", *(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()

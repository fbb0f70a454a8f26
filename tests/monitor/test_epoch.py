"""Who looks once an epoch sees quantiles and the largest step, not a mean."""

from __future__ import annotations

import json
import math
import random

import pytest

from hpckit.monitor.epoch import Epoch


def test_quantiles_are_those_of_the_steps_within_a_few_percent() -> None:
    rng = random.Random(0)
    norms = [math.exp(rng.gauss(1.9, 0.5)) for _ in range(10_000)]
    epoch = Epoch()
    for step, norm in enumerate(norms):
        epoch.add(step, norm, gated=False)
    norms.sort()
    for share in (0.1, 0.5, 0.9, 0.99):
        assert epoch.quantile(share) == pytest.approx(norms[int(share * 10_000)], rel=0.01)
    assert epoch.values()["max"] == norms[-1]


def test_one_step_that_makes_the_mean_is_named() -> None:
    # The mean of these is 45.3, as the log of a training said that was lost.
    epoch = Epoch()
    for step in range(400):
        epoch.add(step, 6.9 if step != 377 else 15_367.0, gated=step == 377)
    assert str(epoch) == (
        "400 steps: gradient norm 6.9 in the middle, 99% at most 6.9, largest 15000 at step 377, "
        "1 held back"
    )


def test_non_finite_steps_and_zeros_are_counted_apart() -> None:
    epoch = Epoch()
    for step, norm in enumerate([math.nan, 0.0, 2.0, math.inf, 2.0]):
        epoch.add(step, norm, gated=not math.isfinite(norm))
    assert epoch.values() == pytest.approx(
        {"p50": 2.0, "p90": 2.0, "p99": 2.0, "max": 2.0, "non_finite": 2, "gated": 2}, rel=0.01
    )
    assert str(Epoch()) == "0 steps, no finite gradient norm"


def test_an_epoch_without_any_gradient_has_a_largest_one_of_zero() -> None:
    epoch = Epoch()
    epoch.add(7, 0.0, gated=False)
    assert epoch.values()["max"] == 0.0
    assert str(epoch).endswith("largest 0 at step 7")


def test_an_epoch_goes_on_after_a_checkpoint() -> None:
    whole, first, second = Epoch(), Epoch(), Epoch()
    for step in range(50):
        whole.add(step, 1.0 + step, gated=False)
        if step < 20:
            first.add(step, 1.0 + step, gated=False)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for step in range(20, 50):
        second.add(step, 1.0 + step, gated=False)
    assert second.state_dict() == whole.state_dict()

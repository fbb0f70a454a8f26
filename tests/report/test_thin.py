"""Thinning a long curve."""

from __future__ import annotations

import numpy as np

from hpckit.report.thin import chosen


def test_no_spike_of_one_step_is_hidden_however_long_the_curve() -> None:
    steps = np.arange(1_000_000)
    random = np.random.default_rng(0)
    values = random.normal(1.0, 0.01, len(steps))
    spikes = random.choice(len(steps), 40, replace=False)
    values[spikes[:20]], values[spikes[20:]] = 50.0, -50.0
    places = set(chosen(steps, values, most=2000).tolist())
    assert set(spikes.tolist()) <= places
    assert len(places) < 2200


def test_what_is_not_finite_stays_and_hides_no_extreme_beside_it() -> None:
    steps = np.arange(100_000)
    values = np.ones(len(steps))
    values[5000], values[5001], values[70_000] = np.nan, 9.0, np.inf
    assert {5000, 5001, 70_000} <= set(chosen(steps, values, most=500).tolist())


def test_the_surroundings_of_an_incident_stay_whole() -> None:
    steps = np.arange(0, 500_000, 5)
    places = chosen(steps, np.sin(steps), most=400, whole=[(250_000, 250_500)])
    around = [step for step in steps[places] if 250_000 <= step <= 250_500]
    assert around == list(range(250_000, 250_501, 5))


def test_a_short_curve_is_drawn_whole() -> None:
    assert len(chosen(np.arange(300), np.zeros(300), most=300)) == 300

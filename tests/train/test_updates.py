"""How far steps move the weights, from a sample."""

from __future__ import annotations

import pytest
import torch

from hpckit.train.updates import EVERY, STRETCH, Updates


def test_every_stretch_of_a_parameter_has_its_turn() -> None:
    updates, weights = Updates(), torch.ones(4 * STRETCH)
    samples = [updates.before([weights]) for _ in range(4 * EVERY)]
    offsets = [each.now.storage_offset() for each in samples if each is not None]
    assert sorted(offsets) == [0, STRETCH, 2 * STRETCH, 3 * STRETCH]
    assert [number for number, each in enumerate(samples, 1) if each is not None] == [
        EVERY * lap for lap in range(1, 5)
    ]


def test_a_stretch_counts_by_the_size_of_the_parameter_that_it_is_of() -> None:
    updates = Updates()
    large, small = torch.ones(9 * STRETCH), torch.ones(STRETCH)
    for _ in range(32 * EVERY):
        small.fill_(1.0)
        sample = updates.before([large, small])
        small.fill_(2.0)
        if sample is not None:
            update, weight, stands_for = sample.taken()
            updates.add(float(update), float(weight), stands_for)
    # A tenth of the weights moved by their whole size.
    assert updates.ratio == pytest.approx(0.1**0.5)

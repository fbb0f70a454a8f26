"""Detectors and health rules together: what they are given, and what of it is told."""

from __future__ import annotations

import json
import math

import pytest

from hpckit.monitor import Incident, Reading
from hpckit.monitor.lookout import Lookout
from hpckit.spec.monitoring import Clip, Monitor, Optimizer

CLIPPED = {"grad/norm/main": 6.6, "grad/clip/main": 0.1}


def live(
    lookout: Lookout, values: dict[str, float], *, steps: int = 1, start: int = 0
) -> list[Incident]:
    """What a lookout says of the same numbers at each step."""
    return [
        incident
        for step in range(start, start + steps)
        for incident in lookout.observe(Reading(step=step, values=values))
    ]


def kinds(incidents: list[Incident]) -> list[str]:
    return [each.kind for each in incidents]


def test_clipping_at_every_step_is_told_unless_the_spec_turns_that_off() -> None:
    assert kinds(live(Lookout(), CLIPPED, steps=300)) == ["clip_saturation"]
    silent = Lookout.of(Monitor(rules={"clip_saturation": False}))
    assert live(silent, CLIPPED, steps=300) == []


def test_a_percentile_clips_a_fixed_share_and_that_is_no_saturation() -> None:
    lookout = Lookout()
    lookout.by_percentile.add("main")
    assert live(lookout, CLIPPED, steps=300) == []


def test_a_program_that_does_not_tell_its_clip_is_judged_by_the_specs() -> None:
    norm = {"grad/norm/main": 6.6}
    lookout = Lookout.of(Monitor(optimizers={"main": Optimizer(clip=Clip(norm=1.0))}))
    assert kinds(live(lookout, norm, steps=300)) == ["clip_saturation"]


def test_a_state_that_is_loaded_into_a_lookout_at_work_is_what_counts_from_then_on() -> None:
    healthy, spike = {"grad/norm/main": 6.6}, {"grad/norm/main": 6600.0}
    saved, busy = Lookout(), Lookout()
    live(saved, healthy, steps=300)
    live(busy, healthy)
    busy.load_state_dict(json.loads(json.dumps(saved.state_dict())))
    assert busy.limit("main") == saved.limit("main") < math.inf
    assert kinds(live(busy, spike, start=300)) == ["bad_batch"]


def test_after_a_rollback_detectors_and_rules_both_ask_again() -> None:
    lookout = Lookout()
    bad = {"train/loss": math.nan, "data/size": 0.0}
    live(lookout, {"train/loss": 2.0})
    assert kinds(live(lookout, bad, start=1)) == ["non_finite", "steps_without_data"]
    assert live(lookout, bad, start=2) == []
    lookout.went_back(1)
    assert kinds(live(lookout, bad, start=1)) == ["non_finite", "steps_without_data"]


@pytest.mark.parametrize(("norm", "blamed"), [(6600.0, "b"), (6.6, None)])
def test_a_parameter_is_named_for_a_gradient_and_not_for_a_loss(
    norm: float, blamed: str | None
) -> None:
    lookout = Lookout()
    for step in range(300):
        values = {"train/loss": 2.0 * 0.99**step, "grad/norm/main": 6.6}
        lookout.observe(Reading(step=step, values=values))
    loss = 400.0 if blamed is None else 0.1
    found = [
        incident
        for step in range(300, 400)
        for incident in lookout.observe(
            Reading(step=step, values={"train/loss": loss, "grad/norm/main": norm}),
            lambda _, step=step: [(step, {"a": 1.0, "b": norm})],
        )
    ]
    assert found
    assert {each.parameter for each in found} == {blamed}

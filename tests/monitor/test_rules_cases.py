"""Each health rule: it tells its case, once, over restarts too, and leaves the healthy alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest

from hpckit.monitor.reading import Reading
from hpckit.monitor.rules import RULES
from hpckit.monitor.rules.rules import Rules

NAN = math.nan
Values = Iterable[Mapping[str, float]]


def steps(
    count: int,
    of: Mapping[str, Any] | None = None,
    facts: Mapping[str, float] | None = None,
    *,
    sometimes: tuple[str, int] = ("", 0),
) -> Values:
    """So many readings; what is callable is asked for each step, facts stand in the first."""
    name, every = sometimes
    for step in range(count):
        now = {key: each(step) if callable(each) else each for key, each in (of or {}).items()}
        now.update((facts or {}) if step == 0 else {})
        yield {**now, name: 1.0} if every and step % every == every - 1 else now


def chain(*parts: Values) -> Iterator[Mapping[str, float]]:
    for part in parts:
        yield from part


def only(name: str) -> Rules:
    return Rules([RULES[name]()])


def told(
    name: str, values: Values, restart_every: int = 0, begin: int = 0
) -> list[tuple[int, str]]:
    """When the rule spoke, and what it asked for; its state goes through JSON at each restart."""
    rules, found = only(name), []
    for step, each in enumerate(values, begin):
        if restart_every and step % restart_every == 0:
            state = json.loads(json.dumps(rules.state_dict()))
            rules = only(name)
            rules.load_state_dict(state)
        found += [(one.step, one.answer) for one in rules.observe(Reading(step=step, values=each))]
    return found


def epochs(per: int) -> Any:
    return lambda step: step / per


# By rule: a stream with its case in it, and the step at which it is told.
CASES: dict[str, tuple[Any, int]] = {
    # The schedule was made and never given to the optimizer.
    "learning_rate_stuck": (
        lambda: steps(300, {"lr/main": 5e-6, "epoch": epochs(100)}, {"schedule/main": 1}),
        200,
    ),
    # Gamma was applied at each batch, not at each epoch.
    "learning_rate_off_schedule": (
        lambda: steps(
            300, {"lr/main": lambda s: 2e-4 * 0.999**s, "lr_planned/main": lambda s: 2e-4}
        ),
        151,
    ),
    # A warm-up whose base is already a hundredth of the rate.
    "learning_rate_after_warmup": (
        lambda: steps(
            300,
            {"lr/main": lambda s: 1e-5 * min(1, s / 100)},
            {"lr_base/main": 1e-3, "warmup/main": 100},
        ),
        103,
    ),
    "steps_without_data": (
        lambda: chain(steps(5, {"data/size": 8}), steps(50, {"data/size": 0})),
        5,
    ),
    "same_batch": (
        lambda: chain(
            steps(5, {"data/batch": lambda s: s, "epoch": 0.5}),
            steps(50, {"data/batch": 77, "epoch": 0.5}),
        ),
        7,
    ),
    "epoch_incomplete": (
        lambda: steps(20, {"data/batches": 3}, {"data/expected": 250}),
        0,
    ),
    "data_time_share": (lambda: steps(1000, {"time/data": 0.5, "time/step": 1.0}), 299),
    "features_non_finite": (lambda: steps(500, {"features/non_finite": 0.05}), 49),
    "weights_still": (lambda: steps(500, {"weights/update/main": 0.0, "lr/main": 1e-4}), 49),
    # The model gave out about zero: 45 times the mean of the logarithmic mel, and nothing else.
    "loss_flat": (lambda: steps(1000, {"train/loss": lambda s: 236 + 2 * math.sin(s)}), 199),
    "first_loss": (lambda: steps(20, {"train/cross_entropy": 9.0}, {"data/classes": 128}), 0),
    "loss_not_falling": (lambda: steps(3000, {"early/mel": lambda s: 1.7 - 1e-5 * s}), 1999),
    "validation_overdue": (
        lambda: chain(
            steps(1, {"every/validation": 100}), steps(99), steps(1, {"val/loss": 1}), steps(1000)
        ),
        301,
    ),
    "pesq_below_best": (
        lambda: chain(
            steps(3, {"val/pesq": lambda s: 2.0 + 0.32 * s}), steps(20, {"val/pesq": 2.07})
        ),
        5,
    ),
    "metric_constant": (lambda: steps(20, {"val_spread/stoi": 0, "val_items/stoi": 30}), 0),
    "device_not_used": (lambda: steps(20, {"device/used": 0}, {"device/asked": 1}), 0),
    "gpu_idle": (lambda: steps(50, {"gpu/idle": 0.9}), 19),
    "discriminator_winning": (
        lambda: steps(
            1500,
            {
                "train/discriminator/p2": 0.163,
                "train/discriminator/s1": 0.33,
                "train/adversarial": 0.95,
            },
        ),
        499,
    ),
    # Most batches are left out because one of their scores failed.
    "discriminator_not_updated": (
        lambda: steps(
            3000,
            {"updates/generator": lambda s: s, "updates/discriminator": lambda s: s * 44 // 100},
            {"updates_planned/discriminator": 1},
        ),
        500,
    ),
    # Every sample got the mean of the valid scores.
    "target_spread_zero": (lambda: steps(100, {"targets/spread": 1e-8, "data/size": 4}), 9),
    # Normalised estimate against the raw clean clip: the level went from 0.91 to 0.27.
    "scale_mismatch": (
        lambda: steps(
            400, {"scale/estimate_over_clean": lambda s: 0.27 + 0.64 * math.exp(-s / 60)}
        ),
        161,
    ),
    "one_class": (lambda: steps(1000, {"predictions/largest_class": 0.97}), 299),
    "codebook_unused": (lambda: steps(5000, {"codebook/usage": 0.1}), 1999),
    "scores_failed": (
        lambda: steps(500, {"scores/failed": 0.1, "scores/failed/silent": 0.1}),
        49,
    ),
    "scores_nan": (
        lambda: chain(steps(9, {"scores/mean": 2.1}), steps(50, {"scores/mean": NAN})),
        9,
    ),
}


def test_every_rule_has_its_case():
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_tells_its_case_once(name):
    stream, step = CASES[name]
    assert told(name, stream()) == [(step, RULES[name].answer)]


@pytest.mark.parametrize("name", CASES)
def test_a_rule_goes_on_in_the_same_way_after_a_restart(name):
    stream, step = CASES[name]
    assert told(name, stream(), restart_every=7) == [(step, RULES[name].answer)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("broken", [NAN, math.inf, -math.inf])
def test_values_that_are_not_finite_raise_no_alarm_and_no_error(name, broken):
    stream, _ = CASES[name]
    found = told(name, [dict.fromkeys(each, broken) for each in stream()])
    assert found == ([(0, "act")] if name == "scores_nan" else [])


def test_only_steps_without_data_and_scores_that_are_nan_ask_for_more_than_to_be_told():
    assert {name for name, rule in RULES.items() if rule.answer != "tell"} == {
        "steps_without_data",
        "scores_nan",
    }


def warm_hold_decay(step: int) -> float:
    return 1e-3 * min(1.0, step / 100, max(0.0, (1000 - step) / 200))


# Healthy streams that look like a case, by rule and by what they are.
HEALTHY: dict[tuple[str, str], Any] = {
    ("learning_rate_stuck", "the plateau between warm-up and decay"): lambda: steps(
        1000, {"lr/main": warm_hold_decay, "epoch": epochs(50)}, {"schedule/main": 1}
    ),
    ("learning_rate_stuck", "no schedule"): lambda: steps(
        900, {"lr/main": 1e-3, "epoch": epochs(50)}
    ),
    ("learning_rate_stuck", "a schedule that halves each thirty epochs"): lambda: steps(
        900,
        {"lr/main": lambda s: 1e-3 * 0.5 ** (s // 300), "epoch": epochs(10)},
        {"schedule/main": 30},
    ),
    ("learning_rate_stuck", "a resumed plateau whose past is unknown"): lambda: steps(
        900, {"lr/main": 1e-3, "epoch": lambda s: 7 + s / 10}, {"schedule/main": 1}
    ),
    ("learning_rate_off_schedule", "a plan that is one step ahead in a warm-up"): lambda: steps(
        1000, {"lr/main": warm_hold_decay, "lr_planned/main": lambda s: warm_hold_decay(s + 1)}
    ),
    ("learning_rate_after_warmup", "a decay after it"): lambda: steps(
        1000, {"lr/main": warm_hold_decay}, {"lr_base/main": 1e-3, "warmup/main": 100}
    ),
    ("learning_rate_after_warmup", "readings far apart"): lambda: (
        {"lr/main": warm_hold_decay(step), "lr_base/main": 1e-3, "warmup/main": 100}
        if step in (0, 900)
        else {}
        for step in range(1000)
    ),
    ("steps_without_data", "a last batch of one item"): lambda: steps(
        90, {"data/size": lambda s: 8 if s % 9 else 1}
    ),
    ("same_batch", "an epoch of one batch"): lambda: steps(
        90, {"data/batch": 5, "epoch": lambda s: s}
    ),
    ("same_batch", "one batch is expected"): lambda: steps(
        90, {"data/batch": 5}, {"data/expected": 1}
    ),
    ("same_batch", "epochs of one batch, after others"): lambda: chain(
        steps(5, {"data/batch": lambda s: s, "epoch": 0}),
        steps(90, {"data/batch": 5, "epoch": lambda s: 1 + s}),
    ),
    ("same_batch", "one batch fitted on purpose"): lambda: steps(90, {"data/batch": 5}),
    ("same_batch", "a dataset of two batches"): lambda: steps(
        90, {"data/batch": lambda s: (0, 1, 1, 0)[s % 4], "epoch": lambda s: s // 2}
    ),
    ("epoch_incomplete", "a last batch that is left out"): lambda: steps(
        9, {"data/batches": 9}, {"data/expected": 10}
    ),
    ("data_time_share", "a slow start"): lambda: steps(
        1000,
        {"time/data": lambda s: 30 if s < 5 else 0.1, "time/step": lambda s: 31 if s < 5 else 1},
    ),
    ("data_time_share", "workers that start anew each epoch"): lambda: steps(
        3000,
        {
            "time/data": lambda s: 60 if s % 500 == 0 else 0.01,
            "time/step": lambda s: 60.2 if s % 500 == 0 else 0.2,
        },
    ),
    ("features_non_finite", "one broken clip"): lambda: steps(
        900, {"features/non_finite": lambda s: 0.3 if s % 100 == 0 else 0.0}
    ),
    ("weights_still", "a rate of 0 in a warm-up's first step"): lambda: steps(
        900, {"weights/update/main": lambda s: 1e-9 * s, "lr/main": lambda s: 1e-8 * s}
    ),
    ("weights_still", "an optimizer whose turn comes later"): lambda: steps(
        900, {"weights/update/main": 0.0, "lr/main": 0.0}
    ),
    ("weights_still", "the floor of a decay"): lambda: steps(
        1500,
        {
            "weights/update/main": lambda s: max(1e-8, warm_hold_decay(s)),
            "lr/main": lambda s: max(1e-6, warm_hold_decay(s)),
        },
    ),
    ("weights_still", "the end of a decay"): lambda: steps(
        1500,
        {"weights/update/main": lambda s: warm_hold_decay(s) / 9, "lr/main": warm_hold_decay},
    ),
    ("weights_still", "updates that are held back"): lambda: steps(
        900, {"weights/update/main": 0, "lr/main": 1e-3, "grad/gated/main": 1}
    ),
    ("weights_still", "accumulation over 64 steps"): lambda: steps(
        900,
        {
            "weights/update/main": lambda s: 1e-4 if s % 64 == 63 else 0.0,
            "updates/main": lambda s: (s + 1) // 64,
            "lr/main": 1e-3,
        },
    ),
    ("loss_flat", "a loss that falls slowly and is noisy"): lambda: steps(
        900, {"train/loss": lambda s: 2.3 - 1e-4 * s + 0.2 * math.sin(s * s)}
    ),
    ("loss_flat", "a long warm-up"): lambda: steps(
        3000,
        {"train/loss": lambda s: 2.3 - 1e-7 * s * s, "lr/main": lambda s: 1e-7 * min(s, 2000)},
    ),
    ("first_loss", "a guess"): lambda: steps(
        90, {"train/cross_entropy": lambda s: 4.9 - s / 30}, {"data/classes": 128}
    ),
    ("first_loss", "nobody said how many classes"): lambda: steps(90, {"train/cross_entropy": 9.0}),
    ("loss_not_falling", "it falls, and rises later"): lambda: steps(
        3000, {"early/mel": lambda s: 1.7 if s < 50 or s > 900 else 1.2}
    ),
    ("loss_not_falling", "a warm-up of three thousand steps"): lambda: steps(
        6000,
        {
            "early/mel": lambda s: 1.7 * min(1.0, math.exp((2500 - s) / 3000)),
            "lr/main": lambda s: 1e-6 * min(s, 3000),
        },
    ),
    ("validation_overdue", "one each interval, and a longer one"): lambda: steps(
        900,
        {"every/validation": 100, "time/step": lambda s: 900 if s % 100 == 0 else 0.1},
        sometimes=("val/loss", 190),
    ),
    ("validation_overdue", "no interval is known"): lambda: steps(900, {"train/loss": 1}),
    ("pesq_below_best", "a dip"): lambda: steps(
        90, {"val/pesq": lambda s: 2.6 - (0.3 if s % 3 else 0)}
    ),
    ("metric_constant", "a validation of seven items"): lambda: steps(
        9, {"val_spread/stoi": 0, "val_items/stoi": 7}
    ),
    ("device_not_used", "no GPU was asked for"): lambda: steps(
        9, {"device/used": 0, "device/asked": 0}
    ),
    ("gpu_idle", "a validation on the CPU"): lambda: steps(
        900, {"gpu/idle": lambda s: 0.95 if s % 100 < 15 else 0.1}
    ),
    ("discriminator_winning", "a generator that fools it"): lambda: steps(
        1500, {"train/discriminator/p2": 0.15, "train/adversarial": 0.4}
    ),
    ("discriminator_winning", "a good stretch"): lambda: steps(
        1500,
        {"train/discriminator/p2": lambda s: 0.4 if s % 400 == 0 else 0.15, "train/adversarial": 1},
    ),
    ("discriminator_not_updated", "one update in five steps, as planned"): lambda: steps(
        3000,
        {"updates/generator": lambda s: s, "updates/discriminator": lambda s: s // 5},
        {"updates_planned/discriminator": 0.2},
    ),
    ("discriminator_not_updated", "it begins later"): lambda: steps(
        3000,
        {"updates/generator": lambda s: s, "updates/discriminator": lambda s: max(0, s - 2000)},
    ),
    ("discriminator_not_updated", "the training has ended for both"): lambda: steps(
        3000,
        {
            "updates/generator": lambda s: min(s, 600),
            "updates/discriminator": lambda s: min(s, 600),
        },
    ),
    ("target_spread_zero", "batches of one item"): lambda: steps(
        90, {"targets/spread": 0, "data/size": 1}
    ),
    ("scale_mismatch", "a fresh model"): lambda: steps(
        2000, {"scale/estimate_over_clean": lambda s: min(1.0, 0.05 + s / 900)}
    ),
    ("one_class", "the first steps"): lambda: steps(
        1000, {"predictions/largest_class": lambda s: 0.99 if s < 150 else 0.3}
    ),
    ("one_class", "data that is nearly all one class"): lambda: steps(
        1000, {"predictions/largest_class": 0.97, "targets/largest_class": 0.95}
    ),
    ("codebook_unused", "a fresh codebook"): lambda: steps(
        5000, {"codebook/usage": lambda s: min(0.6, s / 3000)}
    ),
    ("scores_failed", "one failure in a small batch"): lambda: steps(
        900, {"scores/failed": lambda s: 0.25 if s % 20 == 0 else 0.0}
    ),
    ("scores_nan", "scores"): lambda: steps(90, {"scores/mean": 2.5}),
}


def test_every_rule_has_a_healthy_look_alike():
    assert {name for name, _ in HEALTHY} == set(RULES)


@pytest.mark.parametrize(("name", "what"), HEALTHY, ids=[" ".join(each) for each in HEALTHY])
def test_a_healthy_look_alike_raises_no_alarm(name, what):
    assert told(name, HEALTHY[name, what]()) == []


def test_what_gets_worse_is_told_a_second_time():
    values = {"train/discriminator/p2": lambda s: 0.15 if s < 600 else 0.01, "train/adversarial": 1}
    assert [step for step, _ in told("discriminator_winning", steps(2000, values))] == [499, 1099]
    failing = {"scores/failed": lambda s: 0.1 if s < 100 else 0.5}
    assert [step for step, _ in told("scores_failed", steps(500, failing))] == [49, 149]


def test_an_optimizer_that_stopped_is_told_without_a_plan():
    values = {"updates/g": lambda s: s, "updates/d": lambda s: min(s, 700)}
    assert [step for step, _ in told("discriminator_not_updated", steps(3000, values))] == [1500]


def test_each_optimizer_is_judged_by_itself():
    values = {"weights/update/g": 1e-3, "weights/update/d": 0.0}
    rules = only("weights_still")
    found = [one for step in range(100) for one in rules.observe(Reading(step=step, values=values))]
    assert [(one.optimizer, one.step) for one in found] == [("d", 49)]


def test_weights_that_stand_still_at_a_twentieth_of_the_rate_are_told():
    rules = only("weights_still")
    found = []
    for step in range(100):
        early = step < 20
        rate, moved = (1e-3, 1e-4) if early else (5e-5, 0.0)
        values = {"weights/update/main": moved, "lr/main": rate}
        found += rules.observe(Reading(step=step, values=values))
    assert [one.step for one in found] == [69]


def test_a_validation_is_due_by_the_steps_since_the_run_went_back():
    rules = only("validation_overdue")
    rules.observe(Reading(step=1000, values={"every/validation": 100, "val/loss": 1.0}))
    found = [one for s in range(500, 1300) for one in rules.observe(Reading(step=s, values={}))]
    assert [one.step for one in found] == [701]


def test_the_reason_that_scores_fail_for_most_often_is_named():
    values = {"scores/failed": 0.3, "scores/failed/silent": 0.2, "scores/failed/short": 0.1}
    rules = only("scores_failed")
    found = [one for s in range(50) for one in rules.observe(Reading(step=s, values=values))]
    assert found[0].said == "30% of the scores failed, most often because of silent"


@pytest.mark.parametrize("name", ["loss_flat", "first_loss", "loss_not_falling"])
def test_a_training_taken_up_in_its_midst_is_not_judged_by_how_it_begins(name):
    stream, _ = CASES[name]
    assert told(name, stream(), begin=100_000) == []

"""The judge of divergence detection, on traces made by hand."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from hpckit.monitor.incident import Incident

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.detection import split, story
from benchmarks.detection.outcome import LOST_GRACE, SUDDEN_GRACE, outcome
from benchmarks.detection.plan import recipes
from benchmarks.detection.recipe import Fault, Recipe
from benchmarks.detection.rivals import (
    DETECTORS,
    AutoClip,
    Field,
    KillLossSpike,
    RollingMedian,
    SkipStep,
    Spiky,
    ZClip,
)
from benchmarks.detection.summary import summarise, table, upper
from benchmarks.detection.synthetic import MAKERS, made
from benchmarks.detection.trace import Trace, recorded, write
from benchmarks.detection.verdict import ONSET_TOLERANCE, REARM, judge


class Scripted:
    """Says what it is told to, at the steps it is told to."""

    def __init__(self, answers, onset=None):
        self.answers, self.onset = answers, onset

    def observe(self, *, step, loss, norm):
        answer = self.answers.get(step)
        if answer is None:
            return None
        return Incident(kind="explosion", step=step, answer=answer, said="", onset=self.onset)


def trace(norm, loss=None, *, healthy=False, begin=None, **notes):
    norm = np.asarray(norm, np.float32)
    loss = np.full(len(norm), 2.0) if loss is None else loss
    return Trace(
        name="a",
        family="mlp",
        kind="healthy" if healthy else "lr_jump",
        norm=norm,
        loss=np.asarray(loss, np.float32),
        healthy=healthy,
        begin=begin,
        notes=notes,
    )


def usual(steps, seed=0):
    return np.exp(np.random.default_rng(seed).normal(0, 0.1, steps))


EXPLODES = trace([*usual(300), 10, 1e3, 1e6, np.nan, np.nan], begin=299)


def feed(detector, norms, losses=None):
    """The steps at which a detector says anything."""
    losses = itertools.repeat(2.0) if losses is None else losses
    return [
        step
        for step, (norm, loss) in enumerate(zip(norms, losses, strict=False))
        if detector.observe(step=step, loss=loss, norm=norm) is not None
    ]


@pytest.mark.parametrize(("step", "caught"), [(300, True), (303, True), (304, False), (298, False)])
def test_a_divergence_is_caught_up_to_its_first_non_finite_step(step, caught):
    verdict = judge(EXPLODES, Scripted({step: "act"}))
    assert (verdict.ending, verdict.deadline) == ("diverged", 303)
    assert verdict.caught is caught


def test_an_act_before_the_fault_is_false_and_catches_nothing():
    verdict = judge(EXPLODES, Scripted({100: "act"}))
    assert not verdict.caught
    assert [event.step for event in verdict.false_acts] == [100]
    assert verdict.healthy_steps == 299


def test_the_fault_is_an_event_of_its_own_however_near_the_last_alarm_was():
    verdict = judge(EXPLODES, Scripted({290: "act", 300: "act"}))
    assert verdict.caught
    assert verdict.lead == 3


def test_acts_within_the_rearming_time_are_one_event_and_later_ones_are_others():
    always = Scripted(dict.fromkeys(range(1000), "act"))
    verdict = judge(trace(usual(1000), healthy=True), always)
    assert [event.step for event in verdict.false_acts] == [0, 201, 402, 603, 804]
    assert REARM == 200


def test_a_skip_of_a_non_finite_step_is_right_and_of_another_is_false():
    norms = usual(100)
    norms[50] = np.nan
    verdict = judge(trace(norms, healthy=True), Scripted({50: "skip", 60: "skip", 61: "tell"}))
    assert (verdict.false_skips, verdict.first_skip, verdict.false_acts) == (1, 50, [])


@pytest.mark.parametrize(
    ("onset", "right"), [(290, True), (299 + ONSET_TOLERANCE, True), (310, False)]
)
def test_an_onset_after_the_damage_is_wrong(onset, right):
    assert judge(EXPLODES, Scripted({301: "act"}, onset)).onset_right is right


def test_what_breaks_at_once_is_given_some_steps_because_the_gate_holds():
    sudden = outcome(trace([*usual(200), *[np.nan] * 40], begin=200))
    assert (sudden.ending, sudden.deadline) == ("sudden", 200 + SUDDEN_GRACE)


def test_a_known_bad_batch_and_a_scale_finding_its_level_are_no_deadline():
    norms = np.concatenate([usual(300), [np.nan] * 40])
    norms[250] = np.nan
    known = outcome(trace(norms, begin=200, nan_batches=[250]))
    float16 = outcome(trace(norms, begin=200, float16=True))
    assert known.deadline == float16.deadline == 300


def test_a_loss_that_never_comes_back_is_lost_and_one_that_does_is_not():
    rng = np.random.default_rng(0)
    loss = 1 + 0.05 * rng.normal(size=1000)
    loss[:20] += 3
    loss[600:] += 5
    lost = outcome(trace(usual(1000), loss, begin=600))
    assert lost.ending == "lost"
    assert 600 + LOST_GRACE <= lost.deadline <= 600 + LOST_GRACE + 50
    loss[700:] -= 5
    assert outcome(trace(usual(1000), loss, begin=600)).ending == "recovered"


def test_a_norm_a_thousand_times_above_its_usual_to_the_end_is_lost_too():
    norms = usual(1000)
    norms[600:] *= 5000
    assert outcome(trace(norms, begin=600)).ending == "lost"
    norms[600:] /= 100
    assert outcome(trace(norms, begin=600)).ending == "recovered"


def test_a_summary_counts_leads_rates_and_runs_that_got_over_it():
    got_over = trace(usual(400), begin=200)
    verdicts = [
        judge(EXPLODES, Scripted({300: "act"})),
        judge(EXPLODES, Scripted({})),
        judge(got_over, Scripted({250: "act"})),
        judge(trace(usual(202), healthy=True), Scripted({5: "act"})),
    ]
    found = summarise(verdicts)
    assert (found.caught, found.bad, found.median_lead) == (1, 2, 3)
    assert (found.recovered, found.acted_on_recovered) == (1, 1)
    assert (found.healthy_steps, found.false_acts, found.false_act_rate) == (1000, 1, 100.0)
    assert found.false_act_upper > found.false_act_rate
    text = table({"one": verdicts, "two": verdicts[1:]})
    assert "1/2" in text
    assert "0/1" in text


def test_of_no_event_the_bound_is_three_in_all_steps():
    assert upper([0, 0], [40_000, 60_000]) == pytest.approx(3.0)


def test_zclip_alarms_above_its_z_and_is_silent_from_its_first_nan_on():
    norms = [*usual(100), 3.0, *usual(100)]
    assert 100 in feed(ZClip(), norms)
    assert not [at for at in feed(ZClip(), [math.nan, *norms]) if at > 24]


def test_autoclip_alarms_at_about_a_tenth_of_the_steps():
    assert 60 < len(feed(AutoClip(), usual(1000))) < 160


def test_skip_step_skips_a_nan_and_all_the_steps_it_stays_in_the_window():
    assert len(feed(SkipStep(), [*usual(200), math.nan, *usual(300)])) == 129


def test_skip_step_hides_a_spike_behind_one_that_was_larger():
    assert feed(SkipStep(), [*usual(200), 1000.0, 5.0, *usual(20)]) == [200]
    assert feed(SkipStep(), [*usual(200), 5.0, *usual(20)]) == [200]


@pytest.mark.parametrize("of", ["loss", "norm"])
def test_megatrons_rule_knows_the_largest_of_the_first_hundred(of):
    values = [1.0] * 99 + [7.0] + [69.0, 71.0]
    found = feed(Spiky(of), values, values)
    assert found == [101]


def test_kill_loss_spike_wants_five_in_a_row():
    losses = [1.0] * 150 + [9.0] * 4 + [1.0] * 150
    assert feed(KillLossSpike(), usual(304), losses) == []
    losses[154] = 9.0
    assert feed(KillLossSpike(), usual(304), losses) == [154]


def test_the_rolling_median_is_blind_to_a_slow_ramp():
    ramp = 1.02 ** np.arange(400)
    assert feed(RollingMedian(), ramp) == []
    assert feed(RollingMedian(), [*usual(50), 11.0]) == [50]


def test_the_field_rule_skips_one_spike_and_acts_on_the_third():
    detector = Field()
    norms = [*usual(300), 50.0, 1.0, 50.0, 50.0]
    answers = [detector.observe(step=i, loss=2.0, norm=norm) for i, norm in enumerate(norms)]
    assert [one.answer for one in answers if one] == ["skip", "skip", "act"]


def test_no_rule_stumbles_over_zeros_infinities_or_a_missing_loss():
    odd = [0.0] * 150 + [1e30, math.inf, -0.0, math.nan, 1e308, 1e308, *usual(50)]
    for make in DETECTORS.values():
        feed(make(), odd, itertools.cycle([None, 1.0, math.nan, -1e308]))


def test_the_two_halves_share_no_family_and_leave_none_out():
    assert not set(split.TUNE) & set(split.TEST)
    assert set(split.TUNE_SYNTHETIC) | set(split.TEST_SYNTHETIC) == set(MAKERS)
    planned = {recipe.family for recipe in recipes(0)}
    assert planned == {*split.TUNE_MODELS, *split.TEST_MODELS}


def test_made_traces_are_the_same_for_a_seed_and_healthy():
    one, two = (list(made(tuple(MAKERS), seed=3, lengths=(600,))) for _ in range(2))
    assert len(one) == len(MAKERS)
    for left, right in zip(one, two, strict=True):
        assert left.healthy
        assert np.array_equal(left.norm, right.norm)
        assert np.isfinite(left.loss).all()
        assert (left.norm >= 0).all()


def test_traces_come_back_from_their_file_as_they_were_written(tmp_path):
    first = dataclasses.replace(EXPLODES, notes={"clip": 1.0, "nan_batches": [3]})
    write([first], tmp_path / "deep" / "mlp.npz")
    (back,) = recorded(tmp_path / "deep" / "mlp.npz")
    assert np.array_equal(back.norm, first.norm, equal_nan=True)
    assert (back.begin, back.kind, back.notes) == (299, "lr_jump", first.notes)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["mlp.npz"]


@pytest.mark.parametrize("shape", story.SHAPES)
def test_the_storys_epoch_means_are_those_that_were_logged(shape):
    norms = story.norms(shape, 7)
    means = [epoch.mean() for epoch in norms.reshape(3, story.EPOCH)]
    assert means == pytest.approx(story.MEANS, rel=1e-9)
    assert (norms > 0).all()


def test_a_faulty_rate_begins_with_the_fault_and_a_schedule_drops():
    fault = Fault(kind="lr_jump", at=10, size=100.0)
    recipe = Recipe(family="vae", name="a", seed=0, steps=100, lr=1.0, schedule="drops")
    assert recipe.rate(49) == 1.0
    assert recipe.rate(50) == pytest.approx(0.1)
    broken = dataclasses.replace(recipe, fault=fault)
    assert (broken.rate(9), broken.rate(10)) == (1.0, 100.0)


def test_a_nan_batch_is_held_back_and_the_training_goes_on():
    from benchmarks.detection.training import train
    from benchmarks.detection.tuned_models import TASKS

    recipe = Recipe(family="vae", name="a", seed=0, steps=30, nan_batches=(10,), clip=0.5)
    (seat,) = train(recipe, TASKS["vae"]).values()
    assert [step for step, norm in enumerate(seat.norms) if not math.isfinite(norm)] == [10]
    assert seat.clipped > 20
    assert seat.norms[0] > 0.5

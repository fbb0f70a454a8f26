"""The detector tells one bad batch from an explosion, and a healthy run from both."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Iterable

import pytest

from hpckit.monitor import Detector, Incident
from hpckit.monitor.baseline import Baseline
from hpckit.monitor.onset import onset

Step = tuple[float | None, float | None]


def healthy(steps: int, *, seed: int = 0, level: float = 6.6, noise: float = 0.15) -> list[Step]:
    rng = random.Random(seed)
    return [(level * math.exp(rng.gauss(0, noise)), 2.0 + rng.gauss(0, 0.05)) for _ in range(steps)]


def live(
    steps: Iterable[Step], detector: Detector | None = None, *, start: int = 0, **known: float
) -> list[Incident]:
    """What a detector says of norms and losses."""
    detector = detector or Detector()
    found = []
    for step, (norm, loss) in enumerate(steps, start):
        incident = detector.observe(step=step, norm=norm, loss=loss, **known)
        if incident is not None:
            found.append(incident)
    return found


def kinds(incidents: list[Incident]) -> list[tuple[str, str]]:
    return [(each.kind, each.answer) for each in incidents]


def test_a_healthy_run_is_left_in_peace() -> None:
    assert live(healthy(5000)) == []


def test_a_single_outlier_is_skipped_and_nothing_more() -> None:
    steps = healthy(600)
    steps[400] = (6.6 * 40, 2.1)
    [incident] = live(steps)
    assert (incident.kind, incident.answer, incident.step) == ("bad_batch", "skip", 400)
    assert not incident.acts
    assert incident.usual == pytest.approx(6.6, rel=0.1)


def test_outliers_that_keep_coming_and_do_no_harm_are_let_through() -> None:
    steps = healthy(4000)
    for at in range(200, 4000, 100):
        steps[at] = (6.6 * 15, 2.0)
    assert len(live(steps)) == 2


def test_a_norm_and_a_loss_that_grow_together_are_an_explosion_with_an_older_onset() -> None:
    steps = healthy(500)
    steps += [(6.6 * 2.5**n, 2.0 + 0.05 * 2.5**n) for n in range(1, 12)]
    acts = [each for each in live(steps) if each.acts]
    assert [each.kind for each in acts] == ["explosion"]
    assert acts[0].step <= 507
    assert 480 <= (acts[0].onset or 0) <= 501


def test_its_sentence_has_the_number_the_ratio_and_the_beginning() -> None:
    steps = healthy(500, noise=0.01) + [(6.6 * 3**n, 2.0 + 3.0**n) for n in range(1, 9)]
    incident = next(each for each in live(steps) if each.acts)
    text = str(incident)
    assert text.startswith(f"step {incident.step}: gradient norm ")
    assert "times its usual 6.6" in text
    assert f"growing since step {incident.onset}" in text


def test_corrupted_weights_that_jump_a_thousandfold_are_acted_on_in_two_steps() -> None:
    steps = [*healthy(500), (66000.0, 40.0), (80000.0, 50.0), (70000.0, 45.0)]
    acts = [each for each in live(steps) if each.acts]
    assert [each.step for each in acts] == [501]


def test_a_norm_that_jumps_to_a_new_level_is_told_and_let_through() -> None:
    detector = Detector()
    incidents = live(healthy(500) + healthy(500, level=200.0, seed=1), detector)
    assert {each.answer for each in incidents} == {"skip", "tell"}
    assert sum(each.answer == "skip" for each in incidents) == 7
    [told] = [each for each in incidents if each.answer == "tell"]
    assert told.kind == "drift"
    assert "new level" in told.said
    assert detector.limit > 1000


def test_a_burst_that_comes_back_is_no_new_level() -> None:
    burst = healthy(12, level=400.0, seed=2)
    steps = healthy(400) + burst + healthy(100) + burst + healthy(100)
    acts = [each for each in live(steps) if each.acts]
    assert [each.kind for each in acts] == ["explosion"]
    assert 512 <= acts[0].step < 524


def test_a_steady_ramp_is_acted_on_though_it_never_jumps() -> None:
    rng = random.Random(3)
    ramp = [(6.6 * math.exp(0.028 * n + rng.gauss(0, 0.15)), 2.0) for n in range(300)]
    acts = [each for each in live(healthy(400) + ramp) if each.acts]
    assert acts
    assert acts[0].step < 400 + 247  # 1,000 times the usual


def test_a_norm_that_grows_while_the_loss_gets_better_grows_in_health() -> None:
    rng = random.Random(4)
    steps = healthy(300) + [
        (6.6 * math.exp(0.0035 * n + rng.gauss(0, 0.15)), 2.0 - 0.001 * n + rng.gauss(0, 0.02))
        for n in range(2000)
    ]
    incidents = live(steps)
    assert {each.answer for each in incidents} == {"tell"}
    assert {each.kind for each in incidents} == {"drift"}


def test_drift_is_told_once_for_each_time_it_grows_fourfold() -> None:
    steps = [(6.6 * math.exp(0.001 * n), 2.0) for n in range(5000)]
    told = [each for each in live(steps) if each.kind == "drift"]
    assert len(told) == 3
    assert "drifted from" in told[0].said


# Non-finite values


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_non_finite_step_is_skipped(value: float) -> None:
    steps = healthy(500)
    steps[300] = (math.nan, value)
    assert kinds(live(steps)) == [("non_finite", "skip")]


def test_a_loss_that_is_nan_twice_running_is_acted_on() -> None:
    steps = [*healthy(500), (math.nan, math.nan), (math.nan, math.nan)]
    assert kinds(live(steps)) == [("non_finite", "skip"), ("non_finite", "act")]


def test_norms_that_are_non_finite_three_times_running_are_acted_on() -> None:
    steps = [*healthy(500), *[(math.inf, 2.0)] * 3]
    assert [each.answer for each in live(steps)] == ["skip", "skip", "act"]


def test_a_non_finite_step_after_a_growth_is_acted_on_at_once() -> None:
    steps = [
        *healthy(500),
        (20.0, 2.2),
        (60.0, 3.0),
        (50.0, 4.0),
        (30.0, 5.0),
        (math.nan, math.nan),
    ]
    acts = [each for each in live(steps) if each.acts]
    assert acts[-1].step == 504
    assert (acts[-1].onset or 0) <= 500


def test_a_run_that_dies_in_its_first_steps_is_acted_on() -> None:
    assert kinds(live([(1580.0, 4.5), (math.nan, math.inf)])) == [("non_finite", "act")]


@pytest.mark.parametrize("at", [20, 60, 63])
def test_one_nan_batch_before_anything_is_usual_is_skipped_like_any_other(at: int) -> None:
    steps = healthy(300)
    steps[at] = (math.nan, math.nan)
    assert kinds(live(steps)) == [("non_finite", "skip")]


def test_one_nan_batch_after_a_new_level_is_skipped_like_any_other() -> None:
    steps = healthy(500) + healthy(300, level=200.0, seed=1)
    steps[540] = (math.nan, math.nan)
    assert not [each for each in live(steps) if each.acts]


def test_a_young_run_that_grows_before_it_breaks_is_acted_on() -> None:
    steps = [*healthy(20), (80.0, 9.0), (900.0, 80.0), (math.nan, math.nan)]
    assert [each.step for each in live(steps) if each.acts] == [22]


def test_data_of_which_a_part_is_nan_is_skipped_and_no_reason_to_go_back() -> None:
    rng = random.Random(10)
    steps = [(math.nan, math.nan) if rng.random() < 0.05 else step for step in healthy(10_000)]
    incidents = live(steps)
    assert {each.answer for each in incidents} == {"skip"}
    assert len(incidents) > 400


def test_data_that_is_nan_from_now_on_is_acted_on() -> None:
    assert [each for each in live([*healthy(500), *[(math.nan, math.nan)] * 5]) if each.acts]


def test_an_act_that_nobody_heeded_is_asked_for_again_after_a_hundred_steps() -> None:
    acts = [each for each in live([*healthy(500), *[(math.inf, 2.0)] * 210]) if each.acts]
    assert [each.step for each in acts] == [502, 602, 702]


def test_a_run_of_which_most_steps_are_broken_is_acted_on_though_never_three_running() -> None:
    steps = [*healthy(500), *[(math.inf, 2.0), (math.inf, 2.0), (6.6, 2.0)] * 12]
    acts = [each for each in live(steps) if each.acts]
    assert kinds(acts) == [("non_finite", "act")]


def test_gradients_that_died_before_the_numbers_did_are_acted_on_at_once() -> None:
    steps = [*healthy(500), *[(0.01, 2.0)] * 5, (math.nan, math.nan)]
    assert [each.step for each in live(steps) if each.acts] == [505]


def test_a_bad_batch_while_the_norm_grows_and_the_loss_gets_better_is_one_bad_batch() -> None:
    better = [(6.6 * 4, 2.0 - 0.02 * n) for n in range(12)]
    steps = [*healthy(500), *better, (math.nan, math.nan)]
    assert [each.answer for each in live(steps) if each.step == 512] == ["skip"]


def test_a_gradient_that_is_zero_now_and_then_is_no_dead_network() -> None:
    rng = random.Random(11)
    learning = [(1.0, 3.8 * math.exp(-n / 80) + 0.2 + rng.gauss(0, 0.02)) for n in range(600)]
    assert not [each for each in live(learning + [(0.0, 3.87), (1.0, 3.87)] * 20) if each.acts]


def test_a_network_that_died_is_acted_on_though_its_gradient_is_zero() -> None:
    rng = random.Random(11)
    learning = [(1.0, 3.8 * math.exp(-n / 80) + 0.2 + rng.gauss(0, 0.02)) for n in range(600)]
    dead = [(0.0, 3.87)] * 100
    acts = [each for each in live(learning + dead) if each.acts]
    assert kinds(acts) == [("loss_lost", "act")]


def test_a_critics_score_that_wanders_is_not_lost() -> None:
    rng = random.Random(12)
    steps = [(3.0, 3 * math.sin(n / 200) - 1.0 + rng.gauss(0, 0.05)) for n in range(4000)]
    assert not [each for each in live(steps) if each.acts]


def test_a_log_whose_steps_begin_again_is_judged_anew() -> None:
    detector = Detector()
    live([*healthy(500), *[(math.nan, math.nan)] * 3], detector, start=1000)
    again = live([*healthy(100), *[(math.nan, math.nan)] * 60], detector, start=1000)
    assert [each for each in again if each.acts]


@pytest.mark.parametrize("settings", [{"window": 0}, {"warm": 0}, {"window": 8}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="baseline"):
        Detector(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("warm", [1, 16, 18])
def test_a_short_warm_up_works(warm: int) -> None:
    live(healthy(200), Detector(warm=warm))


def test_a_nan_never_enters_the_statistics() -> None:
    clean, dirty = Detector(), Detector()
    live(healthy(400), clean)
    for step, (norm, loss) in enumerate(healthy(400)):
        dirty.observe(step=step, norm=math.nan, loss=math.nan)
        dirty.observe(step=step, norm=norm, loss=loss)
    assert dirty.limit == clean.limit


def test_a_gated_step_never_enters_the_statistics() -> None:
    clean, dirty = Detector(), Detector()
    live(healthy(400), clean)
    for step, (norm, loss) in enumerate(healthy(400)):
        dirty.observe(step=step, norm=norm, loss=loss, gated=False)
        dirty.observe(step=step, norm=norm * 3, loss=loss, gated=True)
    assert dirty.limit == clean.limit


def test_a_float16_scale_that_is_found_at_the_start_is_no_incident() -> None:
    detector = Detector()
    scale = 65536.0
    for step in range(10):
        assert detector.observe(step=step, norm=math.inf, loss=2.0, scale=scale) is None
        scale /= 2
    assert live(healthy(300), detector, start=10, scale=scale) == []
    # And every 2,000 steps it is tried whether a larger one would do.
    assert detector.observe(step=310, norm=math.inf, loss=2.0, scale=scale * 2) is None


def test_a_float16_scale_at_its_floor_is_an_incident() -> None:
    detector = Detector()
    live(healthy(300), detector, scale=2.0)
    for step in range(2):
        detector.observe(step=300 + step, norm=math.inf, loss=2.0, scale=0.5)
    incident = detector.observe(step=302, norm=math.inf, loss=2.0, scale=0.25)
    assert incident is not None
    assert incident.acts


def test_a_float16_run_that_never_finds_a_scale_is_acted_on() -> None:
    acts = [each for each in live([(math.inf, 2.0)] * 30) if each.acts]
    assert [each.step for each in acts] == [23]


def test_a_float16_run_that_overflows_eight_times_running_is_acted_on() -> None:
    detector = Detector()
    live(healthy(300), detector, scale=1024.0)
    found = live([(math.inf, 2.0)] * 10, detector, start=300, scale=1024.0)
    assert [(each.step, each.answer) for each in found] == [(307, "act")]


def test_a_float16_overflow_after_large_norms_is_calibration_while_the_loss_is_well() -> None:
    detector = Detector()
    live([*healthy(300), *[(30.0, 2.0)] * 4], detector, scale=1024.0)
    assert live([(math.inf, 2.0)], detector, start=304, scale=1024.0) == []
    assert live([(math.inf, 3.0)], detector, start=305, scale=1024.0)[0].acts


def test_a_float16_run_whose_loss_is_lost_is_no_calibration() -> None:
    detector = Detector()
    live(healthy(300), detector, scale=1024.0)
    incident = detector.observe(step=300, norm=math.nan, loss=97_242.0, scale=1024.0)
    assert incident is not None
    assert incident.acts


# Loss and clip


def test_a_loss_that_is_gone_while_the_norm_is_finite_is_acted_on_once() -> None:
    rng = random.Random(5)
    learning = [(1.0, 2.2 * math.exp(-n / 100) + 0.1 + rng.gauss(0, 0.02)) for n in range(800)]
    lost = [(1.2, 400.0 + rng.gauss(0, 5)) for _ in range(300)]
    acts = [each for each in live(learning + lost) if each.acts]
    assert kinds(acts) == [("loss_lost", "act")]
    assert (acts[0].onset or 0) <= 800
    assert "while the gradient norm is finite" in str(acts[0])


def test_a_harder_curriculum_raises_the_loss_and_is_no_disaster() -> None:
    rng = random.Random(6)

    def learn(start: float, steps: int) -> list[Step]:
        return [(1.0, start * math.exp(-n / 150) + 0.3 + rng.gauss(0, 0.02)) for n in range(steps)]

    assert not [each for each in live(learn(2.0, 800) + learn(1.2, 800)) if each.acts]


def test_clipping_at_nearly_every_step_is_told_once() -> None:
    incidents = live(healthy(2000), Detector(clip=1.0))
    assert kinds(incidents) == [("clip_saturation", "tell")]


def test_under_a_saturated_clip_a_loss_that_is_half_lost_is_enough_to_act() -> None:
    rng = random.Random(7)
    learning = [(9.0, 2.2 * math.exp(-n / 100) + 0.1 + rng.gauss(0, 0.02)) for n in range(800)]
    worse = [(9.0, 1.6 + rng.gauss(0, 0.02)) for _ in range(200)]
    assert [each.kind for each in live(learning + worse, Detector(clip=1.0)) if each.acts]
    assert not [each.kind for each in live(learning + worse) if each.acts]


def test_a_log_that_has_losses_alone_is_watched_too() -> None:
    steps: list[Step] = [(None, loss) for _, loss in healthy(500)]
    assert live(steps) == []
    incidents = live([*steps, (None, math.nan), (None, math.nan)])
    assert kinds(incidents)[-1] == ("non_finite", "act")


def test_a_norm_of_zero_is_no_news() -> None:
    detector = Detector()
    live(healthy(300), detector)
    limit = detector.limit
    assert live([(0.0, 2.0)] * 100, detector, start=300) == []
    assert detector.limit == limit


# State


def test_a_resumed_detector_says_what_one_that_never_stopped_says() -> None:
    steps = healthy(700) + [(6.6 * 2.5**n, 2.0 + 0.05 * 2.5**n) for n in range(1, 12)]
    steps[300], steps[600] = (300.0, 2.0), (math.nan, math.nan)
    whole = live(steps, Detector(clip=1.0))
    for cut in (10, 63, 64, 299, 301, 601, 703, 705):
        first = Detector(clip=1.0)
        before = live(steps[:cut], first)
        # Through JSON: a checkpoint holds nothing but plain values.
        state = json.loads(json.dumps(first.state_dict()))
        second = Detector(clip=1.0)
        second.load_state_dict(state)
        assert second.state_dict() == first.state_dict()
        assert before + live(steps[cut:], second, start=cut) == whole


def test_after_a_rollback_it_knows_what_is_usual_and_forgets_the_rest() -> None:
    detector = Detector()
    live(healthy(500) + [(6.6 * 3**n, 2.0 + 3.0**n) for n in range(1, 9)], detector)
    detector.went_back(450)
    assert live(healthy(500, seed=9), detector, start=450) == []
    assert detector.limit < 100


def test_what_came_after_the_state_that_is_gone_back_to_is_not_usual() -> None:
    detector, other = Detector(), Detector()
    live(healthy(600), other)
    # Slow enough to be learned on the way: ten times as high, and the gate follows.
    grown = [(6.6 * 1.016**n, 2.0 * 1.01**n) for n in range(150)]
    live([*healthy(600), *grown], detector)
    assert detector.limit > 1.5 * other.limit
    detector.went_back(600)
    assert detector.limit == pytest.approx(other.limit, rel=0.05)
    assert detector.loss.usual.level == pytest.approx(other.loss.usual.level, rel=0.01)
    assert live(healthy(300, seed=4), detector, start=600) == []


def test_a_young_detector_keeps_what_little_it_knows() -> None:
    detector = Detector()
    live(healthy(100), detector)
    limit = detector.limit
    detector.went_back(20)
    assert detector.limit == limit < math.inf


def test_what_was_acted_on_before_a_rollback_is_acted_on_after_it() -> None:
    detector = Detector()
    growth = [(6.6 * 3**n, 2.0 + 3.0**n) for n in range(1, 9)]
    assert [each.acts for each in live(healthy(500) + growth, detector)].count(True) == 1
    detector.went_back(480)
    again = live(healthy(20, seed=3) + growth, detector, start=480)
    assert [each.acts for each in again].count(True) == 1


def test_after_a_rollback_the_first_broken_step_is_one_bad_batch_again() -> None:
    detector = Detector()
    growth = [(6.6 * 3**n, 2.0 + 3.0**n) for n in range(1, 9)]
    live([*healthy(500), *growth, *[(math.nan, math.nan)] * 20], detector)
    detector.went_back(480)
    assert kinds(live([(math.nan, math.nan)], detector, start=480)) == [("non_finite", "skip")]


def test_after_a_rollback_the_patience_with_a_gate_that_is_shut_begins_anew() -> None:
    detector = Detector()
    shut = healthy(5, level=200.0, seed=1)
    live(healthy(500) + shut, detector)
    detector.went_back(480)
    assert {each.answer for each in live(shut, detector, start=480)} == {"skip"}


def test_a_loss_that_is_lost_again_after_a_rollback_is_acted_on_again() -> None:
    rng = random.Random(5)
    learning = [(1.0, 2.2 * math.exp(-n / 100) + 0.1 + rng.gauss(0, 0.02)) for n in range(800)]
    lost = [(1.2, 400.0)] * 100
    detector = Detector()
    assert kinds(live(learning + lost, detector)) == [("loss_lost", "act")]
    detector.went_back(790)
    assert kinds(live(lost, detector, start=790)) == [("loss_lost", "act")]


def test_settings_are_named() -> None:
    wide, narrow = Detector(times=20.0), Detector(times=10.0)
    live(healthy(300), wide)
    live(healthy(300), narrow)
    assert wide.limit == pytest.approx(2 * narrow.limit)
    with pytest.raises(TypeError):
        Detector(1.0)  # type: ignore[misc]


def test_a_gate_that_flaps_in_a_young_run_is_one_that_stays_shut() -> None:
    incidents = live(healthy(100) + [(66.0, 2.0), (40.0, 2.0)] * 10)
    assert kinds(incidents)[:8] == [*[("bad_batch", "skip")] * 7, ("drift", "tell")]


def test_soon_after_a_new_level_a_single_absurd_step_is_enough_to_act() -> None:
    steps: list[Step] = [(norm, None) for norm, _ in healthy(500) + healthy(100, level=200.0)]
    incidents = live([*steps, (400_000.0, None)])
    assert [(each.kind, each.step) for each in incidents if each.acts] == [("explosion", 600)]


def test_levels_that_each_lasted_long_are_no_explosion_together() -> None:
    steps = healthy(500) + healthy(700, level=200.0, seed=1) + healthy(100, level=10_000.0, seed=2)
    assert not [each for each in live(steps) if each.acts]


def test_outliers_of_long_ago_widen_the_gate_no_more() -> None:
    steps = healthy(14_000)
    steps[300] = steps[500] = (6.6 * 40, 2.0)
    detector = Detector()
    live(steps[:2000], detector)
    wide = detector.limit
    live(steps[2000:], detector, start=2000)
    assert detector.limit < 0.5 * wide


def test_the_loss_of_a_step_that_is_held_back_never_becomes_usual() -> None:
    clean, dirty = Detector(), Detector()
    live(healthy(100), clean)
    live(healthy(100), dirty)
    for step, (norm, loss) in enumerate(healthy(300, seed=1), 100):
        clean.observe(step=step, norm=norm, loss=loss, gated=False)
        dirty.observe(step=step, norm=norm, loss=loss, gated=False)
        dirty.observe(step=step, norm=norm * 30, loss=2.2, gated=True)
    assert dirty.loss.usual.level == clean.loss.usual.level


def test_a_loss_that_comes_back_is_not_lost() -> None:
    rng = random.Random(7)
    learning = [(9.0, 2.2 * math.exp(-n / 100) + 0.1 + rng.gauss(0, 0.02)) for n in range(800)]
    falling = [(9.0, 2.2 - 0.005 * n + rng.gauss(0, 0.02)) for n in range(200)]
    assert not [each for each in live(learning + falling, Detector(clip=1.0)) if each.acts]


def test_a_loss_near_zero_that_spikes_far_below_what_was_learned_is_no_worse() -> None:
    steps = [(6.6, 2.0 * math.exp(-n / 20) + 1e-6) for n in range(600)]
    steps += [(6.6, 1e-3)] * 5 + [(math.nan, math.nan)]
    assert [each.answer for each in live(steps) if each.step == 605] == ["skip"]


def test_where_the_loss_rose_before_the_norm_the_loss_tells_the_beginning() -> None:
    steps = healthy(500) + [(6.6, 2.0 + 0.1 * n) for n in range(1, 40)]
    steps += [(6.6 * 2000, 30.0)] * 2
    (incident,) = [each for each in live(steps) if each.acts]
    assert 480 <= (incident.onset or 0) <= 501


def test_a_loss_that_has_long_settled_at_a_new_level_is_usual_there() -> None:
    detector = Detector()
    steps = [*healthy(500), *[(norm, loss + 8.0) for norm, loss in healthy(800, seed=1)]]
    live(steps, detector)
    assert detector.loss.usual.level == pytest.approx(10.0, rel=0.05)


def test_what_was_saved_some_steps_before_a_growth_shows_is_damaged_too() -> None:
    flat, growth = [1.0] * 64, [1.0 + 0.5 * n for n in range(1, 33)]
    assert onset(list(range(100, 196)), flat + growth, 195, usual=1.1) == 148


def test_the_baseline_is_not_widened_by_a_ramp() -> None:
    rng = random.Random(8)
    steady, ramp = Baseline(), Baseline()
    for n in range(400):
        noise = rng.gauss(0, 0.2)
        steady.add(noise)
        ramp.add(noise + 0.02 * n)
    assert ramp.spread == pytest.approx(steady.spread, rel=0.2)


def test_it_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, hpckit; hpckit.monitor.Detector().observe(step=0, norm=1.0);"
        "assert not {'torch', 'numpy', 'yaml'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_million_steps_do_not_take_a_coffee_break() -> None:
    # No figure is held here (benchmarks/ measures): only that nothing grows with the run.
    detector = Detector(clip=1.0)
    steps = healthy(3000)
    live(steps, detector)
    first = time.process_time()
    live(steps, detector, start=3000)
    once = time.process_time() - first
    for lap in range(5):
        live(steps, detector, start=6000 + 3000 * lap)
    again = time.process_time()
    live(steps, detector, start=21_000)
    assert time.process_time() - again < 3 * once
    assert len(json.dumps(detector.state_dict())) < 100_000

"""How fast a training goes, by the times of its readings."""

from __future__ import annotations

import pytest

from hpckit.status.pace import Pace


def paced(*rows):
    pace = Pace()
    for step, time in rows:
        pace.add(step, time)
    return pace


def steady(count, each_s=0.5, step=0, time=100.0):
    return [(step + i, time + i * each_s) for i in range(count)]


def test_a_steady_training_takes_as_long_as_it_took():
    pace = paced(*steady(50))
    assert pace.rate == pytest.approx(2.0)
    assert pace.left_s(100) == pytest.approx(50.0)


@pytest.mark.parametrize("rows", [[], [(5, 100.0)], [(5, None), (6, None)], [(5, 1.0), (6, 2.0)]])
def test_of_too_little_nothing_is_said(rows):
    pace = paced(*rows)
    assert pace.rate is None
    assert pace.left_s(10) is None


def test_a_pause_that_came_once_does_not_count():
    late = [(step, time + 600) for step, time in steady(50, step=3, time=101.5)]
    pace = paced(*steady(3), *late)
    assert pace.rate == pytest.approx(2.0)
    assert pace.left_s(100) == pytest.approx(50.0)


def test_a_pause_that_comes_again_and_again_counts_for_what_is_left():
    """Ten steps of half a second, then a validation of ten seconds."""
    rows, time = [], 0.0
    for step in range(400):
        time += 10.5 if step and step % 10 == 0 else 0.5
        rows.append((step, time))
    assert paced(*rows).left_s(100) == pytest.approx(150.0, rel=0.05)


def test_the_rate_is_of_now():
    slow = steady(300, each_s=2.0)
    fast = steady(200, each_s=0.1, step=300, time=slow[-1][1] + 2.0)
    assert paced(*slow, *fast).rate == pytest.approx(10.0)


def test_going_back_is_no_step_and_takes_no_time():
    rows = [*steady(50), *steady(50, step=20, time=400.0)]
    pace = paced(*rows)
    assert pace.rate == pytest.approx(2.0)
    assert pace.left_s(100) == pytest.approx(50.0)


def test_a_clock_that_was_set_back_does_no_harm():
    assert paced(*steady(50), *steady(50, step=50, time=10.0)).rate == pytest.approx(2.0)


def test_rows_that_were_thinned_count_for_all_their_steps():
    thinned = [(step, time) for step, time in steady(640) if step % 64 == 0]
    pace = paced(*thinned, *steady(50, step=640, time=420.0))
    assert pace.rate == pytest.approx(2.0)
    assert pace.left_s(100) == pytest.approx(50.0)


def test_many_steps_within_a_millisecond_have_a_rate():
    rows = [(step, 100 + round(step / 4000, 3)) for step in range(1000)]
    assert paced(*rows).rate == pytest.approx(4000, rel=0.1)


def test_another_process_begins_anew():
    pace = paced(*steady(50))
    pace.cut()
    assert pace.rate is None
    for row in steady(50, each_s=0.25, step=50, time=9000.0):
        pace.add(*row)
    assert pace.rate == pytest.approx(4.0)

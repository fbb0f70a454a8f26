"""A curve in one line of text, or in some."""

from __future__ import annotations

import math

import pytest

from hpckit.sparkline import BARS, MARK, PLAIN_BARS, chart, sparkline


def test_the_scale_is_logarithmic_over_what_there_is():
    assert sparkline([1, 10, 100, 1000], 10) == "▁▃▆█"
    assert sparkline([1, 10, 100, 1000], 10, is_plain=True) == "_-+#"


def test_what_hardly_differs_is_flat_enough_to_be_no_explosion():
    assert set(sparkline([1.0, 1.1, 1.2, 1.05], 10)) <= set(BARS[:3])


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([7.0], "▁"),
        ([5.0, 5.0, 5.0], "▁▁▁"),
        ([0.0, 1.0], "▁█"),
        ([-3.0, 1.0], "▁█"),
        ([math.nan], MARK),
        ([1.0, math.nan, math.inf, -math.inf, 1000.0], "▁!!!█"),
    ],
)
def test_whatever_comes_is_drawn(values, line):
    assert sparkline(values, 10) == line


def test_what_was_wrong_is_marked_and_counts_for_the_scale():
    values = [1.0, 1.0, 1000.0, 1.0]
    assert sparkline(values, 10, marked=[False, False, True, False]) == "▁▁!▁"
    assert sparkline([1.0, 1.5, 1000.0], 10, marked=[False, False, True]) == "▁▁!"


def test_of_several_in_a_column_the_largest_or_a_mark_is_seen():
    assert sparkline([1, 1, 1, 1000, 1, 1], 3) == "▁█▁"
    assert sparkline([1] * 6, 3, marked=[False] * 5 + [True]) == "▁▁!"


@pytest.mark.parametrize("width", [1, 7, 39, 80])
@pytest.mark.parametrize("count", [1, 6, 79, 80, 81, 1000])
def test_it_is_never_wider_and_uses_half_the_width_at_least(width, count):
    length = len(sparkline([1.0] * count, width))
    assert min(count, width / 2) <= length <= min(count, width)


def test_what_is_drawn_stays_when_more_comes():
    values = [10.0**i for i in range(60)]
    before = sparkline([1e60, *values[:20]], 16)
    assert sparkline([1e60, *values[:22]], 16).startswith(before[:-1])


def test_plain_bars_are_as_many():
    assert len(PLAIN_BARS) == len(BARS)
    assert PLAIN_BARS.isascii()


def test_a_taller_chart_has_finer_bars_and_its_marks_on_top():
    assert chart([1, 10, 100, 1000], 10, rows=2) == ["  ▃█", "▁▆██"]
    assert chart([1, 10, 1000, 1], 10, rows=2, marked=[False, True, True]) == ["  !", "▁!█▁"]


def test_what_is_not_finite_is_taller_than_anything():
    assert chart([1, math.nan, 4], 10, rows=3) == [" !█", " ██", "▁██"]
    assert chart([], 10, rows=3) == ["", "", ""]

"""The points of a sweep."""

from __future__ import annotations

from typing import Any

import pytest

from hpckit import yamlio
from hpckit.errors import Problem
from hpckit.model.fields import build
from hpckit.spec import sweep
from hpckit.spec.sweep import Sweep, points


def values(**parts: Any) -> list[dict[str, Any]]:
    return [point.values for point in points(Sweep(**parts), {})]


def complaints(text: str, params: dict[str, Any] | None = None) -> list[str]:
    problems: list[Problem] = []
    node = yamlio.parse(text, "f")
    found = build(Sweep, node, problems, "sweep")
    assert found is not None
    sweep.check(found, params or {}, node, problems)
    return [f"{each.path}: {each.message}" for each in problems]


def test_a_grid_is_every_combination_and_the_last_key_is_fastest() -> None:
    assert values(grid={"b": (1, 2), "a": (3, 4)}) == [
        {"b": 1, "a": 3},
        {"b": 1, "a": 4},
        {"b": 2, "a": 3},
        {"b": 2, "a": 4},
    ]


def test_a_zip_goes_row_by_row() -> None:
    assert values(zip={"a": (1, 2), "b": (3, 4)}) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]


def test_seeds_are_counted_from_0_or_listed() -> None:
    assert values(seeds=2) == [{"seed": 0}, {"seed": 1}]
    assert values(seeds=(7, 3)) == [{"seed": 7}, {"seed": 3}]


def test_grid_zip_and_seeds_multiply_with_seeds_fastest() -> None:
    found = values(grid={"a": (1, 2)}, zip={"b": (3, 4)}, seeds=2)
    assert found[:3] == [
        {"a": 1, "b": 3, "seed": 0},
        {"a": 1, "b": 3, "seed": 1},
        {"a": 1, "b": 4, "seed": 0},
    ]
    assert len(found) == sweep.count(Sweep(grid={"a": (1, 2)}, zip={"b": (3, 4)}, seeds=2)) == 8


def test_points_are_numbered_and_carry_all_parameters() -> None:
    params = {"lr": 1.0, "loss": {"a": 1, "b": 2}}
    found = points(Sweep(grid={"loss.a": (5, 6), "new.x": (0,)}), params)
    assert [point.index for point in found] == [0, 1]
    assert found[1].params == {"lr": 1.0, "loss": {"a": 6, "b": 2}, "new": {"x": 0}}
    assert params == {"lr": 1.0, "loss": {"a": 1, "b": 2}}


def test_without_a_sweep_there_is_one_point() -> None:
    (only,) = points(None, {"lr": 1})
    assert (only.index, only.values, only.params) == (0, {}, {"lr": 1})


@pytest.mark.parametrize("text", ["{}", "{at_most: 3}", "{grid: {}}", "{seeds: null}"])
def test_a_sweep_that_varies_nothing_is_refused(text: str) -> None:
    assert complaints(text) == ["sweep: varies nothing: give grid, zip or seeds"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "zip: {a: [1, 2], b: [1]}",
            "sweep.zip: the lists must be of one length: a has 2, b has",
        ),
        ("grid: {a: [1, 2, 1.0]}", "sweep.grid.a[2]: repeats [0]"),
        ("grid: {a: [{x: 1, y: 2}, {y: 2, x: 1}]}", "sweep.grid.a[1]: repeats [0]"),
        ("zip: {a: [1, 1], b: [2, 2]}", "sweep.zip.a[1]: the row repeats row [0]"),
        ("seeds: [3, 3]", "sweep.seeds[1]: repeats [0]"),
        ("{seeds: 2, grid: {seed: [1]}}", "sweep.seeds: varies params.seed: 'seed' and 'seed'"),
        ("{grid: {a: [1]}, zip: {a.b: [1]}}", "sweep.zip.a.b: 'a.b' and 'a' vary"),
        ("grid: {lr.x: [1]}", "sweep.grid.lr.x: params.lr is 0.1, not a mapping"),
        (
            "grid: {params.lr: [1]}",
            "sweep.grid.params.lr: paths begin inside params already: write",
        ),
        ("grid: {resources.time: [1h]}", "sweep.grid.resources.time: a sweep varies params only"),
        ("{grid: {a: [1, 2]}, seeds: 100000}", "sweep: makes 200,000 runs, more than 100,000"),
    ],
)
def test_what_cannot_be_swept_is_told_with_its_place(text: str, told: str) -> None:
    (found,) = complaints(text, {"lr": 0.1})
    assert found.startswith(told)


def test_true_and_1_are_two_values_and_rows_may_share_one() -> None:
    assert complaints("{grid: {a: [1, true]}, zip: {b: [1, 1], c: [1, 2]}}") == []


def test_a_hundred_thousand_points_are_allowed() -> None:
    assert complaints("seeds: 100000") == []
    assert len(points(Sweep(seeds=100_000), {})) == 100_000

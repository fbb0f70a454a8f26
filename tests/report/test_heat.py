"""Which parameters are shown, and at which steps."""

from __future__ import annotations

import math
from pathlib import Path

from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.columns import read_columns
from hpckit.monitor.readings.writer import ReadingsWriter
from hpckit.report.heat import MOST_COLUMNS, MOST_ROWS, Heat, heats


def heat(folder: Path, rows: list[tuple[int, dict[str, float]]], blamed: set[str]) -> Heat:
    writer = ReadingsWriter(folder)
    for step, norms in rows:
        writer.write(Reading(step=step, values={}, parameters={"main": norms}))
    writer.close()
    (found,) = heats(read_columns([folder]), blamed)
    return found


def test_of_many_parameters_the_blamed_and_those_that_grew_stay_in_the_models_order(
    tmp_path: Path,
) -> None:
    names = [f"layer.{number}" for number in range(100)]
    quiet = dict.fromkeys(names, 1.0)
    grown = {name: 1.0 + (number % 2) * number for number, name in enumerate(names)}
    found = heat(tmp_path, [(0, quiet), (1, quiet), (2, grown)], {"layer.2"})
    assert len(found.names) == MOST_ROWS
    assert found.hidden == 100 - MOST_ROWS
    assert {"layer.2", "layer.99", "layer.51"} <= set(found.names)
    assert list(found.names) == sorted(found.names, key=names.index)


def test_of_many_steps_the_largest_of_each_stretch_stays(tmp_path: Path) -> None:
    rows = [(step, {"a": 5e6 if step == 1234 else 1.0}) for step in range(3000)]
    found = heat(tmp_path, rows, set())
    assert len(found.steps) <= MOST_COLUMNS
    assert found.norms.max() == 5e6


def test_a_branch_that_was_left_is_part_of_it(tmp_path: Path) -> None:
    rows = [(step, {"a": 1.0}) for step in (0, 10, 20)]
    rows += [(25, {"a": 9e5}), (10, {"a": 1.1}), (20, {"a": 1.0}), (30, {"a": 1.0})]
    found = heat(tmp_path, rows, {"a"})
    assert found.steps.tolist() == [0, 10, 20, 25, 30]
    assert found.norms[0].tolist() == [1.0, 1.1, 1.0, 9e5, 1.0]


def test_what_is_not_finite_is_the_largest_and_what_is_missing_is_nothing(tmp_path: Path) -> None:
    found = heat(tmp_path, [(0, {"a": math.nan}), (1, {"b": 1.0})], set())
    assert found.norms[0].tolist()[0] == math.inf
    assert math.isnan(found.norms[0][1])
    assert math.isnan(found.norms[1][0])

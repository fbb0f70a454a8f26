"""All branches of a run's readings, as columns."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.columns import read_columns
from hpckit.monitor.readings.reader import merged
from hpckit.monitor.readings.writer import ReadingsWriter


def write(folder: Path, *steps_of: range, **values: float) -> Path:
    writer = ReadingsWriter(folder)
    for number, steps in enumerate(steps_of):
        for step in steps:
            writer.write(Reading(step=step, values={"x": step + 1000 * number, **values}))
    writer.close()
    return folder


def test_what_counts_is_what_the_merged_reader_gives(tmp_path: Path) -> None:
    folders = [
        write(tmp_path / "1", range(0, 50), range(30, 45), range(20, 60)),
        write(tmp_path / "2", range(55, 70), range(10, 12), range(12, 80)),
    ]
    columns = read_columns(folders)
    steps, values = columns.counting("x")
    expected = [(each.step, each.values["x"]) for each in merged(folders)]
    assert list(zip(steps.tolist(), values.tolist(), strict=True)) == expected


def test_each_branch_that_was_left_hangs_on_the_last_reading_that_counts(tmp_path: Path) -> None:
    columns = read_columns([write(tmp_path, range(0, 50), range(30, 45), range(20, 60))])
    branches = [(x.tolist(), y.tolist()) for x, y in columns.left("x")]
    assert branches == [
        (list(range(19, 50)), [float(step) for step in range(19, 50)]),
        (list(range(30, 45)), [1000.0 + step for step in range(30, 45)]),
    ]


def test_a_reading_in_two_parts_is_one(tmp_path: Path) -> None:
    writer = ReadingsWriter(tmp_path)
    writer.write(Reading(step=3, values={"a": 1.0, "b": 1.0}))
    writer.write(Reading(step=3, values={"b": 2.0, "c": 3.0}))
    writer.close()
    columns = read_columns([tmp_path])
    assert columns.step.tolist() == [3]
    found = {name: columns.counting(name)[1].tolist() for name in columns.values}
    assert found == {"a": [1.0], "b": [2.0], "c": [3.0]}


def test_damaged_lines_and_half_of_the_last_one_cost_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, range(0, 10))
    path = tmp_path / "0-0.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[3] = b'{"step":3,"x":'
    lines[5] = b"\xff\x00 no line of ours"
    lines[6] = b'{"step":6,"x":{"deep":1}}'
    lines[7] = b'{"step":99999999999999999999999,"x":1}'
    path.write_bytes(b"\n".join(lines)[:-8])
    columns = read_columns([tmp_path])
    assert columns.counting("x")[0].tolist() == [0, 1, 2, 4, 8]


def test_what_is_not_finite_is_kept(tmp_path: Path) -> None:
    writer = ReadingsWriter(tmp_path)
    for step, value in enumerate((1.0, math.nan, math.inf, -math.inf, 2.0)):
        writer.write(Reading(step=step, values={"x": value, "y": 1.0}))
    writer.close()
    _, values = read_columns([tmp_path]).counting("x")
    np.testing.assert_array_equal(values, [1.0, math.nan, math.inf, -math.inf, 2.0])


def test_nothing_there_is_nothing(tmp_path: Path) -> None:
    columns = read_columns([tmp_path / "none"])
    assert len(columns.step) == len(columns.counts) == len(columns.trail) == 0

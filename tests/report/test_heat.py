"""Which layers are shown, by which names, and at which steps."""

from __future__ import annotations

import math
from pathlib import Path

from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.columns import read_columns
from hpckit.monitor.readings.writer import ReadingsWriter
from hpckit.report.heat import FEWEST_ROWS, MOST_COLUMNS, MOST_ROWS, Heat, heats


def heat(
    folder: Path,
    rows: list[tuple[int, dict[str, float]]],
    blamed: set[str],
    spans: tuple[tuple[int, int], ...] = (),
) -> Heat:
    writer = ReadingsWriter(folder)
    for step, norms in rows:
        writer.write(Reading(step=step, values={}, parameters={"main": norms}))
    writer.close()
    (found,) = heats(read_columns([folder]), blamed, spans)
    return found


def test_of_many_layers_the_blamed_and_those_that_grew_stay_in_the_models_order(
    tmp_path: Path,
) -> None:
    names = [f"layer.{number}.weight" for number in range(100)]
    quiet = dict.fromkeys(names, 1.0)
    grown = {name: 1.0 + (number % 2) * number for number, name in enumerate(names)}
    found = heat(tmp_path, [(0, quiet), (1, quiet), (2, grown)], {"layer.2.weight"})
    assert len(found.names) == MOST_ROWS
    assert found.hidden == 100 - MOST_ROWS
    assert {"layer.2.weight", "layer.99.weight", "layer.81.weight"} <= set(found.names)
    assert list(found.names) == sorted(found.names, key=names.index)


def test_a_layer_is_its_weight_and_its_bias_and_the_table_has_each(tmp_path: Path) -> None:
    norms = {"a.weight": 3.0, "a.bias": 4.0, "b.weight": 1.0, "b.bias": 1.0, "free": 2.0}
    found = heat(tmp_path, [(0, norms), (10, {**norms, "b.weight": 7.0})], {"b.weight"})
    # The blamed parameter stands by its own name.
    assert found.names == ("a", "b.weight", "free")
    assert found.blamed == (False, True, False)
    assert found.norms[0].tolist() == [5.0, 5.0]
    assert [each.name for each in found.parameters] == list(norms)
    b = found.parameters[2]
    assert (b.first, b.largest, b.at, b.last, b.is_blamed) == (1.0, 7.0, 10, 7.0, True)


def test_what_grew_before_an_explosion_is_shown_and_not_what_jumped_at_another_time(
    tmp_path: Path,
) -> None:
    names = [f"{number}.weight" for number in range(60)]
    rows = [(step, dict.fromkeys(names, 1.0)) for step in range(0, 400, 10)]
    # Half of them jump at a bad batch; two grow until something is done about it, at step 300.
    rows[5][1].update(dict.fromkeys(names[:30], 500.0))
    for step, norms in rows[20:31]:
        norms.update({"40.weight": 1.0 + step - 190, "50.weight": 1.0 + 2 * (step - 190)})
    found = heat(tmp_path, rows, {"50.weight"}, ((200, 300),))
    assert {"40.weight", "50.weight"} <= set(found.names)
    # The others are there for contrast.
    assert len(found.names) == FEWEST_ROWS


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

"""TensorBoard's own reader finds in the event files what was measured."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.chosen import DENSE, MOST_ODD, Chosen
from hpckit.monitor.readings.tensorboard import TensorBoardSink


def reading(step, norm=7.0, **more):
    more = {name.replace("__", "/"): value for name, value in more.items()}
    values = {"train/loss": step / 8, "grad/norm/generator": norm, **more}
    return Reading(step=step, time=1000.0 + step, values=values)


def draw(folder, *given):
    sink = TensorBoardSink(folder)
    for each in given:
        (sink.incident if isinstance(each, Incident) else sink.write)(each)
    sink.close()


def shown(folder):
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def curve(folder, tag="train/loss"):
    return [(each.step, each.value) for each in shown(folder).Scalars(tag)]


def drawn(steps, chosen=None):
    chosen = chosen or Chosen()
    return [each.step for one in steps for each in chosen.take(one)]


def test_each_value_is_a_curve_under_its_own_name(tmp_path):
    draw(tmp_path, reading(1), reading(2, lr__generator=2e-4))
    found = shown(tmp_path)
    assert found.Tags()["scalars"] == ["train/loss", "grad/norm/generator", "lr/generator"]
    assert curve(tmp_path) == [(1, 0.125), (2, 0.25)]
    assert [each.wall_time for each in found.Scalars("train/loss")] == [1001.0, 1002.0]


def test_values_that_are_not_finite_are_drawn_as_what_they_are(tmp_path):
    draw(tmp_path, reading(1, math.inf, train__loss=math.nan))
    assert curve(tmp_path, "grad/norm/generator") == [(1, math.inf)]
    assert math.isnan(curve(tmp_path)[0][1])


def test_after_a_rollback_there_is_one_curve(tmp_path):
    again = [reading(step, train__loss=9.0) for step in (3, 4)]
    draw(tmp_path, *(reading(step) for step in range(6)), *again)
    assert curve(tmp_path) == [(0, 0.0), (1, 0.125), (2, 0.25), (3, 9.0), (4, 9.0)]


def test_the_attempts_of_a_run_are_one_curve(tmp_path):
    draw(tmp_path, *(reading(step) for step in range(6)))
    # Of two files TensorBoard reads the later one last.
    for path in tmp_path.iterdir():
        os.rename(path, path.with_name("events.out.tfevents.1000000000.gpu03.1.0"))
    draw(tmp_path, reading(4, train__loss=9.0))
    assert curve(tmp_path)[-2:] == [(3, 0.375), (4, 9.0)]


def test_an_incident_is_a_text_that_a_rollback_does_not_drop(tmp_path):
    incident = Incident(kind="explosion", step=5, answer="act", said="gradient norm 4.1e6")
    draw(tmp_path, *(reading(step) for step in range(6)), incident, reading(2))
    (event,) = shown(tmp_path / "incidents").Tensors("explosion/step 5")
    assert event.step == 5
    assert event.tensor_proto.string_val == [b"step 5: gradient norm 4.1e6"]
    metadata = shown(tmp_path / "incidents").SummaryMetadata("explosion/step 5")
    assert metadata.plugin_data.plugin_name == "text"


def test_a_file_can_be_read_while_it_is_written(tmp_path):
    sink = TensorBoardSink(tmp_path)
    sink.write(reading(1))
    sink.flush()
    assert curve(tmp_path) == [(1, 0.125)]
    sink.write(reading(2))
    sink.close()
    assert len(curve(tmp_path)) == 2


def test_a_full_disk_costs_no_event(tmp_path, monkeypatch, capsys):
    sink = TensorBoardSink(tmp_path)
    sink.write(reading(1))
    sink.flush()
    true_write = os.write

    def full(descriptor, data):
        if len(data) > 5:
            return true_write(descriptor, data[:5])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        sink.write(reading(2))
        sink.flush()
    sink.write(reading(3))
    sink.close()
    assert [step for step, _ in curve(tmp_path)] == [1, 2, 3]
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_without_tensorboard_it_is_told_once_and_nothing_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    sink = TensorBoardSink(tmp_path)
    for step in range(3):
        sink.write(reading(step))
        sink.flush()
    sink.close()
    said = capsys.readouterr().err
    assert said.count("hpckit: TensorBoard: ModuleNotFoundError") == 1
    assert "the training goes on without it" in said


def test_importing_and_making_a_sink_costs_no_import_of_tensorboard_or_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from hpckit.monitor.readings.tensorboard import TensorBoardSink\n"
        "sink = TensorBoardSink(Path(sys.argv[1]))\n"
        "sink.flush()\n"
        "assert not {'torch', 'numpy', 'tensorboard'} & set(sys.modules)\n"
        "from hpckit.monitor.reading import Reading\n"
        "sink.write(Reading(step=1, values={'train/loss': 1.0})); sink.close()\n"
        "assert 'tensorboard' in sys.modules\n"
        "assert not {'torch', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_the_first_thousands_of_steps_are_all_drawn_and_later_ones_ever_more_thinly():
    assert drawn(reading(step) for step in range(2 * DENSE)) == list(range(2 * DENSE))
    late = [reading(step) for step in range(100 * DENSE, 100 * DENSE + 1000)]
    assert len(drawn(late)) == 10


def test_ordinary_steps_are_so_far_apart_as_was_asked():
    assert drawn((reading(step) for step in range(25)), Chosen(10)) == [0, 10, 20]


@pytest.mark.parametrize(
    "odd",
    [{"norm": 700.0}, {"norm": math.nan}, {"grad__gated__generator": 1.0}, {"val__pesq": 3.0}],
)
def test_a_step_out_of_the_ordinary_is_drawn_whenever_it_comes(odd):
    given = [reading(step, **(odd if step == 13 else {})) for step in range(31)]
    assert drawn(given, Chosen(10)) == [0, 10, 13, 20, 30]


def test_a_spike_of_a_small_optimizer_is_drawn_too():
    given = [reading(s, 100.0, grad__norm__critic=9.0 if s == 13 else 0.1) for s in range(21)]
    assert drawn(given, Chosen(10)) == [0, 10, 13, 20]


def test_an_endless_row_of_gated_steps_does_not_fill_the_disk():
    given = [reading(step, grad__gated__generator=1.0) for step in range(10_000)]
    assert len(drawn(given, Chosen(1000))) <= 10 * (1 + MOST_ODD)


def test_drawing_begins_anew_where_the_run_went_back():
    given = [*range(25), *range(7, 28)]
    assert drawn(map(reading, given), Chosen(10)) == [0, 10, 20, 7, 17, 27]


def test_a_write_costs_the_training_a_microsecond_or_two(tmp_path):
    sink = TensorBoardSink(tmp_path)
    given = [reading(step) for step in range(5000)]
    begin = time.perf_counter()
    for each in given:
        sink.write(each)
    assert (time.perf_counter() - begin) / len(given) < 10e-6
    sink.close()

"""Readings on disk: written beside the training, read back as one curve."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings import background
from hpckit.monitor.readings.appender import Appender
from hpckit.monitor.readings.reader import last_step, merged, read_incidents, read_readings
from hpckit.monitor.readings.writer import ReadingsWriter

EXPLOSION = Incident(
    kind="explosion", step=3, answer="act", said="norm inf", value=math.inf, onset=2
)


def reading(step, **values):
    values = {name.replace("__", "/"): value for name, value in values.items()}
    return Reading(step=step, values=values or {"train/loss": step / 10, "grad/norm/main": 7.0})


def write(folder, readings, **settings):
    writer = ReadingsWriter(folder, **settings)
    for each in readings:
        writer.write(each)
    writer.close()


def steps(*folders):
    return [each.step for each in merged(folders)]


def lines(folder):
    return [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


@pytest.fixture
def writer(tmp_path):
    made = ReadingsWriter(tmp_path / "readings")
    yield made
    made.close()


def test_what_is_written_is_read_back(tmp_path):
    given = Reading(
        step=12,
        time=1763712000.125,
        values={"train/loss": 2.345678912, "grad/norm/main": 1557911.0, "lr/main": 2e-4},
        parameters={"main": {'a."b".weight': 1.5, "ü": math.inf}},
    )
    write(tmp_path, [given])
    (found,) = read_readings(tmp_path)
    assert found.values == {"train/loss": 2.345679, "grad/norm/main": 1557911.0, "lr/main": 2e-4}
    assert (found.step, found.time) == (12, 1763712000.125)
    assert found.parameters == given.parameters


def test_a_line_is_flat_json_that_any_tool_reads(tmp_path):
    values = {"train/loss": math.nan, "grad/norm/main": math.inf, "train/x": -math.inf, "n": 3}
    write(tmp_path, [Reading(step=1, values=values)])
    (line,) = (tmp_path / "0-0.jsonl").read_text().splitlines()

    def refuse(word):
        raise ValueError(word)

    assert json.loads(line, parse_constant=refuse) == {
        "step": 1,
        "train/loss": "nan",
        "grad/norm/main": "inf",
        "train/x": "-inf",
        "n": 3,
    }
    (found,) = read_readings(tmp_path)
    assert math.isnan(found.values["train/loss"])
    assert found.values["train/x"] == -math.inf


def test_a_value_that_bears_the_name_of_a_field_does_not_replace_it(tmp_path):
    write(tmp_path, [Reading(step=5, values={"step": 99.0, "time": 1.0})])
    (found,) = read_readings(tmp_path)
    assert (found.step, found.time) == (5, None)
    assert found.values == {"train/step": 99.0, "train/time": 1.0}


def test_parameters_may_be_called_what_they_like(tmp_path):
    norms = {"step": 1.0, 'a "quoted" %d': 2.0, "100%": math.nan}
    values = {"train/100%s": 3.0, 'train/"x"': 1e308, "train/y": 1e308}
    plain = {"train/100%s": 3.0, 'train/"x"': 2.0}
    readings = [
        Reading(step=5, values=values, parameters={"50%": norms}),
        Reading(step=6, values=plain),
    ]
    write(tmp_path, readings)
    found, last = read_readings(tmp_path)
    assert (found.values, last.values) == (values, plain)
    assert {name: str(norm) for name, norm in found.parameters["50%"].items()} == {
        "step": "1.0",
        'a "quoted" %d': "2.0",
        "100%": "nan",
    }


def test_a_write_costs_the_training_a_microsecond_or_two(writer):
    given = [reading(step) for step in range(10_000)]
    begin = time.perf_counter()
    for each in given:
        writer.write(each)
    assert (time.perf_counter() - begin) / len(given) < 5e-6


def test_after_a_flush_all_is_on_disk_and_an_incident_does_not_wait_a_second(writer):
    writer.write(reading(1))
    writer.flush()
    assert steps(writer.folder) == [1]
    writer.write(reading(2))
    begin = time.monotonic()
    writer.incident(EXPLOSION)
    while not read_incidents(writer.folder) and time.monotonic() < begin + 5:
        time.sleep(0.005)
    assert time.monotonic() - begin < 0.8 * background.EVERY_S
    assert read_incidents(writer.folder) == [EXPLOSION]
    assert steps(writer.folder) == [1, 2]


def test_the_interpreters_exit_writes_what_was_waiting(tmp_path):
    code = (
        "import sys; from pathlib import Path; from hpckit.monitor.reading import Reading\n"
        "from hpckit.monitor.readings.writer import ReadingsWriter\n"
        "writer = ReadingsWriter(Path(sys.argv[1]))\n"
        "for step in range(3000): writer.write(Reading(step=step, values={}))\n"
        "assert not {'torch', 'numpy', 'tensorboard'} & set(sys.modules)\n"
        "sys.exit(3)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 3
    assert steps(tmp_path) == list(range(3000))


def test_a_forked_child_does_not_write_what_waits_in_its_parent(writer):
    writer.write(reading(1))
    child = os.fork()
    if child == 0:
        writer.write(reading(2))
        writer.flush()
        writer.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    writer.write(reading(3))
    writer.flush()
    assert [line["step"] for line in lines(writer.folder)] == [1, 3]


def test_a_signals_handler_may_flush_in_the_middle_of_a_write(writer):
    seen = []

    def flush(*_):
        writer.flush()
        seen.append(1)

    before = signal.signal(signal.SIGUSR1, flush)
    try:
        for step in range(3):
            writer.write(reading(step))
            os.kill(os.getpid(), signal.SIGUSR1)
            writer.flush()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(seen) == 3
    assert steps(writer.folder) == [0, 1, 2]


def test_a_line_cut_in_half_is_passed_over_and_the_next_writer_begins_a_file_of_its_own(tmp_path):
    write(tmp_path, [reading(1), reading(23)])
    with open(tmp_path / "0-0.jsonl", "ab") as stream:
        # Taken for a whole one, it would be a rollback to step 2.
        stream.write(b'{"step":2,"tr')
    assert steps(tmp_path) == [1, 23]
    assert last_step(tmp_path) == 23
    write(tmp_path, [reading(24)])
    assert steps(tmp_path) == [1, 23, 24]
    assert (tmp_path / "0-1.jsonl").exists()


def test_damage_in_the_middle_costs_only_its_line(tmp_path):
    write(tmp_path, [reading(1), reading(2), reading(3)])
    path = tmp_path / "0-0.jsonl"
    rows = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([rows[0], b'{"step":2,"train/l\0\0\0', *rows[2:]]))
    assert steps(tmp_path) == [1, 3]


def test_after_a_rollback_the_later_rows_count_and_the_abandoned_branch_stays_out(tmp_path):
    first = [reading(step, train__loss=1.0) for step in range(10)]
    again = [reading(step, train__loss=2.0) for step in range(4, 7)]
    write(tmp_path, first + again)
    found = list(read_readings(tmp_path))
    assert [each.step for each in found] == [0, 1, 2, 3, 4, 5, 6]
    assert [each.values["train/loss"] for each in found] == [1.0] * 4 + [2.0] * 3
    assert last_step(tmp_path) == 6


def test_a_rollback_in_the_middle_of_reading_does_not_mix_the_branches(tmp_path):
    writer = ReadingsWriter(tmp_path, rows=8)
    for step in range(20):
        writer.write(reading(step))
    writer.flush()
    found = []
    for each in read_readings(tmp_path):
        if not found:
            for step in range(5, 8):
                writer.write(reading(step))
            writer.flush()
        found.append(each.step)
    writer.close()
    assert found == list(range(20))
    assert steps(tmp_path) == list(range(8))


@pytest.mark.parametrize("rows", [2, 3, 100])
def test_attempts_are_one_curve_whatever_was_begun_again(tmp_path, rows):
    one, two, three = (tmp_path / name for name in "123")
    write(one, [reading(step, train__loss=1) for step in range(10)], rows=rows)
    write(two, [reading(step, train__loss=2) for step in range(6, 12)], rows=rows)
    write(three, [reading(step, train__loss=3) for step in range(8, 10)], rows=rows)
    found = [(each.step, each.values["train/loss"]) for each in merged([one, two, three])]
    assert found == [*((s, 1) for s in range(6)), (6, 2), (7, 2), (8, 3), (9, 3)]


@pytest.mark.parametrize("rows", [1, 100])
def test_two_readings_of_one_step_are_one_reading(tmp_path, rows):
    given = [reading(1), reading(2), reading(2, val__pesq=3.0), reading(3)]
    write(tmp_path, given, rows=rows)
    found = {each.step: each.values for each in read_readings(tmp_path)}
    assert found[2] == {"train/loss": 0.2, "grad/norm/main": 7.0, "val/pesq": 3.0}
    assert list(found) == [1, 2, 3]


def test_a_folder_that_is_not_there_has_no_readings(tmp_path):
    assert steps(tmp_path / "none") == []
    assert last_step(tmp_path / "none") is None
    assert read_incidents(tmp_path / "none") == []


def test_the_last_step_is_found_behind_an_incident_and_a_line_of_a_megabyte(tmp_path):
    norms = {f"layer.{number}.weight": 1.0 for number in range(40_000)}
    writer = ReadingsWriter(tmp_path)
    writer.write(Reading(step=7, values={}, parameters={"main": norms}))
    writer.incident(EXPLOSION)
    writer.close()
    assert last_step(tmp_path) == 7


def test_a_full_disk_is_told_once_and_nothing_is_lost_when_it_has_room_again(
    writer, monkeypatch, capsys
):
    writer.write(reading(1))
    writer.flush()
    true_write = os.write

    def full(descriptor, data):
        if len(data) > 5:
            return true_write(descriptor, data[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for step in (2, 3):
        writer.write(reading(step))
        writer.flush()
    monkeypatch.undo()
    writer.write(reading(4))
    writer.flush()
    assert steps(writer.folder) == [1, 2, 3, 4]
    assert len(lines(writer.folder)) == 4
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "No space left on device; the training goes on" in said[0]
    assert "can be written again" in said[1]


def test_a_file_that_was_deleted_is_begun_again_and_stays_whole(tmp_path, monkeypatch):
    out = Appender(tmp_path / "a.jsonl")
    out.add(b"a" * 100 + b"\n")
    assert out.save()
    out.path.unlink()
    out.add(b"b\n")
    assert out.save()
    true_write = os.write

    def full(descriptor, data):
        if len(data) > 5:
            return true_write(descriptor, data[:5])
        raise OSError(28, "No space left on device")

    out.add(b"c" * 20 + b"\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert not out.save()
    assert out.save()
    assert out.path.read_bytes() == b"b\n" + b"c" * 20 + b"\n"


def test_a_flush_outlasts_a_power_cut_also_of_what_was_written_before(tmp_path, monkeypatch):
    synced = []
    true_fsync = os.fsync

    def fsync(descriptor):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        true_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    out = Appender(tmp_path / "a.jsonl")
    out.add(b"1\n")
    out.save()
    assert synced == []
    out.save(durable=True)
    out.save(durable=True)
    assert synced == ["a.jsonl", tmp_path.name]


def test_after_a_flush_and_after_an_incident_a_power_cut_takes_nothing(writer, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    writer.write(reading(1))
    writer.flush()
    assert synced
    synced.clear()
    writer.incident(EXPLOSION)
    begin = time.monotonic()
    while not synced and time.monotonic() < begin + 5:
        time.sleep(0.005)
    assert synced


def test_what_was_written_takes_no_room_from_what_waits(tmp_path, monkeypatch):
    monkeypatch.setattr("hpckit.monitor.readings.appender.MOST_BYTES", 10)
    out = Appender(tmp_path / "a.jsonl")
    for _ in range(5):
        out.add(b"1234\n")
        assert out.save()
    assert out.lost == 0
    assert out.path.read_bytes() == b"1234\n" * 5


def test_long_rows_fill_a_segment_before_it_has_all_its_rows(tmp_path):
    write(tmp_path, [reading(step) for step in range(40)], size=500)
    lengths = {len(path.read_bytes()) for path in tmp_path.glob("*.jsonl")}
    assert len(list(tmp_path.glob("*.jsonl"))) == 4
    assert max(lengths) < 600
    assert steps(tmp_path) == list(range(40))


def test_what_has_no_room_to_wait_in_is_counted(writer, monkeypatch, capsys):
    writer.write(reading(1))
    writer.flush()
    monkeypatch.setattr("hpckit.monitor.readings.appender.MOST_BYTES", 200)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for step in range(2, 102):
            writer.write(reading(step))
        writer.flush()
    writer.flush()
    kept = steps(writer.folder)
    assert 2 <= len(kept) < 10
    assert f"{101 - len(kept)} readings are lost" in capsys.readouterr().err


def test_a_folder_that_vanishes_is_made_again(writer, capsys):
    writer.write(reading(1))
    writer.flush()
    writer.folder.rename(writer.folder.with_name("elsewhere"))
    writer.write(reading(2))
    writer.flush()
    assert steps(writer.folder) == [2]


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    writer = ReadingsWriter(tmp_path / "file" / "readings")
    writer.write(reading(1))
    writer.flush()
    writer.write(reading(2))
    writer.close()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "Not a directory" in said[0]
    assert "2 readings did not reach" in said[1]


def test_what_is_no_number_is_told_once_and_the_rest_is_written(writer, capsys):
    for step, value in enumerate(["high", None, 1.0]):
        writer.write(reading(step, train__loss=value))
    writer.flush()
    assert steps(writer.folder) == [2]
    assert writer.lost == 2
    assert capsys.readouterr().err.count("a reading of step 0 is not numbers") == 1


def test_a_writer_that_is_killed_leaves_whole_lines(tmp_path):
    code = (
        "import sys; from pathlib import Path; from hpckit.monitor.reading import Reading\n"
        "from hpckit.monitor.readings.writer import ReadingsWriter\n"
        "writer = ReadingsWriter(Path(sys.argv[1]), rows=64, keep=2)\n"
        "step = 0\n"
        "while True:\n"
        "    for _ in range(200):\n"
        "        writer.write(Reading(step=step, values={'grad/norm/main': step % 7}))\n"
        "        step += 1\n"
        "    writer.flush(); print(step, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        written = [int(child.stdout.readline()) for _ in range(15)][-1]
        # Read while it writes and merges.
        seen = [steps(tmp_path) for _ in range(5)]
        child.kill()
    for found in [*seen, steps(tmp_path)]:
        assert found == sorted(set(found))
        assert found[-1] >= written - 1
        assert max(b - a for a, b in itertools.pairwise(found)) < written / 4
    write(tmp_path, [reading(10**6)])
    assert steps(tmp_path)[:-1] == found

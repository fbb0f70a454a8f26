"""Old rows are halved again and again, and a crash anywhere loses and doubles nothing."""

from __future__ import annotations

import itertools
import math
import os
import random
import shutil

import pytest

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings import reader, writer
from hpckit.monitor.readings.reader import last_step, read_incidents, read_readings
from hpckit.monitor.readings.rows import encode
from hpckit.monitor.readings.segments import Segment, counting, in_order, listed, to_merge
from hpckit.monitor.readings.thinning import thinned
from hpckit.monitor.readings.writer import ReadingsWriter, thin


def row(step, norm=1.0, **more):
    values = {"train/loss": 2.0, "grad/norm/main": norm, "grad/gated/main": 0.0}
    return Reading(
        step=step, values={**values, **{k.replace("__", "/"): v for k, v in more.items()}}
    )


def halved(readings, most_odd=100):
    return [
        reading.step
        for line in thinned([encode(each).rstrip() for each in readings], most_odd=most_odd)
        if (reading := reader.decode(line)) is not None
    ]


def test_of_four_rows_the_smallest_and_the_largest_norm_stay():
    # The first row stays in any case: whether the run went back there, its file does not know.
    norms = [5, *(3, 1, 2, 9), *(1, 8, 2, 7)]
    assert halved([row(step, norm) for step, norm in enumerate(norms)]) == [0, 2, 4, 5, 6]
    assert halved([row(step, 1.0) for step in range(9)]) == [0, 1, 2, 5, 6]


def test_without_norms_the_loss_decides():
    losses = [0, *(-3, 1, -9, 2)]
    given = [Reading(step=s, values={"train/loss": loss}) for s, loss in enumerate(losses)]
    assert halved(given) == [0, 3, 4]


def test_a_spike_of_a_small_optimizer_is_not_hidden_by_a_large_one():
    def both(step):
        small = 50.0 if step == 6 else 0.1
        large = {"grad/norm/generator": 100.0 + (step == 7), "grad/norm/critic": small}
        return Reading(step=step, values=large)

    assert 6 in halved([both(step) for step in range(40)])


@pytest.mark.parametrize(
    "odd", [{"grad__gated__main": 1.0}, {"train__mel": math.nan}, {"val__loss": 3.0}]
)
def test_rows_out_of_the_ordinary_stay(odd):
    given = [
        row(step, 1 + step % 5, **(odd if step in (17, 18, 19, 20) else {})) for step in range(64)
    ]
    assert {17, 18, 19, 20} <= set(halved(given))


def test_an_incident_stays_with_its_reading():
    incident = Incident(kind="drift", step=18, answer="tell", said="norm rises")
    given = [row(step, 5 if step == 18 else 1 + step % 2 * 8) for step in range(64)]
    assert 18 not in halved(given)
    kept = thinned(
        [encode(each).rstrip() for each in [*given[:19], incident, *given[19:]]], most_odd=9
    )
    at = kept.index(encode(incident).rstrip())
    assert reader.decode(kept[at - 1]).step == 18


def test_rows_out_of_the_ordinary_are_bounded_too():
    given = [row(step, math.nan, grad__gated__main=1.0) for step in range(1000)]
    assert 500 <= len(halved(given, most_odd=40)) <= 540


def test_a_segment_stands_for_those_below_it():
    assert (Segment(3, 5).begin, Segment(3, 5).end) == (40, 48)
    assert Segment(0, 7).above == Segment(1, 3)
    both = {Segment(1, 0), Segment(0, 0), Segment(0, 1), Segment(0, 2)}
    assert counting(both) == [Segment(1, 0), Segment(0, 2)]


def test_the_oldest_pair_of_the_lowest_level_merges_first():
    there = {Segment(1, 0), Segment(1, 1), *(Segment(0, n) for n in range(4, 7))}
    assert to_merge(there, keep=3) == []
    assert to_merge(there, keep=2) == [Segment(0, 4), Segment(0, 5)]
    assert to_merge(there, keep=1) == [Segment(0, 4), Segment(0, 5)]


def spiky(folder, count=20_000):
    spikes = set(random.Random(1).sample(range(count), 20))
    made = ReadingsWriter(folder, rows=128, keep=2)
    for step in range(count):
        made.write(row(step, 400.0 if step in spikes else 6 + step % 7 / 10))
        if step % 5000 == 0:
            made.flush()
    made.close()
    return spikes


def test_a_long_run_stays_small_and_shows_every_spike(tmp_path):
    spikes = spiky(tmp_path)
    found = list(read_readings(tmp_path))
    kept = [each.step for each in found]
    assert kept == sorted(set(kept))
    assert spikes <= set(kept)
    # 157 segments in levels of at most 3; and the newest 2 segments are whole.
    assert len(list(tmp_path.iterdir())) <= 20
    assert len(kept) < 3500
    assert kept[-256:] == list(range(20_000 - 256, 20_000))
    assert kept[0] == 0
    assert max(b - a for a, b in itertools.pairwise(kept)) < 1000
    assert last_step(tmp_path) == 19_999


def test_thinning_keeps_the_place_where_a_run_went_back(tmp_path):
    made = ReadingsWriter(tmp_path, rows=16, keep=2)
    for step in [*range(300), *range(100, 600)]:
        made.write(row(step, 1.0, train__branch=float(step >= 100)))
    made.close()
    found = [each.step for each in read_readings(tmp_path)]
    assert found == sorted(set(found))
    assert 100 in found


class Died(BaseException):
    pass


def test_a_crash_at_any_write_or_deletion_loses_and_doubles_nothing(tmp_path, monkeypatch):
    """Dies at each file operation of a merge in turn; what is read then is whole."""
    before = tmp_path / "before"
    made = ReadingsWriter(before, rows=32, keep=10**9)
    for step in range(32 * 7):
        made.write(row(step, step % 9))
    made.incident(Incident(kind="drift", step=5, answer="tell", said="norm rises"))
    made.close()
    after = tmp_path / "after"
    shutil.copytree(before, after)
    thin(after, rows=32, keep=2, below=Segment(0, 6))
    wanted = [each.step for each in read_readings(after)]
    assert len(wanted) < 32 * 6
    true = {name: getattr(os, name) for name in ("replace", "unlink", "fsync")}
    deaths = 0
    for fatal in range(100):
        folder = tmp_path / str(fatal)
        shutil.copytree(before, folder)
        calls = iter(range(1000))

        def dying(name, calls=calls, fatal=fatal):
            def call(*arguments, **settings):
                if next(calls) >= fatal:
                    raise Died
                return true[name](*arguments, **settings)

            return call

        with monkeypatch.context() as patch:
            for name in true:
                patch.setattr(os, name, dying(name))
            try:
                thin(folder, rows=32, keep=2, below=Segment(0, 6))
                died = False
            except Died:
                died = True
        deaths += died
        found = [each.step for each in read_readings(folder)]
        assert found == sorted(set(found))
        assert set(wanted) <= set(found)
        assert len(read_incidents(folder)) == 1
        made = ReadingsWriter(folder, rows=32, keep=2)
        made.write(row(32 * 7))
        made.close()
        assert not list(folder.glob(".*"))
        thin(folder, rows=32, keep=2, below=Segment(0, 6))
        assert [each.step for each in read_readings(folder)] == [*wanted, 32 * 7]
        assert listed(folder) == set(in_order(folder))
        if not died:
            break
    assert deaths > 5


def test_a_reader_goes_on_when_its_files_are_merged_under_it(tmp_path):
    made = ReadingsWriter(tmp_path, rows=50, keep=10**9)
    for step in range(400):
        made.write(row(step, step % 9))
    made.close()
    found = []
    for each in read_readings(tmp_path):
        found.append(each.step)
        if each.step == 120:
            thin(tmp_path, rows=50, keep=2, below=Segment(0, 7))
    assert found == sorted(set(found))
    assert found[:121] == list(range(121))
    assert found[-50:] == list(range(350, 400))


def test_a_reader_gives_up_when_a_file_is_listed_but_never_there(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "in_order", lambda folder: [Segment(0, 0)])
    with pytest.raises(FileNotFoundError):
        list(read_readings(tmp_path))


def test_a_full_disk_leaves_the_old_segments(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "write_atomic", full)
    made = ReadingsWriter(tmp_path, rows=8, keep=2)
    for step in range(80):
        made.write(row(step))
    made.close()
    assert [each.step for each in read_readings(tmp_path)] == list(range(80))

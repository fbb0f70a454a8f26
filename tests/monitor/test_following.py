"""Readings as they come, each read once."""

from __future__ import annotations

import os

import pytest

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.following import Following
from hpckit.monitor.readings.writer import ReadingsWriter


@pytest.fixture
def writer(tmp_path):
    made = ReadingsWriter(tmp_path, rows=10, keep=2)
    yield made
    made.close()


def write(writer, *steps):
    for step in steps:
        writer.write(Reading(step=step, values={"train/loss": step / 8}))
    writer.flush()


def more(following):
    return [each.step for each in following.more()]


def test_each_reading_comes_once_over_segments_and_merges(tmp_path, writer):
    following, seen = Following(tmp_path), []
    assert more(following) == []
    for begin in range(0, 200, 7):
        write(writer, *range(begin, begin + 7))
        seen += more(following)
    assert seen == list(range(203))
    assert more(following) == []
    # Else nothing was merged meanwhile.
    assert any(not name.startswith("0-") for name in os.listdir(tmp_path))


def test_half_a_line_is_waited_for(tmp_path):
    path = tmp_path / "0-0.jsonl"
    path.write_bytes(b'{"step":1,"train/loss":2}\n{"step":2,"train')
    following = Following(tmp_path)
    assert more(following) == [1]
    assert more(following) == []
    with open(path, "ab") as stream:
        stream.write(b'/loss":3}\n')
    assert more(following) == [2]


def test_what_a_dead_writer_left_half_is_passed_over(tmp_path):
    (tmp_path / "0-0.jsonl").write_bytes(b'{"step":1,"train/loss":2}\n{"step":2,"tr')
    following = Following(tmp_path)
    assert more(following) == [1]
    (tmp_path / "0-1.jsonl").write_bytes(b'{"step":2,"train/loss":2}\n')
    assert more(following) == [2]


def test_who_comes_late_reads_the_newest_and_then_what_comes(tmp_path, writer):
    write(writer, *range(95))
    following = Following(tmp_path, most_bytes=200)
    first = more(following)
    assert first == list(range(first[0], 95))
    assert 2 <= len(first) <= 9
    write(writer, 95)
    assert more(following) == [95]


def test_who_looks_too_seldom_to_read_all_reads_the_newest(tmp_path):
    writer = ReadingsWriter(tmp_path)
    following = Following(tmp_path, most_bytes=300)
    write(writer, 0)
    assert more(following) == [0]
    for begin in range(1, 1001, 100):
        write(writer, *range(begin, begin + 100))
        seen = more(following)
        assert seen == list(range(seen[0], begin + 100))
        assert 3 <= len(seen) <= 20
    writer.close()


def test_who_was_away_while_all_was_merged_goes_on_with_the_newest(tmp_path, writer):
    following = Following(tmp_path, most_bytes=300)
    write(writer, *range(5))
    assert more(following) == list(range(5))
    for begin in range(5, 405, 20):
        write(writer, *range(begin, begin + 20))
    assert not (tmp_path / "0-0.jsonl").exists()
    seen = [*more(following), *more(following)]
    assert seen == list(range(seen[0], 405))
    assert seen[0] > 380


def test_incidents_come_after_their_reading_and_what_makes_no_sense_not_at_all(tmp_path):
    writer = ReadingsWriter(tmp_path)
    write(writer, 1)
    writer.incident(Incident(kind="explosion", step=1, answer="act", said="it grew"))
    write(writer, 2)
    writer.close()
    with open(tmp_path / "0-0.jsonl", "ab") as stream:
        stream.write(b'\x00\xff\n[]\n{"step":"x"}\n{"step":3,"a":[]}\n{"incident":3}\n{"step":4}\n')
    found = Following(tmp_path).more()
    assert [(type(each), each.step) for each in found] == [
        (Reading, 1),
        (Incident, 1),
        (Reading, 2),
        (Reading, 4),
    ]


def test_there_may_be_no_folder_yet(tmp_path):
    following = Following(tmp_path / "none")
    assert following.more() == []

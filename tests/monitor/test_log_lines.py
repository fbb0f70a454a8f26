"""Lines out of bytes that arrive in any pieces, from files that do not stand still."""

from __future__ import annotations

import os

import pytest

from hpckit.monitor.log import Follower, LogReader, patterns_of
from hpckit.monitor.log.lines import LONGEST, Lines


def test_a_line_cut_in_half_is_read_when_its_rest_arrives():
    lines = Lines()
    assert lines.take(b"one\ntw") == ["one"]
    assert lines.take(b"o") == []
    assert lines.take(b"\nthree") == ["two"]
    assert lines.rest() == ["three"]


def test_a_character_cut_in_half_is_whole_again():
    lines, data = Lines(), "Verlust für é: 2\n".encode()
    found = [line for byte in data for line in lines.take(bytes([byte]))]
    assert found == ["Verlust für é: 2"]


def test_colours_backspaces_and_titles_are_no_part_of_a_line():
    data = b"\x1b[1m1/16\x1b[0m \x1b]0;title\x07x\x08\x08\x08\r\x1b[Ay \xff\x00z\r\n\n"
    assert Lines().take(data) == ["1/16 x", "y \N{REPLACEMENT CHARACTER}z"]


def test_a_line_of_a_hundred_megabytes_costs_no_more_than_a_short_one():
    lines = Lines()
    lines.take(b"Loss: 2.5 ")
    for _ in range(100):
        assert lines.take(b"x" * 1_000_000) == []
        assert len(lines.state_dict()["half"]) <= LONGEST
    assert lines.take(b"\nnext\n") == ["Loss: 2.5 " + "x" * (LONGEST - 10), "next"]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "rank-0.log"


@pytest.fixture
def follower(log):
    made = Follower(log, LogReader(patterns_of("founding"), clock=lambda: 0.0))
    yield made
    made.close()


def steps(readings):
    return [each.step for each in readings]


def append(path, text):
    with open(path, "ab") as stream:
        stream.write(text.encode())


def test_a_follower_waits_for_a_file_that_is_not_there_yet(log, follower):
    assert follower.poll() == []
    append(log, "Epoch 1: Loss: 3\nEpoch 2: Lo")
    assert steps(follower.poll()) == []
    append(log, "ss: 2\nEpoch 3: Loss: 1")
    assert steps(follower.poll() + follower.rest()) == [1, 2, 3]


def test_what_is_added_is_read_once(log, follower):
    append(log, "Epoch 1: Loss: 3\nEpoch 2: Loss: 2\n")
    assert steps(follower.poll()) == [1]
    assert steps(follower.poll()) == []
    append(log, "Epoch 3: Loss: 1\n")
    assert steps(follower.poll()) == [2]
    assert steps(follower.rest()) == [3]


def test_a_log_that_is_rotated_is_read_to_its_end_and_then_the_new_one(log, follower):
    append(log, "Epoch 1: Loss: 3\n")
    follower.poll()
    append(log, "Epoch 2: Loss: 2\nEpoch 3: Lo")
    os.rename(log, log.with_suffix(".1"))
    assert steps(follower.poll()) == [1]
    append(log, "Epoch 4: Loss: 2\nEpoch 5: Loss: 2\n")
    assert steps(follower.poll() + follower.rest()) == [2, 4, 5]


def test_one_look_at_a_replaced_log_takes_the_rest_of_the_old_and_the_new(log, follower):
    append(log, "Epoch 1: Loss: 3\n")
    follower.poll()
    append(log, "Epoch 2: Loss: 2\n")
    os.rename(log, log.with_suffix(".1"))
    append(log, "Epoch 3: Loss: 2\nEpoch 4: Loss: 2\n")
    assert steps(follower.poll()) == [1, 2, 3]


@pytest.mark.parametrize("length", [1, 30])
def test_a_log_that_is_cut_and_written_anew_is_read_from_its_beginning(log, follower, length):
    append(log, "Epoch 1: Loss: 3\nEpoch 2: Loss: 2\n")
    follower.poll()
    lines = [f"Epoch {10 + each}: Loss: {each}\n" for each in range(length)]
    # In place, as copytruncate does; longer than before, its size alone would not tell.
    log.write_text("".join(lines))
    assert steps(follower.poll() + follower.rest()) == [2, *range(10, 10 + length)]


def test_a_log_that_is_emptied_goes_on(log, follower):
    append(log, "Epoch 1: Loss: 3\n")
    follower.poll()
    os.truncate(log, 0)
    assert follower.poll() == []
    append(log, "Epoch 2: Loss: 3\n")
    assert steps(follower.poll()) == [1]
    assert steps(follower.rest()) == [2]


def test_the_end_of_a_long_log_is_read_whole(log, follower, monkeypatch):
    monkeypatch.setattr("hpckit.monitor.log.follower.PIECE", 10)
    monkeypatch.setattr("hpckit.monitor.log.follower.MOST", 40)
    append(log, "".join(f"Epoch {each}: Loss: 1\n" for each in range(100)))
    assert steps(follower.poll()) == [0]
    assert steps(follower.rest()) == list(range(1, 100))

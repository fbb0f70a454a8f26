"""Reading the ends of logs, whatever was printed into them."""

from __future__ import annotations

import time

import pytest

from hpckit.logs import LONGEST_LINE, Reader, tail


@pytest.mark.parametrize("ending", ["", "\n"])
@pytest.mark.parametrize("count", [1, 3, 20_000])
def test_the_last_lines_are_the_last_lines(tmp_path, ending, count):
    lines = [f"line {number} é" for number in range(30_000)]
    path = tmp_path / "log"
    path.write_text("\n".join(lines) + ending)
    assert tail(path, count) == lines[-count:]
    assert tail(path, 50_000) == lines


def test_empty_lines_count(tmp_path):
    (tmp_path / "log").write_text("a\n\n\n")
    assert tail(tmp_path / "log", 2) == ["", ""]
    (tmp_path / "log").write_text("")
    assert tail(tmp_path / "log", 2) == []


def test_a_bar_of_forty_megabytes_costs_no_more_than_its_end(tmp_path):
    path = tmp_path / "log"
    path.write_text("first\n" + "\r 10%|####      | 100/1000" * 1_600_000)
    begin = time.monotonic()
    (found,) = tail(path, 1)
    assert time.monotonic() - begin < 1.0
    assert LONGEST_LINE <= len(found) < 2 * LONGEST_LINE
    assert found.endswith("100/1000")


def test_a_reader_starts_at_a_whole_line_even_among_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\n\xff\xfe\xfd two\nthree")
    assert Reader(path, skip_to_last=1).more() == "three"
    reader = Reader(path, skip_to_last=2)
    assert reader.more() == "��� two\nthree"
    with open(path, "ab") as stream:
        stream.write(b" and more\n")
    assert reader.more() == " and more\n"

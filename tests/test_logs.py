"""Reading the ends of logs, whatever was printed into them."""

from __future__ import annotations

import os
import time

import pytest

from hpckit.cli.logs import _log
from hpckit.files import write_json
from hpckit.logs import LONGEST_LINE, Reader, tail
from tests.made_runs import begin, make_run, make_sweep


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


def link_log(run_folder, chain, name, age_s):
    """What a link printed into its chain's folder, so long ago."""
    folder = run_folder / "chains" / chain
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "chain.json", {"offset": 0})
    (folder / name).write_text("said\n")
    os.utime(folder / name, (time.time() - age_s,) * 2)
    return folder / name


def test_the_workers_log_is_that_of_the_last_link_an_attempt_or_not(tmp_path):
    run = make_run(tmp_path)
    first = link_log(run.dir, "001", "7_1.log", 60)
    begin(run, chain=1, log="7_1.log")
    assert _log(run, None, None) == (1, first)
    died = link_log(run.dir, "002", "9_1.log", 5)
    assert _log(run, None, None) == (None, died)
    assert _log(run, 1, None) == (1, first)


def test_a_points_own_chains_are_looked_into_and_other_points_links_are_not(tmp_path):
    _, point = make_sweep(tmp_path / "s", 2)
    first = link_log(point.home, "001", "7_1.log", 60)
    link_log(point.home, "001", "7_0.log", 1)
    assert _log(point, None, None) == (None, first)
    own = link_log(point.dir, "002", "9_1.log", 30)
    assert _log(point, None, None) == (None, own)

"""Names of checkpoints: read by people, sorted by programs."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import hpckit.checkpoint
from hpckit.checkpoint.names import Segment, folder_name, parse, parse_damaged


@pytest.mark.parametrize(
    ("segment", "tag"),
    [
        (Segment(2, 1), "a2-l1"),
        (Segment(2, 1, 1), "a2-l1-r1"),
        (Segment(10, 12, 3), "a10-l12-r3"),
    ],
)
def test_a_segment_is_called_by_attempt_launch_and_rollbacks(segment: Segment, tag: str) -> None:
    assert segment.tag == tag
    assert Segment.parse(tag) == segment


@pytest.mark.parametrize("tag", ["", "a2", "a2-l1-", "a2-l1-r", "a-l1", "a2-l1.damaged", " a2-l1"])
def test_what_is_no_segment_is_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="a2-l1-r1 would be one"):
        Segment.parse(tag)


def test_later_segments_are_greater() -> None:
    in_order = [Segment(1, 1), Segment(1, 1, 1), Segment(1, 2), Segment(2, 1), Segment(10, 1)]
    assert all(a < b for a, b in itertools.pairwise(in_order))


@pytest.mark.parametrize("step", [0, 12000, 123456789])
def test_a_folder_s_name_tells_step_and_segment(step: int) -> None:
    segment = Segment(2, 1, 1)
    assert parse(folder_name(step, segment)) == (step, segment)


def test_names_of_a_segment_sort_by_step() -> None:
    names = [folder_name(step, Segment(1, 1)) for step in (0, 9, 10, 99999999)]
    assert names == sorted(names)


@pytest.mark.parametrize(
    "name", ["step-1", "step-.a1-l1", "step-x.a1-l1", "step-1.a1-l1.damaged", ".step-1.a1-l1", "x"]
)
def test_other_names_are_no_checkpoints(name: str) -> None:
    assert parse(name) is None


def test_what_was_set_aside_still_tells_what_it_was() -> None:
    expected = (12, Segment(1, 2))
    assert parse_damaged("step-00000012.a1-l2.damaged") == expected
    assert parse_damaged("step-00000012.a1-l2.damaged-2") == expected
    assert parse_damaged("step-00000012.a1-l2") is None
    assert parse_damaged("notes.damaged") is None


def test_nothing_here_imports_torch_or_numpy() -> None:
    files = Path(hpckit.checkpoint.__file__).parent.glob("[!_]*.py")
    names = ", ".join(f"hpckit.checkpoint.{file.stem}" for file in files)
    code = f"import sys, {names}; print({{'torch', 'numpy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

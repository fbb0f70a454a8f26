"""The user's own patterns, also those that would take for ever, and the ready ones."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from hpckit.model.regex import problem_with
from hpckit.monitor.log import READY, LogReader, patterns_of
from hpckit.monitor.log.matching import Direct, Guarded
from hpckit.spec.monitoring import LOGS

BAD = [r"(?P<loss>(a+)+)$", r"(?P<loss>(a|aa)+)$", r"(?P<loss>.*.*.*.*.*x)$"]


@pytest.fixture
def told():
    return []


@pytest.fixture
def guarded(told):
    made = []

    def make(*patterns):
        # The smallest limit: what the system counts is whole seconds.
        made.append(Guarded(patterns_of(patterns), told.append, limit_s=0))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("pattern", BAD)
def test_a_pattern_that_takes_for_ever_is_given_up_and_told_once(guarded, told, pattern):
    matcher = guarded(pattern, r"norm (?P<norm>\d+)")
    lines = ["norm 6", "a" * 3000 + "!", "norm 7"]
    expected = [[{"norm": "6"}], [], [{"norm": "7"}]]
    found = matcher.match(lines)
    assert found == expected
    assert matcher.match(lines) == expected
    assert len(told) == 1
    assert pattern in told[0].replace("\\\\", "\\")


def test_a_reader_whose_only_pattern_is_given_up_goes_on(told, monkeypatch):
    reader = LogReader(patterns_of(BAD[:1]), tell=told.append)
    monkeypatch.setattr(reader._matcher, "_limit_s", 0)
    assert reader.feed(b"a" * 60 + b"!\n") == []
    assert reader.feed(b"aaa\n") + reader.flush() == []
    assert len(told) == 1
    reader.close()


def test_a_child_that_somebody_ends_is_started_anew_and_nobody_is_blamed(guarded, told):
    matcher = guarded(r"norm (?P<norm>\d+)")
    assert matcher.match(["norm 6"]) == [[{"norm": "6"}]]
    os.kill(matcher._child.pid, signal.SIGKILL)
    assert matcher.match(["norm 7"]) == [[{"norm": "7"}]]
    assert told == []


def test_a_pattern_that_is_used_for_long_has_its_time_for_each_batch(told):
    matcher = Guarded(patterns_of([r"(?P<loss>a.*b)"]), told.append, limit_s=1)
    lines = ["a" * 800] * 10
    matcher.match(lines)
    first = matcher._child
    used_s = 0.0
    while used_s < 2.3 and matcher._child is first:
        matcher.match(lines)
        fields = Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()
        used_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    assert matcher._child is first
    assert told == []
    matcher.close()


def test_a_child_ends_with_its_parent_and_ignores_what_the_scheduler_means_for_it(guarded):
    matcher = guarded(r"norm (?P<norm>\d+)")
    matcher.match(["norm 6"])
    child = matcher._child
    child.send_signal(signal.SIGTERM)
    assert matcher.match(["norm 7"]) == [[{"norm": "7"}]]
    assert matcher._child is child
    matcher.close()
    assert child.returncode == 0


def test_many_lines_are_matched_with_each_at_its_place(guarded):
    patterns = [r"(?P<a>\d+)", r"x(?P<b>\d+)"]
    lines = [f"x{each} {each + 1}" if each % 3 else "" for each in range(1001)]
    found = guarded(*patterns).match(lines)
    assert found == Direct(patterns_of(patterns)).match(lines)
    assert found[1] == [{"a": "1"}, {"a": "2"}, {"b": "1"}]


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        (r"loss (?P<loss>\S+)", None),
        (r"(a+)+ (?P<loss>\S+)$", None),
        (r"loss (\S+)", "has no named group such as (?P<loss>...)"),
        (r"loss (?P<loss>\S+", "is not a regular expression: missing ), unterminated subpattern"),
        (r"(?P<parameter>\S+)", "needs the groups parameter and parameter_norm together"),
    ],
)
def test_what_is_wrong_with_a_pattern_is_said(pattern, problem):
    found = problem_with(pattern)
    assert found == problem if problem is None else found.startswith(problem)


def test_the_spec_knows_every_ready_set():
    assert READY == LOGS


HOSTILE = [
    "a", "1,", " ", "Epoch ", "|", "1/1 [1<1, 1, ", "1/1 [", "{'loss': ", "{'", "Loss ", "Loss: ",
    "a.", "1", "━ ", "- ", "1/2 - a: - ", "iteration 1/ ", "validation loss at iteration 1",
    "val |", "Batch 1,", "1it [1, ", "batch  ", "1%|", "Grad norm ", "a=1, ", "a: ", "'", "(",
    "nan", ",111",
]  # fmt: skip


@pytest.mark.parametrize("name", READY)
def test_no_line_holds_up_a_ready_set(name):
    matcher, most = Direct(patterns_of(name)), 0.0
    for part in HOSTILE:
        for head in ("", "1/2 ", "iteration 1/ 2 |", "1%| | 1/2 [1<1, 1it/s, "):
            line = (head + part * 8192)[:8192]
            begin = time.process_time()
            matcher.match([line])
            most = max(most, time.process_time() - begin)
    assert most < 0.25

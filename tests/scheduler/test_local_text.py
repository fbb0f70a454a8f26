from __future__ import annotations

import signal

import pytest

from hpckit.errors import SubmissionRefused
from hpckit.scheduler.local_text import Asked, asked, command_of, seconds


def _ask(*lines: str) -> Asked:
    return asked("\n".join(["#!/bin/bash", *(f"#SBATCH {line}" for line in lines), "true"]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30", 1800.0),
        ("5:30", 330.0),
        ("1:02:03", 3723.0),
        ("2-3", 183600.0),
        ("2-3:04", 183840.0),
        ("2-3:04:05", 183845.0),
        ("00:00:03", 3.0),
        ("UNLIMITED", None),
        ("0", None),
        ("", None),
    ],
)
def test_times_are_read_as_slurm_reads_them(text: str, expected: float | None) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["banana", "1h", "1:2:3:4", "-5", "1-"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SubmissionRefused, match="time"):
        seconds(text)


def test_an_array_has_tasks_and_a_throttle() -> None:
    chain = _ask("--array=1-12%1")
    assert (chain.tasks, chain.at_most, chain.is_array) == (list(range(1, 13)), 1, True)
    fan = _ask("-a 0-2,7")
    assert (fan.tasks, fan.at_most) == ([0, 1, 2, 7], 4)
    assert not _ask().is_array


@pytest.mark.parametrize("array", ["5-1", "x", "1-5%x"])
def test_an_array_that_is_none_is_refused(array: str) -> None:
    with pytest.raises(SubmissionRefused, match="array"):
        _ask(f"--array={array}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B:USR2@60", (signal.SIGUSR2, 60.0, True)),
        ("TERM@5", (signal.SIGTERM, 5.0, False)),
        ("SIGUSR1", (signal.SIGUSR1, 60.0, False)),
        ("B:12", (12, 60.0, True)),
    ],
)
def test_the_signal_before_the_limit(text: str, expected: tuple[int, float, bool]) -> None:
    ask = _ask(f"--signal={text}")
    assert (ask.signal, ask.lead_s, ask.batch_only) == expected


def test_options_may_be_short_quoted_split_and_commented() -> None:
    ask = _ask("-J 'two words' -t5 # five minutes", "--output %A_%a.log", '--error="a b.err"')
    assert (ask.name, ask.limit_s) == ("two words", 300.0)
    assert (ask.output, ask.error) == ("%A_%a.log", "a b.err")


def test_what_only_a_cluster_understands_is_passed_over() -> None:
    assert _ask("--partition=gpu --qos long", "--exclusive", "--mem=64G", "-c 4").cpus == 4


def test_lines_after_the_first_command_are_no_options() -> None:
    assert asked("#!/bin/sh\n\n# words\necho\n#SBATCH --nodes=4\n").name is None


def test_gpus_may_have_a_type() -> None:
    assert _ask("--gpus-per-node=a100:4").gpus == 4


def test_two_nodes_are_refused_with_a_way_out() -> None:
    with pytest.raises(SubmissionRefused, match="asks for 2 nodes") as caught:
        _ask("--nodes=2")
    assert "resources.nodes=1" in caught.value.hint


def test_dependencies_that_are_not_known_are_refused_not_ignored() -> None:
    assert _ask("--dependency=afterany:12:13,singleton").after == ["12", "13"]
    for text in ("afterok:12", "afterany:1?singleton", "nonsense"):
        with pytest.raises(SubmissionRefused, match="dependency"):
            _ask(f"--dependency={text}")


def test_the_interpreter_is_the_first_lines() -> None:
    assert command_of("#!/usr/bin/env python3\n") == ["/usr/bin/env", "python3"]
    assert command_of("#! /bin/bash -l\n") == ["/bin/bash", "-l"]
    for text in ("echo hi\n", "", "#!\n"):
        with pytest.raises(SubmissionRefused, match="batch script"):
            command_of(text)

"""How an attempt ended, and whether that ends the run."""

from __future__ import annotations

import dataclasses
import os

import pytest

from hpckit.scheduler.base import Cause, JobStatus, Phase
from hpckit.worker.launch import RankExit, rank_exits
from hpckit.worker.outcome import after_a_silent_end, judge


def rank(number, code, stage="program", when=0.0, told=False):
    return RankExit(rank=number, code=code, stage=stage, when=when, was_told=told)


def test_all_zero_is_done():
    outcome = judge([rank(0, 0), rank(1, 0)], ranks=2, told=None)
    assert (outcome.state, outcome.exit_code) == ("done", 0)


def test_the_rank_that_failed_first_is_named():
    outcome = judge([rank(2, 5, when=1), rank(0, 143, when=2)], ranks=3, told=None)
    assert (outcome.state, outcome.reason) == ("failed", "rank 2 ended with exit code 5")
    assert outcome.program == {"rank": 2, "code": 5, "stage": "program"}


@pytest.mark.parametrize(
    ("exits", "reason"),
    [
        ([rank(0, 1, "setup")], "the environment's setup ended with exit code 1"),
        ([rank(0, 137)], "the program was killed by SIGKILL"),
        ([rank(0, 2)], "the program ended with exit code 2"),
        ([rank(0, 77)], "the program ended with exit code 77"),
        ([], "1 of 1 ranks ended without a word: slurmstepd: killed"),
    ],
)
def test_a_failure_is_told_in_words(exits, reason):
    assert judge(exits, ranks=1, told=None, srun_log="slurmstepd: killed").reason == reason


def test_a_launch_that_could_not_start_is_tried_once_more():
    outcome = judge([], ranks=4, told=None, started=False, srun_log="srun: error: no controller")
    assert (outcome.state, outcome.exit_code) == (None, 75)
    assert outcome.reason == "the launch could not start: srun: error: no controller"


def test_ranks_that_were_killed_from_outside_may_be_a_lost_node():
    assert judge([], ranks=2, told=None).is_doubtful
    assert judge([rank(0, 137)], ranks=1, told=None).is_doubtful
    assert not judge([rank(0, 1)], ranks=1, told=None).is_doubtful


@pytest.mark.parametrize("code", [0, 143])
def test_ranks_that_somebody_else_told_to_end_have_not_failed_and_are_not_done(code):
    outcome = judge([rank(1, code, told=True), rank(0, code, told=True)], ranks=2, told=None)
    assert (outcome.state, outcome.reason) == (None, "terminated")


def test_ranks_that_are_ended_because_another_failed_do_not_hide_it():
    exits = [rank(2, 5, when=1), rank(0, 143, when=2, told=True), rank(1, 0, when=3, told=True)]
    assert judge(exits, ranks=3, told=None).reason == "rank 2 ended with exit code 5"


def test_a_setup_line_that_ends_the_script_is_no_success():
    assert judge([rank(0, 0, "setup")], ranks=1, told=None).state == "failed"


def test_after_the_time_limit_the_next_link_goes_on_whatever_the_program_said():
    for code in (0, 1, 143):
        outcome = judge([rank(0, code)], ranks=1, told="time limit")
        assert (outcome.state, outcome.exit_code) == (None, 75)


@pytest.mark.parametrize("told", [None, "time limit", "terminated"])
def test_a_training_that_stops_its_run_does_so_whatever_it_was_told_meanwhile(told):
    outcome = judge([rank(0, 3)], ranks=1, told=told, stopped="the budget is spent")
    assert (outcome.state, outcome.reason) == ("stopped", "the budget is spent")
    # A person goes on.
    asked = judge([rank(0, 3)], ranks=1, told="restart asked for", stopped="the budget is spent")
    assert asked.state is None


def test_a_spent_limit_stops_the_run():
    outcome = judge([rank(0, 0)], ranks=1, told="limits.gpu_hours: 2 GPU h are used")
    assert (outcome.state, outcome.exit_code) == ("stopped", 3)


def status(cause):
    return JobStatus(
        job_id="1_1",
        array_id="1",
        task=1,
        pending_tasks=(),
        name="a/b",
        phase=Phase.ENDED,
        cause=cause,
        raw_state="X",
        reason="",
        node="n1",
        submitted=None,
        started=None,
        ended=None,
        expected_start=None,
        ends_by=None,
        exit_code=None,
        signal=None,
    )


@pytest.mark.parametrize(
    ("cause", "state"),
    [
        (Cause.CANCELLED, "cancelled"),
        (Cause.FAILED, "failed"),
        (Cause.NODE_FAIL, None),
        (Cause.PREEMPTED, None),
        (Cause.TIMEOUT, None),
        (Cause.OUT_OF_MEMORY, None),
    ],
)
def test_a_person_who_cancels_means_it_and_a_lost_node_does_not(cause, state):
    assert after_a_silent_end(status(cause)).state == state


def test_a_link_that_asked_for_the_next_one_has_not_died():
    asked = dataclasses.replace(status(Cause.FAILED), exit_code=75)
    assert after_a_silent_end(asked).reason == "terminated"


def test_nothing_known_is_no_reason_to_end_a_run():
    assert after_a_silent_end(None).state is None


def test_of_ranks_that_ended_in_one_moment_the_one_that_nobody_told_is_the_cause(tmp_path):
    (tmp_path / "rank-0.exit").write_text("143 program told 1795240352,5\n")
    (tmp_path / "rank-1.exit").write_text("1 program untold 1795240352,5\n")
    (tmp_path / "rank-2.exit").write_text("0 program unt")
    exits = rank_exits(tmp_path)
    assert [exit_.rank for exit_ in exits] == [1, 0]
    assert judge(exits, ranks=2, told=None).state == "failed"
    (tmp_path / "rank-0.exit").write_text("143 program told 1795240352.4\n")
    assert judge(rank_exits(tmp_path), ranks=2, told=None).reason == "terminated"


def test_without_a_clock_in_bash_the_files_times_stand_in(tmp_path):
    for number, when in ((0, 20), (1, 10)):
        path = tmp_path / f"rank-{number}.exit"
        path.write_text("1 program untold \n")
        os.utime(path, (when, when))
    assert [exit_.rank for exit_ in rank_exits(tmp_path)] == [1, 0]


@pytest.mark.parametrize(("code", "words"), [(255, "ended with exit code 255"), (139, "SIGSEGV")])
def test_only_codes_of_real_signals_are_told_as_signals(code, words):
    assert words in judge([rank(0, code)], ranks=1, told=None).reason


def test_a_worker_that_could_write_nothing_is_believed_by_its_exit_code():
    assert after_a_silent_end(status(Cause.COMPLETED)).state == "done"
    stopped = dataclasses.replace(status(Cause.FAILED), exit_code=3)
    assert after_a_silent_end(stopped).state == "stopped"
    killed = dataclasses.replace(status(Cause.FAILED), exit_code=None)
    assert after_a_silent_end(killed).state == "failed"


def test_a_failure_that_could_not_be_written_down_is_a_failure_of_the_run():
    failed = dataclasses.replace(status(Cause.FAILED), exit_code=4)
    found = after_a_silent_end(failed)
    assert (found.state, found.reason) == ("failed", "failed, by the worker's exit code alone")

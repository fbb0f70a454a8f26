from __future__ import annotations

from pathlib import Path

import pytest

from hpckit.scheduler import slurm_text
from hpckit.scheduler.base import Cause, JobStatus, Phase

RECORDED = Path(__file__).parent / "recorded"


def _read(name: str) -> str:
    return (RECORDED / name).read_bytes().decode()


@pytest.fixture
def busy() -> dict[str, JobStatus]:
    return {job.job_id: job for job in slurm_text.parse_queue(_read("squeue_busy.txt"))}


@pytest.fixture
def node_failed() -> dict[str, JobStatus]:
    jobs = slurm_text.parse_queue(_read("squeue_node_failed.txt"))
    return {job.job_id: job for job in jobs}


@pytest.fixture
def accounted() -> dict[str, JobStatus]:
    return {job.job_id: job for job in slurm_text.parse_history(_read("sacct_all.txt"))}


def test_every_record_of_squeue_is_a_job(busy: dict[str, JobStatus]) -> None:
    assert len(busy) == _read("squeue_busy.txt").count("\x1e")


def test_a_running_task_has_its_node_its_start_and_its_limit(busy: dict[str, JobStatus]) -> None:
    assert busy["2_1"] == JobStatus(
        job_id="2_1",
        array_id="2",
        task=1,
        pending_tasks=(),
        name="chain",
        phase=Phase.RUNNING,
        cause=None,
        raw_state="RUNNING",
        reason="",
        node="n1",
        submitted="2026-11-20T23:32:00Z",
        started="2026-11-20T23:32:00Z",
        ended=None,
        expected_start=None,
        ends_by="2026-11-20T23:52:00Z",
        exit_code=None,
        signal=None,
    )


def test_the_remainder_of_a_chain_lists_its_links(busy: dict[str, JobStatus]) -> None:
    rest = busy["2"]
    assert (rest.task, rest.pending_tasks) == (None, tuple(range(2, 13)))
    assert (rest.phase, rest.reason, rest.node) == (Phase.PENDING, "JobArrayTaskLimit", "")


def test_a_remainder_of_five_hundred_scattered_tasks_is_whole(busy: dict[str, JobStatus]) -> None:
    expected = tuple(task for task in range(3, 1000, 2) if task != 7)
    assert expected == busy["34"].pending_tasks


def test_names_may_hold_any_sign(busy: dict[str, JobStatus]) -> None:
    assert busy["34_1"].name == "odd | näme, %x"
    assert busy["35"].name == "two\nlines"


def test_exit_codes_and_signals_are_told_apart(busy: dict[str, JobStatus]) -> None:
    assert (busy["31"].cause, busy["31"].exit_code, busy["31"].signal) == (Cause.FAILED, 3, None)
    assert (busy["32"].cause, busy["32"].exit_code, busy["32"].signal) == (Cause.FAILED, None, 9)
    assert (busy["35"].cause, busy["35"].exit_code) == (Cause.COMPLETED, 0)
    assert (busy["33"].cause, busy["33"].exit_code) == (Cause.CANCELLED, 143)


def test_a_job_that_was_cancelled_while_pending_never_started(busy: dict[str, JobStatus]) -> None:
    rest = busy["39"]
    assert (rest.phase, rest.cause) == (Phase.ENDED, Cause.CANCELLED)
    assert rest.pending_tasks == (1, 2, 3, 4, 5)
    assert (rest.started, rest.ended, rest.exit_code) == (None, "2026-11-20T23:40:10Z", None)


def test_a_job_that_ignores_sigterm_is_ending(busy: dict[str, JobStatus]) -> None:
    assert (busy["29"].phase, busy["29"].cause, busy["29"].ended) == (Phase.ENDING, None, None)


def test_the_expected_start_of_a_pending_job_is_no_start(node_failed: dict[str, JobStatus]) -> None:
    pending = [job for job in node_failed.values() if job.phase is Phase.PENDING]
    assert all(job.started is None and job.ends_by is None for job in pending)
    assert (
        slurm_text.parse_queue(
            "9\x1fPENDING\x1f0\x1f2026-11-20T23:32:00\x1f2026-11-20T23:52:00\x1f2026-11-20T23:57:00"
            "\x1fResources\x1f\x1fbig\x1e\n"
        )[0].expected_start
        == "2026-11-20T23:52:00Z"
    )


def test_a_lost_node_is_its_own_cause(node_failed: dict[str, JobStatus]) -> None:
    lost = node_failed["30_1"]
    assert (lost.cause, lost.reason, lost.exit_code) == (Cause.NODE_FAIL, "NodeDown", None)
    assert node_failed["30"].reason == "ReqNodeNotAvail, UnavailableNodes:n2"


def test_accounting_keeps_who_cancelled(accounted: dict[str, JobStatus]) -> None:
    rest = accounted["12"]
    assert (rest.raw_state, rest.cause) == ("CANCELLED by 0", Cause.CANCELLED)
    assert (rest.pending_tasks, rest.node, rest.started) == ((3, 4, 5), "", None)


def test_accounting_tells_exit_codes_signals_and_limits(accounted: dict[str, JobStatus]) -> None:
    assert (accounted["5"].exit_code, accounted["5"].signal) == (3, None)
    assert (accounted["6"].exit_code, accounted["6"].signal) == (None, 9)
    assert (accounted["7"].cause, accounted["7"].exit_code) == (Cause.TIMEOUT, None)
    assert accounted["7"].ended == "2026-11-20T23:33:00Z"
    assert (accounted["30_1"].cause, accounted["2_2"].phase) == (Cause.NODE_FAIL, Phase.RUNNING)


def test_a_name_with_a_newline_does_not_harm_its_neighbours(
    accounted: dict[str, JobStatus],
) -> None:
    lines = [line for line in _read("sacct_all.txt").splitlines() if "\x1f" in line]
    assert len(accounted) == len(lines)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("4711\n", "4711"),
        ("4711;cluster\n", "4711"),
        ("Dear user, your job 42 is being checked\n4711\n", "4711"),
        ("42\nsbatch: filter passed\n4711;c1\nThank you for 2026\n", "4711"),
        ("Submitted batch job 12\n", None),
        ("", None),
    ],
)
def test_the_job_id_is_the_last_line_that_is_one(output: str, expected: str | None) -> None:
    assert slurm_text.submitted_id(output) == expected


# squeue(1) and sacct(1) of Slurm 22.05, and what 24.11 and 25.05 added.
STATES = """
BF BOOT_FAIL CA CANCELLED CD COMPLETED CF CONFIGURING CG COMPLETING DL DEADLINE F FAILED
NF NODE_FAIL OOM OUT_OF_MEMORY PD PENDING PR PREEMPTED R RUNNING RD RESV_DEL_HOLD RF REQUEUE_FED
RH REQUEUE_HOLD RQ REQUEUED RS RESIZING RV REVOKED SI SIGNALING SE SPECIAL_EXIT SO STAGE_OUT
ST STOPPED S SUSPENDED TO TIMEOUT LAUNCH_FAILED POWER_UP_NODE RECONFIG_FAIL UPDATE_DB EXPEDITING
"""


@pytest.mark.parametrize("state", STATES.split())
def test_every_state_of_the_manual_is_known(state: str) -> None:
    phase, cause = slurm_text.known_states[state]
    assert (phase is Phase.ENDED) == (cause is not None)


@pytest.mark.parametrize("state", ["SUSPENDED", "CONFIGURING", "COMPLETING", "REQUEUED"])
def test_what_may_still_run_has_not_ended(state: str) -> None:
    assert slurm_text.what_is(state)[0] is not Phase.ENDED


def test_a_state_never_heard_of_is_not_guessed_at() -> None:
    assert slurm_text.what_is("TELEPORTING") == (Phase.UNKNOWN, None)


def test_states_with_a_tail_are_understood() -> None:
    assert slurm_text.what_is("CANCELLED by 1000") == (Phase.ENDED, Cause.CANCELLED)
    assert slurm_text.what_is("CANCELLED+") == (Phase.ENDED, Cause.CANCELLED)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("5-7%1", (5, 6, 7)),
        ("3", (3,)),
        ("1,4-6,9%2", (1, 4, 5, 6, 9)),
        ("0-9:3", (0, 3, 6, 9)),
        ("1,3,...%1", (1, 3)),
    ],
)
def test_array_expressions_are_expanded(expression: str, expected: tuple[int, ...]) -> None:
    assert slurm_text.tasks_of(expression) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("0:0", (0, None)),
        ("0:15", (None, 15)),
        ("0:125", (0, None)),
        ("768", (3, None)),
        ("9", (None, 9)),
        ("N/A", (None, None)),
    ],
)
def test_exit_codes_in_both_of_slurms_spellings(
    code: str, expected: tuple[int | None, int | None]
) -> None:
    assert slurm_text.exit_of(code) == expected


def test_the_configuration_and_the_partitions_are_read() -> None:
    assert slurm_text.parse_config(_read("config.txt"))["MaxArraySize"] == "1001"
    main, short = slurm_text.parse_partitions(_read("partitions.txt"))
    assert (main["PartitionName"], main["TRES"]) == ("main", "cpu=8,mem=2000M,node=2,billing=8")
    assert (short["MaxTime"], short["Default"]) == ("00:10:00", "NO")


@pytest.mark.parametrize(
    ("wanted", "longest"),
    [(None, 86_400), ("short", 600), ("short,main", 86_400), ("main,free", None), ("none", None)],
)
def test_the_longest_time_is_that_of_any_partition_that_a_job_names(
    wanted: str | None, longest: int | None
) -> None:
    partitions = slurm_text.parse_partitions(_read("partitions.txt"))
    partitions.append({"PartitionName": "free", "MaxTime": "UNLIMITED"})
    assert slurm_text.longest_s(slurm_text.chosen(partitions, wanted)) == longest


@pytest.mark.parametrize(
    ("listed", "nodes"),
    [
        ("", []),
        ("n1", ["n1"]),
        ("n[08-10],m2", ["n08", "n09", "n10", "m2"]),
        ("n[1,3-4]", ["n1", "n3", "n4"]),
        ("r[1-2]n[0-1]-ib", ["r1n0-ib", "r1n1-ib", "r2n0-ib", "r2n1-ib"]),
    ],
)
def test_a_list_of_nodes_is_read(listed: str, nodes: list[str]) -> None:
    assert slurm_text.nodes_of(listed) == nodes

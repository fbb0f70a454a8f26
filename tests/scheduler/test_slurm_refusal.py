from __future__ import annotations

import pytest

from hpckit.errors import HpckitError, SchedulerSilent, SubmissionRefused, SubmissionUnclear
from hpckit.scheduler.slurm_refusal import no_job_id


def _judge(code: int, err: str, out: str = "", *, has_id: bool = False) -> HpckitError:
    return no_job_id(code, out, err, has_id=has_id, partitions=lambda: ["main", "short"])


FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("code", "err", "hint"),
    [
        (
            1,
            "sbatch: error: invalid partition specified: nosuch\n"
            f"{FAILED}Invalid partition name specified\n",
            "main, short",
        ),
        (1, f"{FAILED}Invalid account or account/partition combination specified\n", "sacctmgr"),
        (
            1,
            "sbatch: error: Memory specification can not be satisfied\n"
            f"{FAILED}Requested node configuration is not available\n",
            "sinfo",
        ),
        (1, f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)\n", "%l"),
        (1, f"sbatch: error: AssocMaxSubmitJobLimit\n{FAILED}Job violates accounting/QOS", "wait"),
        (1, f"{FAILED}Invalid job array specification\n", "MaxArraySize"),
        (1, f"{FAILED}Access/permission denied\n", "submission host"),
        (1, "sbatch: error: Invalid generic resource (gres) specification\n", "sinfo"),
        (255, "sbatch: error: Invalid --time specification\n", "sinfo"),
        (1, f"{FAILED}Invalid job reason nobody knows\n", ""),
    ],
)
def test_a_definite_no_is_told_in_slurms_words(code: int, err: str, hint: str) -> None:
    error = _judge(code, err)
    assert isinstance(error, SubmissionRefused)
    assert err.strip().splitlines()[-1].rpartition("error: ")[2] in error.message
    assert hint in error.hint


def test_an_unknown_option_is_named() -> None:
    error = _judge(
        255,
        "sbatch: unrecognized option '--nosuchopt'\nTry \"sbatch --help\" for more information\n",
    )
    assert isinstance(error, SubmissionRefused)
    assert error.message == "sbatch: unrecognized option '--nosuchopt'"


@pytest.mark.parametrize(
    ("code", "err"),
    [
        (1, f"{FAILED}Socket timed out on send/recv operation\n"),
        (1, f"{FAILED}Zero Bytes were transmitted or received\n"),
        (1, f"{FAILED}Unable to contact slurm controller (send failure)\n"),
        (1, f"{FAILED}Unexpected message received\n"),
        (-9, ""),
        (-15, "sbatch: warning: something\n"),
        (137, "Killed\n"),
        (1, ""),
        (
            1,
            "sbatch: error: Socket timed out, retrying\n"
            f"{FAILED}Unable to contact slurm controller (connect failure)\n",
        ),
    ],
)
def test_a_lost_answer_is_unclear(code: int, err: str) -> None:
    assert isinstance(_judge(code, err), SubmissionUnclear)


def test_success_without_an_id_is_unclear() -> None:
    error = _judge(0, "", "Submitted something\n")
    assert isinstance(error, SubmissionUnclear)
    assert "Submitted something" in error.message


def test_a_failure_that_printed_an_id_is_unclear() -> None:
    assert isinstance(_judge(1, "wrapper: cannot log\n", "4711\n", has_id=True), SubmissionUnclear)


@pytest.mark.parametrize(
    "err",
    [
        f"{FAILED}Unable to contact slurm controller (connect failure)\n",
        "sbatch: error: Munge encode failed: Failed to access socket (Did you start munged?)\n"
        "sbatch: error: slurm_send_node_msg: auth_g_create: REQUEST_SUBMIT_BATCH_JOB has "
        f"authentication error\n{FAILED}Protocol authentication error\n",
        "sbatch: error: s_p_parse_file: cannot stat file /tmp/nosuch.conf: No such file\n"
        "sbatch: fatal: Unable to process configuration file\n",
    ],
)
def test_where_nothing_was_sent_the_scheduler_is_silent(err: str) -> None:
    assert isinstance(_judge(1, err), SchedulerSilent)

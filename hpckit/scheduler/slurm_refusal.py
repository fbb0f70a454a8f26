"""What an sbatch that gave no job id means: no job, no answer, or nobody knows. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hpckit.errors import HpckitError, SchedulerSilent, SubmissionRefused, SubmissionUnclear

# An answer may be lost on its way back. Seen: a slurmctld that was stopped took the job from its
# socket when it went on, long after sbatch had said "submission failed: Socket timed out".
LOST = re.compile(
    r"timed out|Unable to contact|Zero Bytes|Connection (reset|refused)|Transport endpoint"
    r"|Broken pipe|[Cc]ommunication|Unexpected message|Protocol authentication error|standby mode"
)
# Here nothing has been sent: the configuration, the credential or the connection failed first.
NEVER_SENT = re.compile(r"^sbatch: fatal: |auth_g_create|\(connect failure\)$", re.MULTILINE)
CONNECT_FAILURE = re.compile(r"^.*\(connect failure\)$", re.MULTILINE)
FAILED = "Batch job submission failed: "

HINTS = (
    (
        r"Invalid account",
        "`sacctmgr show associations user=$USER format=account,partition,qos` lists yours; "
        "set resources.account",
    ),
    (r"Invalid qos", "`sacctmgr show associations user=$USER format=account,qos` lists yours"),
    (
        r"node configuration is not available|Memory specification|generic resource|feature spec",
        "no node of this partition has what is asked for: `sinfo -o '%P %D %c %m %G %f'` "
        "lists CPUs, memory (MB), GPUs and features; lower resources",
    ),
    (
        r"time limit is invalid|PartitionTimeLimit|--time spec",
        "`sinfo -o '%P %l'` lists each partition's longest time; lower resources.time",
    ),
    (
        r"MaxSubmit|AssocMaxSubmitJobLimit|QOSMaxSubmitJob|submit/run limits",
        "you have as many jobs in the queue as you may: wait, or cancel some",
    ),
    (r"Invalid job array", "`scontrol show config | grep MaxArraySize` says how long one may be"),
    (r"Access/permission denied", "this machine may not submit: log in to a submission host"),
)


def sentence(code: int, err: str) -> str:
    """Slurm's own last word, without the command's name in front."""
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    if not lines:
        ended = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"ended with {ended} and said nothing"
    plain = [re.sub(r"^(\w+: (error: |fatal: )?|\w+ error: )", "", line) for line in lines]
    failed = [line for line in plain if FAILED in line]
    return failed[-1] if failed else " ".join(s for s in plain if not s.startswith("Try "))


def no_job_id(
    code: int, out: str, err: str, *, has_id: bool, partitions: Callable[[], Sequence[str]]
) -> HpckitError:
    """The error to raise; `partitions` is only asked where the answer helps."""
    said = sentence(code, err)
    if code == 0 or has_id:
        shown = out.strip() or said
        return SubmissionUnclear(f"sbatch ended with {code} and printed {shown[-200:]!r}")
    if code < 0 or 128 < code <= 128 + 64 or not err.strip():
        return SubmissionUnclear(f"sbatch {said}" if not err.strip() else f"sbatch: {said}")
    if NEVER_SENT.search(err) and (
        "auth_g_create" in err or not _lost(CONNECT_FAILURE.sub("", err))
    ):
        hint = "nothing was submitted; `scontrol ping` tells when Slurm is back"
        return SchedulerSilent(f"sbatch: {said}", hint)
    if _lost(err):
        return SubmissionUnclear(f"sbatch: {said}")
    return SubmissionRefused(f"sbatch: {said}", _hint(err, partitions))


def _lost(err: str) -> bool:
    return LOST.search(err) is not None


def _hint(err: str, partitions: Callable[[], Sequence[str]]) -> str:
    if re.search("Invalid partition", err, re.IGNORECASE):
        names = partitions()
        return f"partitions here: {', '.join(names)}; set resources.partition" if names else ""
    matching = (hint for pattern, hint in HINTS if re.search(pattern, err, re.IGNORECASE))
    return next(matching, "")

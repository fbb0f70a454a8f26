"""Reading what Slurm's commands print: pure, tried on recorded output of the real ones."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from hpckit.errors import HpckitError
from hpckit.scheduler.base import Cause, Changed, JobStatus, Phase

FIELD, RECORD = "\x1f", "\x1e"
# The name comes last: it is the one field that a user chooses freely.
QUEUE_FIELDS = (
    "JobArrayID",
    "State",
    "exit_code",
    "SubmitTime",
    "StartTime",
    "EndTime",
    "Reason",
    "NodeList",
    "Name",
)
HISTORY_FIELDS = ("JobID", "State", "ExitCode", "Submit", "Start", "End", "NodeList", "JobName")
# Without states sacct passes over what was cancelled before it was eligible to start.
HISTORY_STATES = "BF,CA,CD,DL,F,NF,OOM,PD,PR,R,RQ,RS,RV,S,TO"

_PENDING = (Phase.PENDING, None)
_RUNNING = (Phase.RUNNING, None)
_ENDING = (Phase.ENDING, None)
_UNKNOWN = (Phase.UNKNOWN, None)

# Every state of squeue(1) and sacct(1), old and new. REVOKED means that the job runs in another
# cluster of a federation, and LAUNCH_FAILED that Slurm will decide: neither says how a job ended.
_STATES: dict[str, tuple[str, tuple[Phase, Cause | None]]] = {
    "BOOT_FAIL": ("BF", (Phase.ENDED, Cause.NODE_FAIL)),
    "CANCELLED": ("CA", (Phase.ENDED, Cause.CANCELLED)),
    "COMPLETED": ("CD", (Phase.ENDED, Cause.COMPLETED)),
    "COMPLETING": ("CG", _ENDING),
    "CONFIGURING": ("CF", _PENDING),
    "DEADLINE": ("DL", (Phase.ENDED, Cause.TIMEOUT)),
    "EXPEDITING": ("EX", _PENDING),
    "FAILED": ("F", (Phase.ENDED, Cause.FAILED)),
    "LAUNCH_FAILED": ("LF", _UNKNOWN),
    "NODE_FAIL": ("NF", (Phase.ENDED, Cause.NODE_FAIL)),
    "OUT_OF_MEMORY": ("OOM", (Phase.ENDED, Cause.OUT_OF_MEMORY)),
    "PENDING": ("PD", _PENDING),
    "POWER_UP_NODE": ("PO", _PENDING),
    "PREEMPTED": ("PR", (Phase.ENDED, Cause.PREEMPTED)),
    "RECONFIG_FAIL": ("RC", _UNKNOWN),
    "REQUEUED": ("RQ", _PENDING),
    "REQUEUE_FED": ("RF", _PENDING),
    "REQUEUE_HOLD": ("RH", _PENDING),
    "RESIZING": ("RS", _RUNNING),
    "RESV_DEL_HOLD": ("RD", _PENDING),
    "REVOKED": ("RV", _UNKNOWN),
    "RUNNING": ("R", _RUNNING),
    "SIGNALING": ("SI", _RUNNING),
    "SPECIAL_EXIT": ("SE", _PENDING),
    "STAGE_OUT": ("SO", _ENDING),
    "STOPPED": ("ST", _RUNNING),
    "SUSPENDED": ("S", _RUNNING),
    "TIMEOUT": ("TO", (Phase.ENDED, Cause.TIMEOUT)),
    "UPDATE_DB": ("UD", _ENDING),
}
known_states: dict[str, tuple[Phase, Cause | None]] = {
    word: meaning for long, (short, meaning) in _STATES.items() for word in (long, short)
}

_JOB_ID = re.compile(r"(\d+)(?:_(?:(\d+)|\[([^\]]*)\]))?(?:\+\d+)?")
_SUBMITTED = re.compile(r"(\d+)(?:;\S+)?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


def submitted_id(output: str) -> str | None:
    """The id that `sbatch --parsable` printed, whatever a site's banners say around it."""
    for line in reversed(output.splitlines()):
        if found := _SUBMITTED.fullmatch(line.strip()):
            return found.group(1)
    return None


def what_is(state: str) -> tuple[Phase, Cause | None]:
    """Phase and cause of a state such as RUNNING, CD or "CANCELLED by 1000"."""
    word = state.split(" ", 1)[0].rstrip("+")
    return known_states.get(word, _UNKNOWN)


def queue_format() -> str:
    """squeue's --Format: without sizes nothing is cut, and no field can hold the separators."""
    ends = [FIELD] * (len(QUEUE_FIELDS) - 1) + [RECORD]
    return ",".join(f"{field}:{end}" for field, end in zip(QUEUE_FIELDS, ends, strict=True))


def parse_queue(output: str) -> list[JobStatus]:
    """Every job of squeue's answer."""
    records = (record.lstrip("\n") for record in output.split(RECORD))
    return [_status(*fields) for fields in _rows(records, len(QUEUE_FIELDS))]


def parse_history(output: str) -> list[JobStatus]:
    """Every job of sacct's answer; the second line of a name with a newline is passed over."""
    rows = _rows(output.split("\n"), len(HISTORY_FIELDS))
    no_reason = ("",)
    return [_status(*(*fields[:6], *no_reason, *fields[6:])) for fields in rows]


def _rows(records: Iterable[str], width: int) -> Iterator[list[str]]:
    for record in records:
        fields = record.split(FIELD, width - 1)
        if len(fields) == width and _JOB_ID.fullmatch(fields[0]):
            yield fields


def _status(
    job_id: str,
    state: str,
    code: str,
    submitted: str,
    start: str,
    end: str,
    reason: str,
    node: str,
    name: str,
) -> JobStatus:
    match = _JOB_ID.fullmatch(job_id)
    assert match is not None
    array_id, task, remainder = match.groups()
    phase, cause = what_is(state)
    node = "" if node in ("None assigned", "(null)", "N/A") else node
    # A job that was cancelled while pending has a start time too: the time of its end.
    began = phase is not Phase.PENDING and node != ""
    exit_code, signal = exit_of(code) if phase is Phase.ENDED and began else (None, None)
    if exit_code == 0 and cause is not Cause.COMPLETED:
        # Slurm writes 0:0 for TIMEOUT, NODE_FAIL and CANCELLED: no code was ever seen.
        exit_code = None
    return JobStatus(
        job_id=f"{array_id}_{task}" if task else array_id,
        array_id=array_id,
        task=int(task) if task else None,
        pending_tasks=tasks_of(remainder) if remainder else (),
        name=name,
        phase=phase,
        cause=cause,
        raw_state=state,
        reason="" if reason in ("None", "(null)") else reason,
        node=node,
        submitted=iso_time(submitted),
        started=iso_time(start) if began else None,
        ended=iso_time(end) if phase is Phase.ENDED else None,
        expected_start=iso_time(start) if phase is Phase.PENDING else None,
        ends_by=iso_time(end) if phase in (Phase.RUNNING, Phase.ENDING) else None,
        exit_code=exit_code,
        signal=signal,
    )


def tasks_of(expression: str) -> tuple[int, ...]:
    """The task numbers of an array expression such as "3,5,9-20:2%1"."""
    found: list[int] = []
    for part in expression.split("%", 1)[0].split(","):
        if match := re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part):
            first, last, step = match.groups()
            found += range(int(first), int(last or first) + 1, int(step or 1))
    return tuple(found)


def nodes_of(listed: str) -> list[str]:
    """The names that a list of nodes such as "n[1-3,07],m2" stands for."""
    found: list[str] = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", listed):
        # Every second piece stood in brackets.
        pieces = re.split(r"\[([^\]]*)\]", part)
        choices = [_numbers(each) if n % 2 else [each] for n, each in enumerate(pieces)]
        found += map("".join, itertools.product(*choices))
    return found


def _numbers(ranges: str) -> list[str]:
    """With the zeros that stand before them: "07-10" begins with 07."""
    return [
        f"{number:0{len(first)}}"
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", ranges)
        for number in range(int(first), int(last or first) + 1)
    ]


def exit_of(code: str) -> tuple[int | None, int | None]:
    """Exit code and signal of sacct's "0:15" or squeue's wait status 36608."""
    try:
        if ":" in code:
            exit_code, signal = (int(part) for part in code.split(":", 1))
        else:
            exit_code, signal = int(code) >> 8 & 0xFF, int(code) & 0x7F
    except ValueError:
        return None, None
    if not 0 < signal <= 64:
        # 0:125 is Slurm's own mark of a job that was out of memory, no signal.
        return exit_code, None
    return exit_code or None, signal


def iso_time(text: str) -> str | None:
    """A time that was printed under TZ=UTC; None for N/A, Unknown and the like."""
    return f"{text}Z" if _TIME.fullmatch(text) else None


def parse_config(output: str) -> dict[str, str]:
    """`scontrol show config` as a dictionary."""
    pairs = (line.split("=", 1) for line in output.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def parse_partitions(output: str) -> list[dict[str, str]]:
    """`scontrol show partition --oneliner`, a dictionary a partition."""
    return [
        dict(word.split("=", 1) for word in line.split() if "=" in word)
        for line in output.splitlines()
        if line.startswith("PartitionName=")
    ]


def chosen(partitions: Sequence[Mapping[str, str]], wanted: str | None) -> list[Mapping[str, str]]:
    """Those of which a job may start in any; the default one where it names none."""
    if wanted is None:
        return [each for each in partitions if each.get("Default") == "YES"]
    return [each for each in partitions if each["PartitionName"] in wanted.split(",")]


def longest_s(partitions: Sequence[Mapping[str, str]]) -> int | None:
    """The longest time that one of them allows; None without a limit."""
    limits = [_seconds(each.get("MaxTime", "UNLIMITED")) for each in partitions]
    given = [limit for limit in limits if limit is not None]
    return max(given, default=None) if len(given) == len(limits) else None


def _seconds(text: str) -> int | None:
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


# The spec's names for resources, as `scontrol update` has them.
_UPDATES = {
    "memory": "MinMemoryNode",
    "time": "TimeLimit",
    "nodes": "NumNodes",
    "cpus_per_node": "CPUs/Task",
    "gpus_per_node": "TresPerNode",
    "partition": "Partition",
    "account": "Account",
}


def update_words(changed: Changed) -> list[str]:
    """What `scontrol update` is told of a change."""
    words = []
    for name, value in changed.resources.items():
        if name not in _UPDATES:
            raise HpckitError(f"resources.{name} of a job that waits cannot be changed")
        if name == "time":
            value = math.ceil(value / 60)
        elif name == "gpus_per_node":
            value = f"gres/gpu:{value}"
        words.append(f"{_UPDATES[name]}={value}")
    if changed.exclude:
        words.append(f"ExcNodeList={','.join(changed.exclude)}")
    if changed.wait_s:
        words.append(f"StartTime=now+{round(changed.wait_s)}")
    return words

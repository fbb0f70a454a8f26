"""What every scheduler has to say about jobs, and what can be asked of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Phase(enum.StrEnum):
    """Where a job is; UNKNOWN where the scheduler used a word that we do not know."""

    PENDING = "pending"
    RUNNING = "running"
    ENDING = "ending"
    ENDED = "ended"
    UNKNOWN = "unknown"


class Cause(enum.StrEnum):
    """Why an ended job ended, in words for people."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "time limit"
    NODE_FAIL = "node failed"
    PREEMPTED = "preempted"
    OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStatus:
    """What the scheduler says of a job, a task of an array, or an array's unsplit remainder.

    Times are ISO 8601 in UTC. A remainder has `task` None and lists its `pending_tasks`; when it
    was cancelled before any of them started it is ENDED and lists them still.
    """

    job_id: str
    array_id: str
    task: int | None
    pending_tasks: tuple[int, ...]
    name: str
    phase: Phase
    cause: Cause | None
    raw_state: str
    reason: str
    node: str
    submitted: str | None
    started: str | None
    ended: str | None
    expected_start: str | None
    ends_by: str | None
    exit_code: int | None
    signal: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """What jobs that wait are to ask for instead, by the spec's names."""

    resources: Mapping[str, Any]
    exclude: Sequence[str] = ()
    wait_s: float = 0


class Scheduler(Protocol):
    """The one seam to whatever runs the jobs."""

    kind: str

    def place(self) -> str:
        """Which one it is, without asking it: a configuration's path, or a machine's name."""
        ...

    def submit(self, script: Path) -> str:
        """Hand over a script from its own folder; the job's (or array's) id.

        SubmissionRefused and SchedulerSilent mean that there is no job; SubmissionUnclear that
        nobody knows.
        """
        ...

    def queue(self) -> list[JobStatus]:
        """All of the user's jobs, those that ended lately included."""
        ...

    def history(self, names: Sequence[str], since: str) -> list[JobStatus]:
        """The jobs of these names that were there at or after a time (ISO 8601, UTC)."""
        ...

    def cancel(self, job_ids: Sequence[str], *, pending_only: bool = False) -> None:
        """End jobs, arrays ("123") or tasks ("123_4"); those that have ended are no error."""
        ...

    def update(self, array_id: str, tasks: Sequence[int], changed: Changed) -> None:
        """Change what tasks of an array ask for that have not started; an error where refused."""
        ...

    def nodes(self, partition: str | None) -> list[str]:
        """The nodes of a partition, or of the default one, whatever their state."""
        ...

    def longest_s(self, partition: str | None) -> int | None:
        """The time limit that a job may have in a partition, or in the default one; None: any."""
        ...

    def is_preempted(self, job_id: str) -> bool:
        """Whether a job that still runs has been told to make room."""
        ...

    def max_array_size(self) -> int:
        """One more than the highest index that an array may have."""
        ...

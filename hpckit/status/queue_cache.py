"""What the scheduler last said, shared by all of a user's commands: squeue at most twice a minute.

Ended jobs are asked for at most once in five minutes, and what is known of them stays known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.errors import SchedulerSilent
from hpckit.files import read_json, write_json
from hpckit.scheduler.base import Cause, JobStatus, Phase
from hpckit.settings import cache_folder

if TYPE_CHECKING:
    from hpckit.scheduler.base import Scheduler

QUEUE_S = 30.0
HISTORY_S = 300.0
KEPT_S = 30 * 86_400.0
# Changes with what JobStatus holds.
VERSION = 1


class QueueCache:
    """Asks a scheduler, but not too often."""

    def __init__(self, scheduler: Scheduler, folder: Path | None = None) -> None:
        self.scheduler = scheduler
        self.path = (folder or cache_folder()) / f"queue-{_key(scheduler)}.json"
        self._is_slurm = scheduler.kind == "slurm"

    def queue(self) -> list[JobStatus]:
        """All of the user's jobs, at most half a minute old; SchedulerSilent where unknown."""
        known = self._read()
        if self._is_fresh(known, "queue_time", QUEUE_S) or self._is_asked_now(known):
            if known.get("silent"):
                raise SchedulerSilent(known["silent"])
            return [_status(entry) for entry in known["queue"]]
        # A claim, so that commands that look in the same moment do not all ask.
        self._write({**known, "asking": time.time()})
        try:
            found = self.scheduler.queue()
        except SchedulerSilent as error:
            self._update(queue_time=time.time(), silent=error.message, asking=0.0)
            raise
        queue = [_plain(status) for status in found]
        self._update(queue_time=time.time(), queue=queue, silent=None, asking=0.0)
        return found

    def history(self, names: Sequence[str], since: str) -> tuple[list[JobStatus], dict[str, str]]:
        """What accounting knows of jobs that left the queue; and what it could not be asked."""
        known = self._read()
        kept: dict[str, Any] = known.get("history", {})
        missing = [name for name in names if not self._is_told(kept.get(name))]
        silent = ""
        if missing and self._is_slurm and self._is_fresh(known, "history_time", HISTORY_S):
            silent = "accounting was asked less than five minutes ago"
        elif missing:
            try:
                kept = self._ask_history(kept, missing, since)
            except SchedulerSilent as error:
                silent = error.message
                self._update(history_time=time.time())
        jobs = [_status(job) for name in names for job in kept.get(name, {}).get("jobs", [])]
        return jobs, {name: silent for name in missing if silent and name not in kept}

    def _ask_history(
        self, kept: dict[str, Any], names: Sequence[str], since: str
    ) -> dict[str, Any]:
        now = time.time()
        found: dict[str, Any] = {name: {"time": now, "jobs": []} for name in names}
        for status in self.scheduler.history(names, since):
            found[status.name]["jobs"].append(_plain(status))
        young = {name: entry for name, entry in kept.items() if now - entry["time"] < KEPT_S}
        self._update(history_time=now, history={**young, **found})
        return {**kept, **found}

    def _is_told(self, entry: dict[str, Any] | None) -> bool:
        """Whether an answer holds: for ever if all of it has ended, else for five minutes."""
        if entry is None:
            return False
        ended = bool(entry["jobs"]) and _all_ended(entry["jobs"])
        return ended or (self._is_slurm and 0 <= time.time() - entry["time"] < HISTORY_S)

    def forget(self) -> None:
        """The queue has just been changed by ourselves: what is cached is not true any more."""
        self._update(queue_time=0.0)

    def _is_fresh(self, known: dict[str, Any], key: str, for_s: float) -> bool:
        # A time that is yet to come was written by a clock that is wrong: it means nothing.
        return self._is_slurm and 0 <= time.time() - known.get(key, 0.0) < for_s

    def _is_asked_now(self, known: dict[str, Any]) -> bool:
        """Whether another command is asking, and there is an older answer to do with."""
        has_older = bool(known.get("queue_time")) and "queue" in known
        return has_older and self._is_fresh(known, "asking", 20.0)

    def _read(self) -> dict[str, Any]:
        known = read_json(self.path)
        return known if isinstance(known, dict) and known.get("version") == VERSION else {}

    def _update(self, **changes: Any) -> None:
        self._write({**self._read(), **changes})

    def _write(self, known: dict[str, Any]) -> None:
        # A cache that cannot be written is no reason to fail: the next command asks again.
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {**known, "version": VERSION}, durable=False)


def _key(scheduler: Scheduler) -> str:
    """What tells one cluster's answers from another's, where they share a home."""
    parts = [scheduler.kind, scheduler.place(), os.environ.get("HPCKIT_LOCAL_DIR", "")]
    return hashlib.sha256(":".join(parts).encode()).hexdigest()[:12]


def _all_ended(entries: list[dict[str, Any]]) -> bool:
    return all(entry["phase"] == Phase.ENDED.value for entry in entries)


def _plain(status: JobStatus) -> dict[str, Any]:
    return dataclasses.asdict(status)


def _status(entry: dict[str, Any]) -> JobStatus:
    cause = Cause(entry["cause"]) if entry["cause"] else None
    tasks = tuple(entry["pending_tasks"])
    return JobStatus(
        **{**entry, "phase": Phase(entry["phase"]), "cause": cause, "pending_tasks": tasks}
    )

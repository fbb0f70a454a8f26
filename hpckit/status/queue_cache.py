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


class QueueCache:
    """Asks a scheduler, but not too often."""

    def __init__(self, scheduler: Scheduler, folder: Path | None = None) -> None:
        self.scheduler = scheduler
        where = os.environ.get("SLURM_CONF", "") + os.environ.get("HPCKIT_LOCAL_DIR", "")
        key = hashlib.sha256(f"{scheduler.kind}:{where}".encode()).hexdigest()[:12]
        self.path = (folder or cache_folder()) / f"queue-{key}.json"
        self._queue_s = QUEUE_S if scheduler.kind == "slurm" else 0.0

    def queue(self) -> list[JobStatus]:
        """All of the user's jobs, at most half a minute old; SchedulerSilent where unknown."""
        known = self._read()
        if time.time() - known.get("queue_time", 0.0) < self._queue_s:
            if known.get("silent"):
                raise SchedulerSilent(known["silent"])
            return [_status(entry) for entry in known["queue"]]
        try:
            found = self.scheduler.queue()
        except SchedulerSilent as error:
            self._write({**known, "queue_time": time.time() - QUEUE_S + 5, "silent": error.message})
            raise
        queue = [_plain(status) for status in found]
        self._write({**known, "queue_time": time.time(), "queue": queue, "silent": None})
        return found

    def history(self, names: Sequence[str], since: str) -> list[JobStatus]:
        """What accounting knows of jobs that have left the queue, by their names."""
        known = self._read()
        kept: dict[str, list[Any]] = known.get("history", {})
        missing = sorted(set(names) - set(kept))
        asked_lately = time.time() - known.get("history_time", 0.0) < HISTORY_S
        if missing and not (asked_lately and self._queue_s):
            found = self.scheduler.history(missing, since)
            for status in found:
                kept.setdefault(status.name, []).append(_plain(status))
            ended = {name: kept[name] for name in kept if _all_ended(kept[name])}
            self._write({**known, "history_time": time.time(), "history": ended})
        elif missing:
            raise SchedulerSilent("accounting was asked less than five minutes ago")
        return [_status(entry) for name in names for entry in kept.get(name, [])]

    def forget(self) -> None:
        """The queue has just been changed by ourselves: what is cached is not true any more."""
        known = self._read()
        self._write({**known, "queue_time": 0.0, "history_time": 0.0})

    def _read(self) -> dict[str, Any]:
        known = read_json(self.path)
        return known if isinstance(known, dict) else {}

    def _write(self, known: dict[str, Any]) -> None:
        # A cache that cannot be written is no reason to fail: the next command asks again.
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, known, durable=False)


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

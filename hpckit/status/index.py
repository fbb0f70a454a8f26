"""All runs under a root; those that ended are remembered, so that thousands list at once.

The cache can be lost at any time. A run that has ended is written to again only by a new process,
whose new file in the ledger's folder changes that folder's time: so one look tells whether what
is remembered still holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.files import read_json, write_atomic
from hpckit.ledger import FINAL_STATES
from hpckit.run import Run, open_run, run_folders
from hpckit.settings import cache_folder

if TYPE_CHECKING:
    from hpckit.status.queue_cache import QueueCache

VERSION = 1
Row = dict[str, Any]


class Index:
    """The runs of one root."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        key = hashlib.sha256(str(self.root).encode()).hexdigest()[:12]
        self.path = cache_folder() / f"index-{key}.json"

    def rows(self, cache: CacheOf) -> list[Row]:
        """Every run's line, the oldest first; sweeps are one line each."""
        known = self._read()
        kept: dict[str, Any] = {}
        rows: list[Row] = []
        open_: list[Run] = []
        stamps: dict[str, int] = {}
        for folder in run_folders(self.root):
            key = str(folder)
            stamp = _stamp(folder)
            entry = known.get(key)
            if entry is not None and entry[0] == stamp:
                kept[key] = entry
                rows.append(entry[1])
            elif (run := open_run(folder)) is not None:
                stamps[run.id] = stamp
                open_.append(run)
        for fresh in self._fresh(open_, cache):
            # What was only gathered from others' words may be told otherwise tomorrow.
            is_own_word = fresh.pop("is_own_word")
            rows.append(fresh)
            if fresh["state"] in FINAL_STATES and is_own_word:
                kept[fresh["dir"]] = [stamps[fresh["run"]], fresh]
        if kept != known:
            self._write(kept)
        return sorted(rows, key=lambda item: str(item["created"]))

    def _fresh(self, runs: list[Run], cache: CacheOf) -> Iterable[Row]:
        """The lines of runs that are not remembered; each scheduler is asked once."""
        if not runs:
            return
        # Where all is remembered, none of this is needed.
        from hpckit.status.state import states_of
        from hpckit.status.view import row, sweep_row

        kinds = {run.scheduler for run in runs}
        for kind in sorted(kinds):
            mine = [run for run in runs if run.scheduler == kind]
            points = {run.id: run.point_runs() for run in mine if run.is_sweep}
            flat = [point for run in mine for point in points.get(run.id, [run])]
            told = {
                facts.run.id: {**row(facts, state), "is_own_word": facts.final is not None}
                for facts, state in states_of(flat, cache(kind))
            }
            for run in mine:
                if run.is_sweep:
                    rows = [told[point.id] for point in points[run.id]]
                    is_own_word = all(each.pop("is_own_word") for each in rows)
                    yield {**sweep_row(run, rows), "is_own_word": is_own_word}
                else:
                    yield told[run.id]

    def _read(self) -> dict[str, Any]:
        found = read_json(self.path)
        if not isinstance(found, dict) or found.get("version") != VERSION:
            return {}
        runs = found["runs"]
        return runs if isinstance(runs, dict) else {}

    def _write(self, kept: dict[str, Any]) -> None:
        # A cache that cannot be written is no reason to fail: the next command reads the runs.
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"version": VERSION, "runs": kept}, separators=(",", ":"))
            write_atomic(self.path, text, durable=False)


class CacheOf:
    """A scheduler's cached answers by its kind, None where it is not to be had here."""

    def __call__(self, kind: str) -> QueueCache | None:
        from hpckit.errors import HpckitError
        from hpckit.scheduler import choose
        from hpckit.status.queue_cache import QueueCache

        try:
            return QueueCache(choose(kind))
        except HpckitError:
            return None


def _stamp(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return os.stat(f"{folder}/ledger").st_mtime_ns
    return 0

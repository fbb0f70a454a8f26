"""What may be deleted under a root, and what is kept, with the reason for each."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpckit.clock import seconds_of
from hpckit.ledger import FINAL_STATES
from hpckit.run import IDENTITY, run_folders

TRASH = ".deleted-"
# A submission that is still being written has no identity yet; an hour is long enough for any.
LEFTOVER_S = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a person is willing to lose."""

    older_s: float
    keep: int
    max_mb: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One folder: whether it may go, and why or why not."""

    dir: str
    run: str
    state: str
    mb: float
    goes: bool
    why: str


def decide(rows: Sequence[dict[str, Any]], rules: Rules, now: float) -> list[Verdict]:
    """The verdict on each run; `rows` come oldest first and carry their size as `mb`."""
    newest = _newest(rows, rules.keep)
    verdicts = [_by_age(row, newest, rules, now) for row in rows]
    if rules.max_mb is None:
        return verdicts
    excess = sum(v.mb for v in verdicts if not v.goes) - rules.max_mb
    for index, verdict in enumerate(verdicts):
        if excess > 0 and not verdict.goes and verdict.state in FINAL_STATES:
            verdicts[index] = _verdict(rows[index], True, "over the quota, and the oldest")
            excess -= verdict.mb
    return verdicts


def _newest(rows: Sequence[dict[str, Any]], keep: int) -> set[str]:
    """The folders of the newest so many runs of each name."""
    by_name: dict[str, list[str]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row["dir"])
    return {folder for folders in by_name.values() for folder in folders[-keep or len(folders) :]}


def _by_age(row: dict[str, Any], newest: set[str], rules: Rules, now: float) -> Verdict:
    if row["state"] not in FINAL_STATES:
        return _verdict(row, False, f"it is {row['state']}")
    if row["dir"] in newest:
        return _verdict(row, False, f"one of the newest {rules.keep} of {row['name']}")
    age_s = now - seconds_of(row["ended"] or row["created"])
    if age_s < rules.older_s:
        return _verdict(row, False, "it ended lately")
    return _verdict(row, True, f"it ended {age_s / 86400:.0f} days ago")


def _verdict(row: dict[str, Any], goes: bool, why: str) -> Verdict:
    return Verdict(
        dir=row["dir"], run=row["run"], state=row["state"], mb=row["mb"], goes=goes, why=why
    )


def leftovers(root: Path, now: float | None = None) -> list[Verdict]:
    """What cut-off submissions and deletions left behind."""
    now = time.time() if now is None else now
    found = []
    for folder in run_folders(root):
        is_old = now - folder.stat().st_mtime > LEFTOVER_S
        if not (folder / IDENTITY).exists() and is_old and _looks_like_ours(folder):
            found.append(_leftover(folder, "a submission that was cut off"))
    for folder in root.glob(f"*/{TRASH}*"):
        found.append(_leftover(folder, "a deletion that was cut off"))
    return found


def _looks_like_ours(folder: Path) -> bool:
    """An id as we make them, holding nothing but what we write before the identity."""
    ours = {"code", "code.json", "spec.yaml", "spec.json", "chains", "sweep.json"}
    names = {name for name in os.listdir(folder) if not name.startswith(".")}
    has_id = len(folder.name) >= 8 and folder.name[:4].isdigit() and folder.name[4] == "-"
    return has_id and all(name in ours or name.isdigit() for name in names)


def _leftover(folder: Path, why: str) -> Verdict:
    run = f"{folder.parent.name}/{folder.name}"
    return Verdict(
        dir=str(folder), run=run, state="leftover", mb=size_mb(folder), goes=True, why=why
    )


def delete(verdict: Verdict) -> None:
    """Out of sight in one step, then gone: a deletion that is cut off leaves no half run."""
    folder = Path(verdict.dir)
    trash = folder
    if not folder.name.startswith(TRASH):
        trash = folder.with_name(f"{TRASH}{folder.name}")
        try:
            folder.rename(trash)
        except FileNotFoundError:
            # Another prune was faster.
            return
    shutil.rmtree(trash)


def size_mb(folder: Path) -> float:
    """What a folder takes on disk; links are not followed."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_blocks * 512
            except OSError:
                continue
    return total / 1e6

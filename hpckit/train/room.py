"""How much of a machine's memory may hold snapshots."""

from __future__ import annotations

import os
from pathlib import Path

# A share of the memory that is free; the rest belongs to the training.
SHARE = 0.25
MOST = 12


def how_many_fit(size: int, processes: int, held: int = 0) -> int:
    """How many snapshots of so many bytes each process of this machine may keep.

    `held`: bytes that each has for them already.
    """
    free = min(_available(), _left_in_group()) + held * processes
    return max(0, min(MOST, int(free * SHARE / max(processes, 1) / max(size, 1))))


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _left_in_group() -> int:
    """What the job's own limit leaves, where it has one."""
    left = 1 << 62
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        root = Path("/sys/fs/cgroup")
        group = _own_group() if "/" not in most else ""
        try:
            limit = (root / group / most).read_text().strip()
            if limit.isdigit():
                left = min(left, int(limit) - int((root / group / used).read_text()))
        except (OSError, ValueError):
            continue
    return max(left, 0)


def _own_group() -> str:
    try:
        for line in Path(f"/proc/{os.getpid()}/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return line[3:].strip().lstrip("/")
    except OSError:
        pass
    return ""

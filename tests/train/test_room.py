"""How many snapshots a machine's memory may hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpckit.train import room
from hpckit.train.room import how_many_fit

GB = 1 << 30


@pytest.mark.parametrize(
    ("size", "processes", "expected"),
    [(GB, 1, 12), (4 * GB, 1, 4), (4 * GB, 2, 2), (64 * GB, 1, 0), (0, 1, 12)],
)
def test_a_share_of_the_free_memory_is_used(
    monkeypatch: pytest.MonkeyPatch, size: int, processes: int, expected: int
) -> None:
    monkeypatch.setattr(room, "_available", lambda: 64 * GB)
    monkeypatch.setattr(room, "_left_in_group", lambda: 1 << 62)
    assert how_many_fit(size, processes) == expected


def test_what_is_held_already_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_available", lambda: 40 * GB)
    monkeypatch.setattr(room, "_left_in_group", lambda: 1 << 62)
    assert how_many_fit(4 * GB, 2) == 1
    assert how_many_fit(4 * GB, 2, held=12 * GB) == 2


def test_a_jobs_own_limit_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_available", lambda: 640 * GB)
    monkeypatch.setattr(room, "_left_in_group", lambda: 8 * GB)
    assert how_many_fit(GB, 1) == 2


def test_this_machine_has_some_memory() -> None:
    assert room._available() > 0
    assert room._left_in_group() > 0
    assert Path("/proc/meminfo").exists()

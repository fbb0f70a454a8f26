"""What an older segment wrote counts up to where the next one took up, and no further."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hpckit.checkpoint.lineage import Start, believed, counts, starts
from hpckit.checkpoint.names import Segment
from hpckit.ledger import Event

A1 = Segment(1, 1)
A1_AFTER = Segment(1, 1, 1)
A2 = Segment(2, 1)


def event(kind: str, **data: Any) -> Event:
    return Event(time="2026-07-20T02:14:05Z", writer="attempt-001-launch-1", kind=kind, data=data)


def test_the_ledger_tells_where_segments_took_up() -> None:
    events = [
        event("resumed", attempt=1, launch=1, rollbacks=0, step=0, checkpoint=None, why="new"),
        event("incident", attempt=1, incident={}),
        event("rollback", attempt=1, launch=1, rollbacks=1, step=500, from_step=730),
        event("resumed", attempt=2, launch=1, step=900),
    ]
    assert starts(events) == [Start(A1, 0), Start(A1_AFTER, 500), Start(A2, 900)]


@pytest.mark.parametrize("missing", ["attempt", "launch", "step"])
def test_an_event_that_makes_no_sense_is_passed_over(missing: str) -> None:
    data = {"attempt": 1, "launch": 1, "rollbacks": 0, "step": 0}
    assert starts([event("resumed", **{**data, missing: None})]) == []
    del data[missing]
    assert starts([event("resumed", **data)]) == []


@pytest.mark.parametrize(
    ("step", "segment", "expected"),
    [
        (400, A1, True),
        (500, A1, True),
        (501, A1, False),
        (900, A1, False),
        (501, A1_AFTER, True),
        (800, A1_AFTER, True),
        (801, A1_AFTER, False),
        (10_000, A2, True),
    ],
)
def test_it_counts_where_no_later_segment_took_up_before(
    step: int, segment: Segment, expected: bool
) -> None:
    begun = [Start(A1, 0), Start(A1_AFTER, 500), Start(A2, 800)]
    assert counts(step, segment, begun) is expected
    assert counts(step, segment, reversed(begun)) is expected


def test_without_a_word_in_the_ledger_all_count() -> None:
    assert counts(5, A1, [])


def at(second: int, kind: str, attempt: int) -> Event:
    """Its step is the second."""
    told = event(kind, attempt=attempt, launch=1, step=second)
    return dataclasses.replace(told, time=f"2026-07-20T02:14:{second:02d}Z")


def seconds(events: list[Event]) -> list[int]:
    return [each.data["step"] for each in events]


@pytest.mark.parametrize("kind", ["incident", "rollback", "stopped", "resumed"])
def test_what_an_attempt_writes_when_a_later_one_has_begun_is_not_believed(kind: str) -> None:
    events = [at(1, "resumed", 1), at(2, kind, 1), at(3, "resumed", 2), at(4, kind, 1)]
    assert seconds(believed(events)) == [1, 2, 3]
    # As little when the later one has taken up again since, or has not said anything else.
    assert seconds(believed([*events, at(5, "resumed", 2), at(6, kind, 2)])) == [1, 2, 3, 5, 6]


def test_attempts_come_in_their_order_though_their_clocks_differ() -> None:
    events = [at(1, "resumed", 2), at(1, "incident", 1), at(2, "rollback", 2)]
    assert [(e.data["attempt"], e.kind) for e in believed(events)] == [
        (1, "incident"), (2, "resumed"), (2, "rollback"),
    ]  # fmt: skip


def test_a_restart_counts_though_the_next_attempts_clock_is_behind() -> None:
    events = [at(1, "resumed", 1), at(5, "restart", 1), at(3, "resumed", 2)]
    assert [each.kind for each in believed(events)] == ["resumed", "restart", "resumed"]


def test_only_what_trainings_write_is_their_word() -> None:
    assert believed([at(1, "attempt", 1), at(2, "finished", 1), event("incident")]) == []

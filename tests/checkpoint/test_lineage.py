"""What an older segment wrote counts up to where the next one took up, and no further."""

from __future__ import annotations

from typing import Any

import pytest

from hpckit.checkpoint.lineage import Start, counts, starts
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

"""A change makes a new value of an old one, within bounds."""

from __future__ import annotations

from typing import Any

import pytest

from hpckit.errors import UsageError
from hpckit.heal.changes import apply, set_path, told, written
from hpckit.spec import Change

HALF = Change(times=0.5)
APPLIED = [
    (HALF, 1.0, 0.5),
    (HALF, 32, 16),
    (HALF, 33, 16.5),
    # Never 0: what is written as 1 is not always a count.
    (HALF, 1, 0.5),
    (HALF, -2.0, -1.0),
    (HALF, None, None),
    (Change(to=0.1), 3.0, 0.1),
    (Change(to=0.1), None, 0.1),
    (Change(to="small"), 3.0, "small"),
    (Change(to=5.0, max=3.0), 100.0, 3.0),
    (Change(times=0.5, min=0.3), 1.0, 0.5),
    (Change(times=0.5, min=0.3), 0.5, 0.3),
    (Change(times=0.5, min=0.3), 0.3, 0.3),
    # It was below before: a change that makes it smaller must not make it larger.
    (Change(times=0.5, min=0.3), 0.2, 0.2),
    (Change(times=2.0, max=3.0), 1.0, 2.0),
    (Change(times=2.0, max=3.0), 2.0, 3.0),
    (Change(times=2.0, max=3.0), 4.0, 4.0),
    (Change(times=1.5, max=48), 40, 48),
]


@pytest.mark.parametrize(("change", "old", "new"), APPLIED)
def test_a_change_is_carried_out_within_its_bounds(change: Change, old: Any, new: Any) -> None:
    found = apply(change, old)
    assert (found, type(found)) == (new, type(new))


@pytest.mark.parametrize("value", ["small", True, [1]])
def test_what_is_no_number_is_not_multiplied(value: Any) -> None:
    with pytest.raises(UsageError, match=r"cannot be multiplied by 0\.5: it is not a number"):
        apply(HALF, value)


def test_a_parameter_is_changed_where_it_stands() -> None:
    params = {"lr": 2e-4, "loss": {"correlation": 0.5, "kind": "mel"}}
    assert set_path(params, "loss.correlation", Change(times=0.2)) == (0.5, 0.1)
    assert set_path(params, "loss.kind", Change(to="stft")) == ("mel", "stft")
    assert set_path(params, "lr", HALF) == (2e-4, 1e-4)
    assert params == {"lr": 1e-4, "loss": {"correlation": 0.1, "kind": "stft"}}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("loss.corelation", "there is no such parameter; did you mean 'loss.correlation'?"),
        ("loss.correlation.a", "there is no such parameter; did you mean 'loss.correlation'?"),
        ("lrr", "there is no such parameter; did you mean 'lr'?"),
        ("lr.a.b", "there is no such parameter"),
        ("loss.kind", "params.loss.kind: 'mel' cannot be multiplied by 0.5: it is not a number"),
        ("loss", "it is not a number"),
    ],
)
def test_a_parameter_that_cannot_be_changed_is_named_and_stays(path: str, message: str) -> None:
    params = {"lr": 2e-4, "loss": {"correlation": 0.5, "kind": "mel"}}
    with pytest.raises(UsageError) as error:
        set_path(params, path, HALF)
    assert f"params.{path}: " in str(error.value)
    assert message in str(error.value)
    assert params == {"lr": 2e-4, "loss": {"correlation": 0.5, "kind": "mel"}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (HALF, "x0.5"),
        (Change(to=0.1), "=0.1"),
        (Change(times=0.5, min=0.05), "x0.5 (not below 0.05)"),
        (Change(times=2.0, min=1, max=3), "x2 (not below 1 and not above 3)"),
    ],
)
def test_a_change_reads_as_it_is_written(change: Change, words: str) -> None:
    assert written(change) == words


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [(1.0, 0.5, "lr 1 -> 0.5"), (2e-4, 1e-4, "lr 0.0002 -> 0.0001"), (None, 0.5, "lr none -> 0.5")],
)
def test_what_was_carried_out_is_told_with_both_values(old: Any, new: Any, words: str) -> None:
    assert told("lr", old, new) == words

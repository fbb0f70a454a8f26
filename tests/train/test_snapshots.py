"""State in memory: copies that no later step touches, and which of them are kept."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from hpckit.train import snapshots
from hpckit.train.snapshots import Ring, Snapshot, Taker, all_bad, first_bad


def taken(taker: Taker, step: int = 0, **state: Any) -> Snapshot:
    return taker.take(step, state, {"own": torch.ones(1)})


def test_a_snapshot_is_no_view_of_what_it_was_taken_of() -> None:
    live = torch.zeros(3)
    found = taken(Taker(), a=live, deep=[{"b": (live[1:],)}])
    live += 1
    assert found.state["a"].tolist() == [0, 0, 0]
    assert found.state["deep"][0]["b"][0].tolist() == [0, 0]


def test_tied_weights_are_copied_once_and_a_part_of_one_is_not_the_whole() -> None:
    live = torch.arange(4.0)
    found = taken(Taker(), one=live, two=live, part=live[:2])
    assert found.state["one"] is found.state["two"]
    assert found.state["part"].tolist() == [0, 1]
    # With `own`: three.
    assert len(found.buffers) == 3
    square = torch.arange(4.0).reshape(2, 2)
    found = taken(Taker(), one=square, turned=square.T)
    assert found.state["turned"].tolist() == [[0, 2], [1, 3]]


def test_empty_sparse_and_odd_tensors_are_copied() -> None:
    sparse = torch.eye(3).to_sparse()
    odd = {
        "empty": torch.zeros(0, 3), "sparse": sparse, "wide": torch.ones(1).expand(4),
        "turned": torch.arange(6.0).reshape(2, 3).T, "scalar": torch.tensor(5),
        "half": torch.ones(2, dtype=torch.bfloat16), "flag": torch.tensor([True]),
        "weight": nn.Parameter(torch.ones(2)), "empty too": torch.zeros(3, 0),
    }  # fmt: skip
    found = taken(Taker(), **odd).state
    for name, live in odd.items():
        wanted = live.to_dense() if live.is_sparse else live
        assert torch.equal(found[name], wanted), name
        assert not found[name].requires_grad


def test_memory_is_used_again_when_nobody_reads_it_any_more() -> None:
    taker = Taker()
    first = taken(taker, 1, a=torch.ones(3))
    taker.hold(first)
    taker.drop(first)
    # The writer still reads it.
    second = taken(taker, 2, a=torch.zeros(3))
    assert first.state["a"].tolist() == [1, 1, 1]
    taker.drop(first)
    third = taken(taker, 3, a=torch.full((3,), 7.0))
    assert third.state["a"].data_ptr() == first.state["a"].data_ptr()
    assert second.state["a"].tolist() == [0, 0, 0]


def test_memory_of_another_shape_is_not_used() -> None:
    taker = Taker()
    first = taken(taker, 1, a=torch.ones(3))
    taker.drop(first)
    assert taken(taker, 2, a=torch.ones(4)).state["a"].tolist() == [1] * 4


def test_memory_that_is_made_ahead_is_used_and_that_of_before_is_not() -> None:
    taker = Taker()
    before = taken(taker, 1, a=torch.ones(3))
    taker.buffers.prepare([torch.ones(3), torch.ones(2), torch.ones(1)], 1)
    [each.join() for each in threading.enumerate() if each.name == "snapshot memory"]
    taker.drop(before)
    (made,) = taker.buffers._free
    later = taken(taker, 2, a=torch.ones(3), b=torch.full((2,), 5.0))
    assert later.state["b"].data_ptr() == made[1].data_ptr()
    assert later.state["b"].tolist() == [5, 5]
    assert taker.buffers._free == []


# What is not finite.


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_found_and_named(value: float) -> None:
    tensors = {"good": torch.ones(2), "bad": torch.tensor([1.0, value, 2.0])}
    assert first_bad(tensors) == "bad"
    assert first_bad(tensors, {"bad"}) is None
    assert all_bad(tensors) == {"bad"}


def test_a_sum_that_overflows_is_no_bad_value_and_two_infinities_are() -> None:
    assert first_bad({"large": torch.full((9,), 3e38)}) is None
    assert first_bad({"both": torch.tensor([float("inf"), -float("inf")])}) == "both"
    assert first_bad({"half": torch.full((9,), 60000.0, dtype=torch.float16)}) is None


def test_whole_numbers_and_nothing_are_finite() -> None:
    assert first_bad({"n": torch.tensor([1 << 62] * 4), "none": torch.zeros(0)}) is None
    assert first_bad({"c": torch.tensor([complex(1, float("nan"))])}) == "c"


# The ring.


def ring(capacity: int, *steps: tuple[int, bool | None]) -> Ring:
    taker = Taker()
    found = Ring(taker, capacity)
    for step, good in steps:
        snapshot = taken(taker, step, a=torch.full((2,), float(step)))
        snapshot.good = good
        found.add(snapshot)
    return found


def steps(found: Ring) -> list[int]:
    return [each.step for each in found.all]


def test_the_newest_good_one_is_never_given_up() -> None:
    found = ring(3, (0, True), (10, None), (20, None), (30, None), (40, None))
    assert steps(found) == [0, 10, 20]


def test_of_two_good_ones_the_older_goes() -> None:
    found = ring(3, (0, True), (10, True), (20, None), (30, None))
    assert steps(found) == [10, 20, 30]


def test_the_older_the_farther_apart_and_what_is_very_old_goes() -> None:
    found = ring(11)
    # As it goes on and on: of each the hundred steps after it are waited for.
    for step in range(0, 5001, 25):
        for each in found.all:
            each.good = True if each.step <= step - 100 else None
        found.add(taken(found.taker, step, a=torch.ones(1)))
        ages = [step - each for each in steps(found)]
        if step < snapshots.HORIZON:
            continue
        assert ages[-5:] == [100, 75, 50, 25, 0]
        assert snapshots.HORIZON / 2 <= ages[0] <= snapshots.HORIZON
        gaps = [old - young for old, young in pairwise(ages)]
        assert gaps == sorted(gaps, reverse=True)
        # One is there at most twice as old as had to be.
        assert all(old <= 2 * young for old, young in pairwise(ages[:-4]))


def test_the_good_ones_between_two_steps_newest_first() -> None:
    found = ring(9, (0, True), (10, True), (20, False), (30, True), (40, None))
    cases: list[tuple[int | None, int, list[int]]] = [
        (None, 0, [30, 10, 0]),
        (30, 0, [30, 10, 0]),
        (29, 1, [10]),
        (9, 1, []),
    ]
    for before, least, expected in cases:
        assert [each.step for each in found.good(before, least)] == expected


def test_of_one_step_the_newer_takes_the_place_and_stays_good() -> None:
    found = ring(9, (0, True), (10, True), (10, None), (20, None))
    assert [(each.step, each.good) for each in found.all] == [(0, True), (10, True), (20, None)]
    assert [(each.step, each.good) for each in ring(9, (10, None), (10, True)).all] == [(10, True)]


def test_one_that_is_known_to_be_bad_goes_before_one_that_may_become_good() -> None:
    found = ring(3, (0, True), (10, False), (20, None), (30, None))
    assert steps(found) == [0, 20, 30]


def test_what_was_taken_after_a_step_goes_with_its_branch() -> None:
    found = ring(9, (0, True), (10, True), (20, None))
    found.drop_after(10)
    assert steps(found) == [0, 10]
    found.drop_all()
    assert steps(found) == []

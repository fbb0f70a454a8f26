"""A program that is watched is left as it is: its memory, its errors, its processes."""

from __future__ import annotations

import copy
import gc
import os
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.integrations.watching import Told, Watching, at, batch, train
from tests.train.conftest import assert_same, everything, small_model


def test_one_model_after_the_other_leaves_its_memory(watching: Watching) -> None:
    watching.begin()
    gone = []
    gc.collect()
    gc.disable()
    try:
        for number in range(3):
            model = small_model()
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
            train(model, optimizer, 70, factor=lambda _, number=number: 1e4**number)
            gone += [weakref.ref(model), weakref.ref(optimizer)]
            del model, optimizer
            # Not even the garbage collector is needed for it.
            assert [each() for each in gone] == [None] * len(gone)
    finally:
        gc.enable()
    # What was usual for one says nothing of the next.
    assert watching.values("grad/gated/main") == [0.0] * 210


def test_who_makes_optimizers_by_the_thousand_is_let_be_after_some(
    watching: Watching, told: Told
) -> None:
    attached = watching.begin()
    model = small_model()
    for _ in range(20):
        train(model, torch.optim.SGD(model.parameters(), lr=0.01), 1)
    assert len(watching.readings()) == 16
    assert sum("more than 16 optimizers" in each for each in told()) == 1
    assert attached.meeting.met == 20


def test_what_goes_wrong_in_watching_is_told_once_and_changes_nothing(
    watching: Watching, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = small_model()
    begun = copy.deepcopy(alone.state_dict())
    by_itself = torch.optim.AdamW(alone.parameters(), lr=0.01)
    train(alone, by_itself, 10)
    watching.begin()
    watched = small_model()
    watched.load_state_dict(begun)
    seen = torch.optim.AdamW(watched.parameters(), lr=0.01)

    def broken(*_: Any) -> None:
        raise RuntimeError("no room")

    train(watched, seen, 5)
    monkeypatch.setattr("hpckit.integrations.attached.turn.Turn._done", broken)
    for step in range(5, 10):
        seen.zero_grad()
        watched(batch(step)).square().mean().backward()
        seen.step()
    assert_same(everything(watched, seen), everything(alone, by_itself))
    assert told()[1:] == [
        "attach: optimizers are not watched any more: RuntimeError: no room; the program goes on"
    ]
    assert len(watching.readings()) == 5


def test_what_is_left_at_an_exit_is_written_before_the_writers_end(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[Any] = []
    monkeypatch.setattr("atexit.register", lambda function: registered.append(function))
    watching.begin()
    model = small_model()
    train(model, torch.optim.SGD(model.parameters(), lr=0.01), 1)
    # The last to be registered is the first to be called.
    names = [each.__name__ for each in registered]
    assert (names[-1], names.count("close")) == ("_finish", 2)


def test_what_is_compiled_is_compiled_without_us(
    watching: Watching, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    watching.begin()
    model = small_model()
    train(model, torch.optim.SGD(model.parameters(), lr=0.01), 3)
    assert watching.readings() == []
    (said,) = told()
    assert "no optimizer was seen to step in this process" in said


def test_a_process_that_was_forked_is_none_of_ours(watching: Watching) -> None:
    watching.begin()
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    child = os.fork()
    if child == 0:
        train(model, optimizer, 1, factor=at(0))
        # Nobody held it back there, and nobody says so.
        os._exit(0 if not torch.isfinite(model[0].weight).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(watching.readings()) == 2


def test_whoever_pickles_models_and_optimizers_pickles_nothing_of_us(watching: Watching) -> None:
    import pickle
    import pickletools

    watching.begin()
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    for thing in (model, optimizer):
        words = [str(word) for _, word, _ in pickletools.genops(pickle.dumps(thing))]
        assert not [word for word in words if "hpckit" in word]
    assert "_hpckit_seat" not in vars(copy.deepcopy(optimizer))


def test_a_program_that_calls_hpckit_itself_is_let_be(
    watching: Watching, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpckit.integrations.attached.meeting.ITS_OWN", "torch")
    watching.begin()
    model = small_model()
    train(model, torch.optim.SGD(model.parameters(), lr=0.01), 2)
    assert told() == ["attach: the program calls hpckit by itself: nothing is attached"]


def test_ranks_that_see_less_than_the_whole_are_let_be(
    watching: Watching, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As DDP's they would be seen: tests/train/test_attached.py."""
    for started, world, why in (
        (2, 2, "several ranks train, and its parameters are not in DistributedDataParallel"),
        (1, 2, "1 ranks were started, and 2 train together"),
        (2, 1, "2 ranks were started, and 1 train together"),
    ):
        attached = watching.begin()
        attached.meeting.ranks.started = started
        there = SimpleNamespace(
            is_available=lambda: True,
            is_initialized=lambda: True,
            get_world_size=lambda world=world: world,
        )
        monkeypatch.setattr("hpckit.integrations.attached.found.distributed", there)
        model = small_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        train(model, optimizer, 2)
        train(model, optimizer, 1, factor=at(0))
        assert not torch.isfinite(model[0].weight).all()
        assert told() == [f"attach: SGD is let be: {why}"]
    assert watching.readings() == []

"""An epoch that is gone on with gives the very batches that the uninterrupted one gives."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from hpckit.train import random_states
from hpckit.train.feed import Feed
from hpckit.train.feed import order as orders
from tests.train.conftest import assert_same
from tests.train.feed_loaders import (
    ITEMS,
    MAPS,
    OTHERS,
    Augmented,
    BatchByBatch,
    OwnGenerator,
    Stream,
    WithItsOwn,
    assert_continues,
    loaded,
    saved,
    seed_all,
    with_one_generator,
)


@pytest.mark.parametrize("name", MAPS)
def test_a_map_style_loader_goes_on_after_every_batch(name: str) -> None:
    assert_continues(MAPS[name])


@pytest.mark.parametrize("name", ["stream", "stream without batches", "list"])
def test_any_iterable_goes_on_after_every_batch(name: str) -> None:
    assert_continues(OTHERS[name])


def test_generators_that_a_dataset_owns_go_on() -> None:
    assert_continues(lambda: DataLoader(OwnGenerator(), batch_size=4, shuffle=True))


def test_a_dataset_may_own_what_has_no_state() -> None:
    dataset = OwnGenerator()
    dataset.random = random.SystemRandom()
    feed = Feed(DataLoader(dataset, batch_size=4))
    next(feed.epoch(0))
    assert list(feed.state_dict()["generators"]) == ["loader.dataset.rng", "loader.dataset.old"]


def test_a_generator_that_loader_and_training_share_goes_on() -> None:
    def train(stop: int) -> tuple[list[Any], bytes]:
        loader = with_one_generator()
        feed = Feed(loader)
        seen = []
        for batch in feed.epoch(0):
            seen += [batch, torch.rand((), generator=loader.generator)]
            if feed.taken == stop:
                break
        return seen, saved(feed.state_dict(), random_states.capture())

    seed_all()
    whole, _ = train(100)
    seed_all()
    first, states = train(3)
    state, numbers = loaded(states)
    loader = with_one_generator()
    rest = []
    batches = Feed(loader).epoch(0, start=3, begun=state)
    random_states.restore(numbers)
    for batch in batches:
        rest += [batch, torch.rand((), generator=loader.generator)]
    assert_same(first + rest, whole)


@pytest.mark.parametrize(
    ("dataset", "sampler", "workers", "at"),
    [
        (Augmented, BatchByBatch, 0, None),
        (OwnGenerator, BatchByBatch, 0, None),
        (Augmented, WithItsOwn, 2, {2, 3, 9, 16, 25, 38}),
    ],
)
def test_a_sampler_that_draws_for_every_batch_goes_on(
    monkeypatch: pytest.MonkeyPatch, dataset: Any, sampler: Any, workers: int, at: set[int] | None
) -> None:
    # Small parts: most of the order is made while the training draws, and workers are ahead.
    monkeypatch.setattr(orders, "PART", 3)
    monkeypatch.setattr(BatchByBatch, "batches", 20)
    assert_continues(
        lambda: DataLoader(dataset(), batch_sampler=sampler(), num_workers=workers), at
    )


def test_only_what_the_epoch_began_with_is_enough_for_the_order() -> None:
    loader = MAPS["shuffled"]()
    seed_all()
    feed = Feed(loader)
    whole = [batch[:, 0] for batch in feed.epoch(0)]
    assert_same([b[:, 0] for b in feed.epoch(0, start=2, begun=feed.begun)], whole[2:])


def test_going_on_leaves_the_global_random_states_alone() -> None:
    for make in (MAPS["shuffled"], OTHERS["stream"]):
        feed = Feed(make())
        list(feed.epoch(0))
        before = random_states.capture()
        feed.epoch(0, start=2, begun=feed.begun)
        assert_same(random_states.capture(), before)


def test_going_back_in_the_same_process_gives_the_same_batches() -> None:
    for make in (*MAPS.values(), OTHERS["stream"]):
        seed_all()
        feed = Feed(make())
        batches = feed.epoch(0)
        next(batches), next(batches)
        states = feed.state_dict(), random_states.capture()
        first = [next(batches), *batches, *feed.epoch(1)]
        again = feed.epoch(0, start=2, begun=states[0])
        random_states.restore(states[1])
        assert_same([*again, *feed.epoch(1)], first)


class Stateful:
    """A loader that tells where it stands, and can be put there."""

    def __init__(self) -> None:
        self.position = 0
        self.rounds = 0

    def __iter__(self) -> Iterator[int]:
        while self.position < 8:
            self.position += 1
            yield 100 * self.rounds + self.position
        self.position, self.rounds = 0, self.rounds + 1

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position, "rounds": self.rounds}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position, self.rounds = state["position"], state["rounds"]


def test_a_loader_with_a_state_goes_on_by_it() -> None:
    assert_continues(Stateful)


def test_a_loader_with_a_state_fetches_nothing_twice() -> None:
    feed = Feed(Stateful())
    batches = feed.epoch(0)
    assert [next(batches) for _ in range(3)] == [1, 2, 3]
    state = feed.state_dict()
    loader = Stateful()
    Feed(loader).epoch(0, start=3, begun=state)
    assert loader.position == 3


def test_a_loader_with_a_state_goes_back_to_where_the_epoch_began() -> None:
    feed = Feed(Stateful())
    batches = feed.epoch(0)
    assert [next(batches) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert list(feed.epoch(0, start=2, begun=feed.begun)) == [3, 4, 5, 6, 7, 8]


def test_a_subclass_that_iterates_in_its_own_way_is_iterated_in_its_own_way() -> None:
    class Doubled(DataLoader[Tensor]):
        def __iter__(self) -> Any:
            return (2 * batch for batch in super().__iter__())

    def make() -> DataLoader[Tensor]:
        return Doubled(Augmented(), batch_size=4)

    seed_all()
    expected = list(make())
    seed_all()
    assert_same(list(Feed(make()).epoch(0)), expected)
    indices = [2 * index for index in range(ITEMS)]
    rest = Feed(make()).epoch(0, start=3, begun=begun_of(make()))
    assert [index for batch in rest for index in batch[:, 0].tolist()] == indices[12:]


def begun_of(loader: Iterable[Any]) -> dict[str, Any] | None:
    feed = Feed(loader)
    feed.epoch(0)
    return feed.begun


def test_what_cannot_go_back_goes_on_from_where_it_stands() -> None:
    feed = Feed(iter(range(10)))
    assert not feed.rewinds
    batches = feed.epoch(0)
    assert [next(batches) for _ in range(5)] == [0, 1, 2, 3, 4]
    batches = feed.epoch(0, start=3, begun=feed.begun)
    assert next(batches) == 5
    assert feed.taken == 6


def test_a_new_process_takes_what_is_behind_from_a_generator() -> None:
    feed = Feed(iter(range(20)))
    batches = feed.epoch(0)
    assert [next(batches) for _ in range(5)] == [0, 1, 2, 3, 4]
    batches = feed.epoch(1)
    assert [next(batches) for _ in range(3)] == [5, 6, 7]
    state = feed.state_dict()
    feed = Feed(iter(range(20)))
    assert list(feed.epoch(1, start=3, begun=state)) == list(range(8, 20))


@pytest.mark.parametrize("loader", [[1], Stream(), DataLoader(Augmented()), DataLoader(Stream())])
def test_what_begins_anew_rewinds(loader: Any) -> None:
    assert Feed(loader).rewinds


def test_before_the_first_epoch_there_is_no_state() -> None:
    feed = Feed([1, 2])
    assert feed.state_dict() is None
    assert feed.begun is None


def test_asking_a_stream_for_its_state_takes_no_random_numbers() -> None:
    class Own(IterableDataset[float]):
        def __iter__(self) -> Iterator[float]:
            yield random.random()

    feed = Feed(DataLoader(Own()))
    list(feed.epoch(0))
    before = random_states.capture()
    feed.state_dict()
    assert_same(random_states.capture(), before)

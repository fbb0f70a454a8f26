"""The feed hands out what the plain loop would, and knows how far it is."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from hpckit.errors import UsageError
from hpckit.train import random_states
from hpckit.train.feed import Feed
from tests.train.conftest import assert_same, everything
from tests.train.feed_loaders import (
    ITEMS,
    MAPS,
    OTHERS,
    Augmented,
    BatchByBatch,
    ByLength,
    Stream,
    fed,
    plainly,
    seed_all,
)


@pytest.mark.parametrize("name", MAPS | OTHERS)
def test_batches_and_draws_are_those_of_the_plain_loop(name: str) -> None:
    make = (MAPS | OTHERS)[name]
    seed_all()
    expected = [*plainly(make(), 3), random.random(), torch.rand(3)]
    seed_all()
    assert_same([*fed(make(), 3), random.random(), torch.rand(3)], expected)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("persistent", [False, True])
def test_with_workers_the_order_is_that_of_the_plain_loop(name: str, persistent: bool) -> None:
    def make() -> DataLoader[Tensor]:
        theirs = MAPS[name]()
        kind: dict[str, Any] = {"batch_sampler": theirs.batch_sampler}
        if theirs.batch_sampler is None:
            kind = {"sampler": theirs.sampler, "batch_size": None}
        return DataLoader(
            Indices(),
            **kind,
            num_workers=1,
            generator=theirs.generator,
            persistent_workers=persistent,
        )

    seed_all()
    expected = [*plainly(make(), 2), random.random(), torch.rand(3)]
    seed_all()
    assert_same([*fed(make(), 2), random.random(), torch.rand(3)], expected)


class Indices(Dataset[int]):
    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> int:
        return index


def test_a_training_with_dropout_ends_with_the_same_weights() -> None:
    def train(feeds: bool) -> dict[str, Any]:
        seed_all()
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1)).double()
        optimizer = torch.optim.AdamW(model.parameters())
        loader = MAPS["shuffled"]()
        feed = Feed(loader)
        for epoch in range(3):
            for batch in feed.epoch(epoch) if feeds else loader:
                optimizer.zero_grad()
                model(batch).square().mean().backward()
                optimizer.step()
        return everything(model, optimizer)

    assert_same(train(True), train(False))


def test_a_distributed_sampler_is_told_the_epoch() -> None:
    sampler = DistributedSampler(range(ITEMS), num_replicas=2, rank=0)
    feed = Feed(DataLoader(Augmented(), batch_size=4, sampler=sampler))
    first = [batch[:, 0].tolist() for batch in feed.epoch(0)]
    assert [batch[:, 0].tolist() for batch in feed.epoch(1)] != first
    assert [batch[:, 0].tolist() for batch in feed.epoch(0)] == first


def test_whatever_wants_the_epoch_is_told() -> None:
    class Told(Stream):
        epoch = -1

        def set_epoch(self, number: int) -> None:
            self.epoch = number

    class Around(ByLength):
        def __init__(self) -> None:
            self.sampler = Told()

    for loader, told in [
        (DataLoader(dataset := Told(), batch_size=4), dataset),
        (DataLoader(Augmented(), batch_sampler=(outer := Around())), outer.sampler),
        (own := Told(), own),
    ]:
        next(Feed(loader).epoch(5))
        assert told.epoch == 5


def test_a_part_that_is_found_twice_is_told_once() -> None:
    told = []

    class Counting(Augmented):
        def __init__(self) -> None:
            super().__init__()
            self.dataset = self

        def set_epoch(self, number: int) -> None:
            told.append(number)

    dataset = Counting()
    sampler = DistributedSampler(dataset, num_replicas=2, rank=0)
    next(Feed(DataLoader(dataset, batch_size=4, sampler=sampler)).epoch(3))
    assert told == [3]


def test_taken_counts_the_batch_that_is_in_the_loops_body() -> None:
    feed = Feed(MAPS["in order"]())
    assert [feed.taken for _ in feed.epoch(0)] == [1, 2, 3, 4, 5, 6]
    assert feed.taken == 6


@pytest.mark.parametrize(
    ("name", "length"), [("in order", 6), ("shuffled", 5), ("no batches", 23), ("list", 6)]
)
def test_the_length_and_the_last_batch_are_known(name: str, length: int) -> None:
    feed = Feed((MAPS | OTHERS)[name]())
    assert feed.length == length
    assert [feed.is_last for _ in feed.epoch(0)] == [False] * (length - 1) + [True]


@pytest.mark.parametrize(("drop_last", "length"), [(False, 6), (True, 5)])
def test_a_streams_length_is_told_without_its_loaders_warning(
    drop_last: bool, length: int, recwarn: pytest.WarningsRecorder
) -> None:
    class More(Stream):
        def __len__(self) -> int:
            return ITEMS

        def __iter__(self) -> Iterator[Tensor]:
            yield from [torch.zeros(1)] * (2 * ITEMS)

    feed = Feed(DataLoader(More(), batch_size=4, drop_last=drop_last))
    assert feed.length == length
    assert len([*feed.epoch(0)]) > length
    assert not recwarn.list


def test_with_workers_a_streams_length_is_a_guess_and_not_told() -> None:
    feed = Feed(DataLoader(Stream(), batch_size=4, num_workers=2))
    assert feed.length is None
    assert not feed.is_last


def test_a_sampler_without_length_is_known_once_it_is_read() -> None:
    feed = Feed(MAPS["batch sampler"]())
    assert feed.length is None
    last = [feed.is_last for _ in feed.epoch(0)]
    assert last == [False] * (len(last) - 1) + [True]


def test_a_sampler_that_gives_fewer_than_it_says_ends_where_it_ends() -> None:
    class Fewer(ByLength):
        def __len__(self) -> int:
            return 1000

    feed = Feed(DataLoader(Augmented(), batch_sampler=Fewer()))
    last = [feed.is_last for _ in feed.epoch(0)]
    assert last == [False] * (len(last) - 1) + [True]


def test_a_sampler_without_end_can_be_fed_from() -> None:
    class Endless:
        read = 0

        def __iter__(self) -> Iterator[int]:
            while True:
                yield self.read % ITEMS
                self.read += 1

    feed = Feed(DataLoader(Augmented(), batch_size=4, sampler=(sampler := Endless())))
    batches = feed.epoch(0)
    taken = [next(batches)[0, 0].item() for _ in range(200)]
    assert taken == [4 * number % ITEMS for number in range(200)]
    assert feed.length is None
    assert sampler.read < 4 * 300


def test_a_sampler_that_draws_for_every_batch_takes_nothing_from_the_training_later_on() -> None:
    def order(draws: int) -> list[Any]:
        seed_all()
        batches = []
        for batch in Feed(DataLoader(Augmented(), batch_sampler=BatchByBatch())).epoch(0):
            batches.append(batch[:, 0].tolist())
            for _ in range(draws):
                random.random()
        return batches

    assert len(order(0)) == BatchByBatch.batches
    assert order(0) == order(3)
    assert len({str(batch) for batch in order(0)}) > 100


@pytest.mark.parametrize("name", MAPS | OTHERS)
def test_windows_are_left_out_of_their_epoch(name: str) -> None:
    make = (MAPS | OTHERS)[name]

    def first_of(batch: Tensor) -> float:
        number = batch.flatten()[0].item()
        # Of an item only its index: what is left out takes no random numbers.
        return int(number) if name in MAPS else number

    seed_all()
    feed = Feed(make())
    batches = feed.epoch(0)
    states = random_states.capture()
    whole = [first_of(batch) for batch in batches]
    feed.skip = [(1, 0, 4), (0, 1, 3), (0, 2, 4)]
    batches = feed.epoch(0, begun=feed.begun)
    random_states.restore(states)
    seen = [(feed.taken, first_of(batch)) for batch in batches]
    assert seen == [(n + 1, whole[n]) for n in range(len(whole)) if n not in (1, 2, 3)]
    assert feed.taken == len(whole)


def test_left_out_batches_are_not_fetched() -> None:
    dataset = Augmented()
    feed = Feed(DataLoader(dataset, batch_size=4))
    feed.skip = [(0, 1, 5)]
    list(feed.epoch(0))
    assert dataset.fetched == [0, 1, 2, 3, 20, 21, 22]


def test_batches_behind_the_start_are_not_fetched() -> None:
    dataset = Augmented()
    feed = Feed(DataLoader(dataset, batch_size=4))
    batches = feed.epoch(0, start=4)
    assert [feed.taken for _ in batches] == [5, 6]
    assert dataset.fetched == list(range(16, 23))


@pytest.mark.parametrize(
    ("windows", "last"),
    [
        ([(0, 4, 6)], [False, False, False, True]),
        ([(0, 5, 9), (0, 3, 5)], [False, False, True]),
        ([(0, 0, 5)], [True]),
        ([(0, 1, 2), (1, 4, 6)], [False] * 4 + [True]),
    ],
)
def test_the_last_batch_is_the_last_that_is_handed_out(windows: Any, last: list[bool]) -> None:
    feed = Feed(MAPS["in order"]())
    feed.skip = windows
    assert [feed.is_last for _ in feed.epoch(0)] == last
    assert feed.taken == 6


def test_an_epoch_of_which_everything_is_left_out_is_empty_and_no_mistake() -> None:
    feed = Feed(MAPS["in order"]())
    feed.skip = [(0, 0, 6)]
    assert list(feed.epoch(0)) == []
    assert feed.taken == 6


def test_an_epoch_gone_on_with_at_its_end_is_empty_and_no_mistake() -> None:
    feed = Feed(MAPS["in order"]())
    list(feed.epoch(0))
    assert list(feed.epoch(0, start=6, begun=feed.state_dict())) == []


@pytest.mark.parametrize(
    ("loader", "told"),
    [
        (DataLoader(Augmented(3), batch_size=4, drop_last=True), "3 items, a batch 4, and drop_"),
        (DataLoader(Augmented(0), batch_size=4), "its dataset has 0 items"),
        (iter([]), "it is a list_iterator, which gives everything once: pass a DataLoader"),
        ({}.keys(), "is the path right"),
    ],
)
def test_a_loader_that_gives_nothing_is_a_mistake(loader: Any, told: str) -> None:
    with pytest.raises(UsageError, match=r"gave no batch in epoch 2\n  .*" + told):
        list(Feed(loader).epoch(2))


def test_an_exhausted_generator_is_a_mistake_in_the_next_epoch() -> None:
    feed = Feed(number for number in range(3))
    assert list(feed.epoch(0)) == [0, 1, 2]
    with pytest.raises(UsageError, match="it is a generator, which gives everything once"):
        list(feed.epoch(1))


def test_an_epoch_that_was_left_gives_nothing_more() -> None:
    feed = Feed(MAPS["in order"]())
    old = feed.epoch(0)
    next(old)
    new = feed.epoch(0)
    assert list(old) == []
    assert len(list(new)) == 6

"""Datasets and loaders of many kinds, for the tests of the feed."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)
from torch.utils.data.distributed import DistributedSampler

from hpckit.train import random_states
from hpckit.train.feed import Feed
from tests.train.conftest import assert_same

ITEMS = 23


class Augmented(Dataset[Tensor]):
    """Each item: its index, and a draw from each library."""

    def __init__(self, items: int = ITEMS) -> None:
        self.items = items
        self.fetched: list[int] = []

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> Tensor:
        self.fetched.append(index)
        draws = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        return torch.tensor([index, *draws], dtype=torch.float64)


class AllAtOnce(Augmented):
    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        return [self[index] + random.random() for index in indices]


class OwnGenerator(Augmented):
    """Draws from a generator of its own, as NumPy recommends."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(3)
        self.random = random.Random(4)
        self.old = np.random.RandomState(5)

    def __getitem__(self, index: int) -> Tensor:
        draws = [self.rng.random(), self.random.random(), self.old.rand()]
        return torch.tensor([index, *draws], dtype=torch.float64)


class Stream(IterableDataset[Tensor]):
    """In an order that is drawn when it begins; with workers each has its share."""

    def __len__(self) -> int:
        return ITEMS

    def __iter__(self) -> Iterator[Tensor]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        order = torch.randperm(ITEMS)[worker::workers].tolist()
        rng = random.Random(random.random())
        for index in order:
            yield torch.tensor([index, rng.random()])


class Eager:
    """Draws when it is asked for its iterator, not when that is asked for the first index."""

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(ITEMS).tolist())

    def __len__(self) -> int:
        return ITEMS


class ByLength:
    """A batch sampler of one's own: shuffles with Python's random, and knows no length."""

    def __iter__(self) -> Iterator[list[int]]:
        indices = list(range(ITEMS))
        random.shuffle(indices)
        while indices:
            yield [indices.pop() for _ in range(min(1 + indices[-1] % 4, len(indices)))]


class BatchByBatch(ByLength):
    """Takes new numbers for every batch, and fills the same list again and again."""

    batches = 200

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        for _ in range(self.batches):
            batch.clear()
            batch.extend(random.randrange(ITEMS) for _ in range(2))
            yield batch


class WithItsOwn:
    """Takes new numbers for every batch from a generator that it owns."""

    def __init__(self) -> None:
        self.rng = random.Random(3)

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(20):
            yield [self.rng.randrange(ITEMS)]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def with_one_generator() -> DataLoader[Tensor]:
    return DataLoader(Augmented(), batch_size=4, shuffle=True, generator=generator())


def with_sampler(sampler: Any, **settings: Any) -> DataLoader[Tensor]:
    return DataLoader(Augmented(), batch_size=4, sampler=sampler, **settings)


MAPS: dict[str, Callable[[], DataLoader[Tensor]]] = {
    "in order": lambda: DataLoader(Augmented(), batch_size=4),
    "shuffled": lambda: DataLoader(Augmented(), batch_size=4, shuffle=True, drop_last=True),
    "random sampler": lambda: with_sampler(
        RandomSampler(range(ITEMS), replacement=True, num_samples=90, generator=generator())
    ),
    "weighted": lambda: with_sampler(WeightedRandomSampler([1.0, *[0.1] * (ITEMS - 1)], 40)),
    "subset random": lambda: with_sampler(SubsetRandomSampler(range(3, 20), generator())),
    "distributed": lambda: with_sampler(
        DistributedSampler(range(ITEMS), num_replicas=2, rank=1), generator=generator()
    ),
    "eager": lambda: DataLoader(Augmented(), batch_size=None, sampler=Eager()),
    "one generator": with_one_generator,
    "batch sampler": lambda: DataLoader(Augmented(), batch_sampler=ByLength()),
    "batch sampler of torch": lambda: DataLoader(
        Augmented(), batch_sampler=BatchSampler(RandomSampler(range(ITEMS)), 5, True)
    ),
    "no batches": lambda: DataLoader(Augmented(), batch_size=None, shuffle=True),
    "all at once": lambda: DataLoader(AllAtOnce(), batch_size=4, shuffle=True),
    "subset": lambda: DataLoader(Subset(Augmented(), range(5, 20)), batch_size=4, shuffle=True),
}
OTHERS: dict[str, Callable[[], Iterable[Any]]] = {
    "stream": lambda: DataLoader(Stream(), batch_size=4),
    "stream without batches": lambda: DataLoader(Stream(), batch_size=None, generator=generator()),
    "list": lambda: [torch.full((2, 2), float(number)) for number in range(6)],
    "generator function": lambda: Made(),
}
WITH_WORKERS: dict[str, dict[str, Any]] = {
    "2 workers": {"num_workers": 2},
    "persistent": {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 3},
}


class Made:
    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(6):
            yield torch.tensor(random.random())


def seed_all(seed: int = 0) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def plainly(loader: Iterable[Any], epochs: int) -> list[Any]:
    batches = []
    for epoch in range(epochs):
        # What DistributedSampler's page tells to write.
        for part in (loader, getattr(loader, "batch_sampler", None)):
            if isinstance(sampler := getattr(part, "sampler", None), DistributedSampler):
                sampler.set_epoch(epoch)
        batches += [*loader]
    return batches


def fed(loader: Iterable[Any], epochs: int) -> list[Any]:
    feed = Feed(loader)
    batches = [batch for epoch in range(epochs) for batch in feed.epoch(epoch)]
    feed.close()
    return batches


def saved(*state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def loaded(state: bytes) -> Any:
    return torch.load(io.BytesIO(state), weights_only=True)


def assert_continues(make: Callable[[], Iterable[Any]], at: set[int] | None = None) -> None:
    """Two epochs, gone on with after each batch (or after those `at`) by a feed that is new."""
    seed_all()
    feed = Feed(make())
    whole, places = [], []
    for epoch in (0, 1):
        for batch in feed.epoch(epoch):
            whole.append(batch)
            random.random()  # the training draws, too
            states = saved(feed.state_dict(), random_states.capture())
            places.append((epoch, feed.taken, states))
    feed.close()
    assert {epoch for epoch, _, _ in places} == {0, 1}
    for done, (epoch, taken, states) in enumerate(places, 1):
        if at is not None and done not in at:
            continue
        seed_all(99)
        feed = Feed(make())
        state, numbers = loaded(states)
        batches = feed.epoch(epoch, start=taken, begun=state)
        random_states.restore(numbers)
        rest = []
        for number in range(epoch, 2):
            for batch in batches if number == epoch else feed.epoch(number):
                rest.append(batch)
                random.random()
        feed.close()
        assert_same(rest, whole[done:], f"after batch {done}")


def children() -> set[int]:
    """The processes that this one has started and that live."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z":
            found.add(int(path.parent.name))
    return found

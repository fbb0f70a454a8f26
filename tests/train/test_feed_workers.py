"""Workers: the same items whoever makes them, and nobody is left behind."""

from __future__ import annotations

import gc
import random
import threading
import time
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, WeightedRandomSampler, get_worker_info

from hpckit.train.feed import Feed
from tests.train.conftest import assert_same
from tests.train.feed_loaders import (
    WITH_WORKERS,
    AllAtOnce,
    Augmented,
    Stream,
    assert_continues,
    children,
    fed,
    loaded,
    saved,
    seed_all,
)

DATASETS: dict[str, Any] = {"one by one": Augmented, "all at once": AllAtOnce}


def gone(processes: set[int]) -> bool:
    """Whether they end; torch itself waits for them, the rest is the kernel's."""
    for _ in range(100):
        if not children() & processes:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("workers", WITH_WORKERS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_items_are_the_same_after_every_batch(dataset: str, workers: str) -> None:
    def make() -> DataLoader[Tensor]:
        settings = WITH_WORKERS[workers]
        return DataLoader(DATASETS[dataset](), batch_size=4, shuffle=True, **settings)

    assert_continues(make)


def test_items_are_the_same_without_batches_of_the_loader() -> None:
    assert_continues(
        lambda: DataLoader(Augmented(), batch_size=None, shuffle=True, num_workers=2), {1, 30}
    )


def test_a_stream_with_workers_goes_on() -> None:
    assert_continues(lambda: DataLoader(Stream(), batch_size=4, num_workers=2), {1, 4, 9})


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_items_are_the_same_with_any_number_of_workers(context: str) -> None:
    def make(workers: int, how: str) -> DataLoader[Tensor]:
        return DataLoader(
            Augmented(),
            batch_size=4,
            shuffle=True,
            num_workers=workers,
            multiprocessing_context=how,
            worker_init_fn=other_seed,
        )

    seed_all()
    expected = fed(make(1, "fork"), 2)
    seed_all()
    assert_same(fed(make(2, context), 2), expected)


def other_seed(worker: int) -> None:
    random.seed(worker)
    torch.manual_seed(worker)


def test_items_differ_by_epoch_batch_and_place() -> None:
    sampler = WeightedRandomSampler([1.0], 32)
    seed_all()
    draws = []
    # Persistent workers are seeded once; the same item comes again and again.
    loader = DataLoader(
        Augmented(), batch_size=4, sampler=sampler, num_workers=2, persistent_workers=True
    )
    feed = Feed(loader)
    for epoch in range(2):
        draws += [draw for batch in feed.epoch(epoch) for draw in batch[:, 1:].flatten().tolist()]
    feed.close()
    assert len(set(draws)) == len(draws) == 2 * 32 * 3


def test_a_batchs_own_randomness_goes_on_too() -> None:
    assert_continues(
        lambda: DataLoader(Augmented(), batch_size=4, collate_fn=mixed, num_workers=2), {1, 5, 8}
    )


def mixed(items: list[Tensor]) -> Tensor:
    return torch.stack(items) * random.random() + torch.rand(())


def test_a_worker_sees_the_dataset_itself() -> None:
    loader = DataLoader(Named(), batch_size=4, num_workers=1, worker_init_fn=rename)
    assert [batch[0] for batch in Feed(loader).epoch(0)] == ["named by worker 0"] * 2


class Named(Augmented):
    name = "?"

    def __init__(self) -> None:
        super().__init__(8)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return self.name


def rename(worker: int) -> None:
    info = get_worker_info()
    assert info is not None
    assert isinstance(info.dataset, Named)
    info.dataset.name = f"named by worker {worker}"


def test_the_loaders_settings_are_kept() -> None:
    def make(**more: Any) -> DataLoader[Tensor]:
        return DataLoader(Augmented(), batch_size=4, num_workers=2, **more)

    inner = Feed(
        make(
            collate_fn=mixed, pin_memory=True, timeout=7, prefetch_factor=5, persistent_workers=True
        )
    )._source._inner  # type: ignore[union-attr]
    assert (inner.collate_fn, inner.timeout, inner.prefetch_factor) == (mixed, 7, 5)
    assert inner.persistent_workers
    assert inner.pin_memory
    context = Feed(make(multiprocessing_context="spawn"))._source._inner.multiprocessing_context  # type: ignore[union-attr]
    assert context.get_start_method() == "spawn"


@pytest.mark.parametrize("end", ["exhausted", "closed", "restarted", "forgotten"])
def test_workers_end_with_their_epoch(end: str) -> None:
    before = children()
    feed = Feed(DataLoader(Augmented(), batch_size=4, num_workers=2))
    batches = feed.epoch(0)
    next(batches)
    workers = children() - before
    assert len(workers) == 2
    if end == "exhausted":
        list(batches)
    elif end == "closed":
        batches.close()
    elif end == "restarted":
        feed.restart()
    else:
        del batches
        gc.collect()
    assert gone(workers)


@pytest.mark.parametrize("dataset", [Augmented, Stream])
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_end_though_a_traceback_holds_on_to_them(dataset: Any, persistent: bool) -> None:
    before = children()
    loader = DataLoader(dataset(), batch_size=4, num_workers=2, persistent_workers=persistent)
    feed = Feed(loader)
    batches = feed.epoch(0)
    next(batches)
    held = feed._source._batches
    workers = children() - before
    assert len(workers) == 2
    feed.close()
    # Those that the user's own loader keeps are the user's.
    assert gone(workers) != (persistent and dataset is Stream)
    del held


@pytest.mark.parametrize("dataset", [Augmented, Stream])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_feed_that_is_forgotten_needs_no_garbage_collector(
    dataset: Any, persistent: bool
) -> None:
    # Found by that, workers are waited for in vain, five seconds each.
    before = children()
    gc.disable()
    try:
        feed = Feed(
            DataLoader(dataset(), batch_size=4, num_workers=2, persistent_workers=persistent)
        )
        batches = feed.epoch(0)
        next(batches)
        workers = children() - before
        assert len(workers) == 2
        del feed, batches
        assert gone(workers)
    finally:
        gc.enable()


def test_an_epoch_that_is_never_asked_leaves_no_worker() -> None:
    before = children()
    feed = Feed(DataLoader(Augmented(), batch_size=4, num_workers=2))
    feed.epoch(0)
    assert gone(children() - before)


def test_persistent_workers_wait_for_the_next_epoch_and_end_with_the_feed() -> None:
    before = children()
    seed_all()
    feed = Feed(
        DataLoader(Augmented(), batch_size=2, shuffle=True, num_workers=2, persistent_workers=True)
    )
    batches = feed.epoch(0)
    next(batches), next(batches)
    state = loaded(saved(feed.state_dict()))[0]
    workers = children() - before
    rest = [next(batches) for _ in range(4)]
    # Back, while the workers are ahead with what nobody wants any more.
    again = feed.epoch(0, start=2, begun=state)
    assert_same([next(again) for _ in range(4)], rest)
    feed.restart()
    assert children() - before == workers
    assert len(list(feed.epoch(1))) == 12
    assert children() - before == workers
    feed.close()
    assert gone(workers)


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    for _ in range(3):
        feed = Feed(DataLoader(Augmented(), batch_size=4, num_workers=2))
        next(feed.epoch(0))
        feed.close()
    # A queue's own thread takes a moment to see that its queue is closed.
    for _ in range(100):
        if threading.active_count() <= before:
            return
        time.sleep(0.02)
    raise AssertionError(threading.enumerate())


def test_a_feed_that_rests_keeps_its_workers_as_long_as_its_loader_has_an_owner() -> None:
    before = children()
    loader = DataLoader(Augmented(), batch_size=8, num_workers=1, persistent_workers=True)
    feed = Feed(loader)
    assert len(list(feed.epoch(0))) == 3
    mine = children() - before
    assert feed.rest()
    assert feed.loader is loader
    feed.wake()
    assert len(list(feed.epoch(1))) == 3
    assert children() - before == mine
    assert feed.rest()
    del loader
    # Whoever has the feed still, in a traceback for one.
    assert not feed.rest()
    have_ended = gone(mine)
    feed.close()
    assert have_ended

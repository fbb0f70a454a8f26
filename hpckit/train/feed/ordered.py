"""A torch DataLoader over a map-style dataset: what is behind us is never fetched again."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from hpckit.train.feed import generators
from hpckit.train.feed.items import Seeded, Start
from hpckit.train.feed.length import promised
from hpckit.train.feed.order import Order, Served


class Ordered:
    """Serves the indices of the user's own sampler to a loader that is built like the user's."""

    rewinds = True

    def __init__(self, loader: DataLoader[Any]) -> None:
        # None while another loader has its turn.
        self.theirs: Any = loader
        automatic = loader.batch_sampler is not None
        self._sampler: Any = loader.batch_sampler if automatic else loader.sampler
        self._served = Served()
        self._generator = torch.Generator()
        self._inner = _build(loader, self._served, self._generator)
        self._batches: Iterator[Any] | None = None
        self._order: Order | None = None
        self._seed: int | None = None

    @staticmethod
    def fits(loader: Any) -> bool:
        """Whether this loader does nothing but what DataLoader does: a subclass may do more."""
        kind = type(loader)
        return (
            isinstance(loader, DataLoader)
            and not isinstance(loader.dataset, IterableDataset)
            and kind.__iter__ is DataLoader.__iter__
            and kind._get_iterator is DataLoader._get_iterator
        )

    @property
    def length(self) -> int | None:
        """What the sampler really gives, once it has been read to its end."""
        if self._order is not None and self._order.length is not None:
            return self._order.length
        return promised(self.theirs)

    def begun(self) -> dict[str, Any]:
        return {"generators": generators.capture(self.theirs), "seed": self._seed}

    def put(self, between: dict[str, Any]) -> None:
        self._seed = between["seed"]

    def now(self) -> dict[str, Any]:
        return {"generators": generators.capture(self.theirs)}

    def begin(
        self,
        number: int,
        start: int,
        begun: dict[str, Any],
        wanted: Callable[[int], bool],
        *,
        new: bool,
    ) -> None:
        """The draws of the plain loop, in its order; then the workers start."""
        batches, seed = iter(self._sampler), begun["seed"]
        if seed is None:
            seed = int(_draw_seed(self.theirs.generator))
            if self._inner.num_workers:
                batches = iter(self._sampler)  # torch asks twice when it starts workers
        # Persistent workers get their seed once; that of every other epoch is drawn.
        self._seed = seed if self._inner.persistent_workers else None
        order = Order(batches, promised=promised(self.theirs), name=f"{seed} {number}")
        self._order = order
        if not new and start == (now := begun.get("now", {})).get("taken"):
            self._put_generators(now["generators"], order)
        in_workers = self._inner.num_workers > 0

        def task(batch: int, indices: Any) -> Any:
            return (f"{seed} {number} {batch}", indices) if in_workers else indices

        self._served.serve(order, lambda batch: batch >= start and wanted(batch), task)
        self._generator.manual_seed(seed)
        with _deaf_workers():
            self._batches = iter(self._inner)

    def _put_generators(self, now: dict[str, Any], order: Order) -> None:
        """To where they stood: the training, or items without workers, may have drawn from them."""
        # A sampler that is still being read was ahead of the training by an unknown number.
        complete = order.length is not None
        generators.restore(
            self.theirs,
            {path: each for path, each in now.items() if complete or ".dataset" in path},
        )

    def __next__(self) -> tuple[int, Any]:
        assert self._batches is not None
        batch = next(self._batches)
        return self._served.numbers.popleft(), batch

    def drop(self) -> None:
        """Leave the epoch: workers stop, persistent ones wait for the next."""
        batches, self._batches = self._batches, None
        if not self._inner.persistent_workers:
            stop(batches)

    def close(self) -> None:
        self._batches = None
        stop(self._inner._iterator)
        self._inner._iterator = None


@contextlib.contextmanager
def _deaf_workers() -> Iterator[None]:
    """Who is started in here never hears SIGTERM.

    A scheduler sends it to every process of a job, and torch raises in the midst of a training
    whose worker died of it: they are needed until the training has saved.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop(batches: Any) -> None:
    """End the workers now: a traceback that is kept somewhere would keep them, too."""
    if (shut_down := getattr(batches, "_shutdown_workers", None)) is not None:
        shut_down()


def _draw_seed(generator: torch.Generator | None) -> float:
    return torch.empty((), dtype=torch.int64).random_(generator=generator).item()


def _build(loader: DataLoader[Any], served: Served, generator: torch.Generator) -> DataLoader[Any]:
    """In order always: which batches are behind us must be told by one number."""
    names = ["num_workers", "collate_fn", "pin_memory", "timeout"]
    settings: dict[str, Any] = {"dataset": loader.dataset, "generator": generator}
    if loader.num_workers > 0:
        names += ["prefetch_factor", "persistent_workers", "multiprocessing_context"]
        settings["dataset"] = Seeded(loader.dataset)
        settings["worker_init_fn"] = Start(loader.worker_init_fn)
    if loader.pin_memory_device:
        names.append("pin_memory_device")
    settings |= {name: getattr(loader, name) for name in names}
    if loader.batch_sampler is not None:
        return DataLoader(**settings, batch_sampler=served)
    return DataLoader(**settings, sampler=served, batch_size=None)

"""The batches of a loader, epoch by epoch: the plain loop's order, which can be gone on with.

    feed = Feed(loader)
    for batch in feed.epoch(0):
        ...
        saved = feed.taken, feed.state_dict(), random_states.capture()

    batches = feed.epoch(0, start=taken, begun=state)
    random_states.restore(states)
    for batch in batches: ...

What is promised:
- Without workers an epoch draws its random numbers exactly as `for batch in loader` does.
- A DataLoader over a map-style dataset goes on with the same indices and the same items, and what
  is behind it is not fetched. With workers every item is seeded by its place in the epoch; in them
  Python's, NumPy's and torch's global generators are meant, not those that a dataset owns.
- Anything else is taken once more from the epoch's start, or goes by its own state_dict. That is
  exact where the items do not draw from the very numbers that the training draws from in between.
- A sampler that takes new numbers for each batch takes them all at the epoch's start.
- Batches come in order, even if the loader was told in_order=False.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hpckit.errors import UsageError
from hpckit.train import random_states
from hpckit.train.feed import generators
from hpckit.train.feed.length import promised
from hpckit.train.feed.ordered import Ordered
from hpckit.train.feed.replayed import Replayed

__all__ = ["Batches", "Feed"]

Window = tuple[int, int, int]


class Feed:
    """Hands out one loader's batches; one epoch at a time."""

    def __init__(self, loader: Iterable[Any]) -> None:
        # (epoch, first, last + 1): batches that are left out. Read when an epoch begins.
        self.skip: list[Window] = []
        # Batches of this epoch behind us, left-out ones too: k + 1 once batch k is handed out.
        self.taken = 0
        # What the epoch began with; None before the first one.
        self.begun: dict[str, Any] | None = None
        self._source: Ordered | Replayed = (
            Ordered(loader) if Ordered.fits(loader) else Replayed(loader)  # type: ignore[arg-type]
        )
        self._windows: list[tuple[int, int]] = []
        self._opened = 0
        # While it rests: the loader, if anybody else still has it.
        self._owned: Callable[[], Any] = nobody

    @property
    def loader(self) -> Any:
        """The user's own; None where it rests and its loader is gone."""
        return self._owned() if self._source.theirs is None else self._source.theirs

    def epoch(self, number: int, start: int = 0, begun: dict[str, Any] | None = None) -> Batches:
        """The batches of this epoch from number `start` on.

        `begun` is what `state_dict()` gave (or `feed.begun`) in this epoch: its order is made once
        more by that. Everything random is done in this call, and afterwards the global random
        states are as they were before it: put those of the snapshot back before or after, as you
        like, but before the first batch is taken. Without `begun` the epoch is a new one, and its
        draws come from the global states and stay drawn.

        An epoch that is still open is left: its workers end, and its iterator gives nothing more.
        """
        self.restart()
        generators.set_epoch(self.loader, number)
        windows = [(first, end) for epoch, first, end in self.skip if epoch == number]
        self._windows = sorted(windows)
        self.taken = start
        new = begun is None
        outside = random_states.capture()
        if begun is None:
            begun = {"random": outside, **self._source.begun()}
        else:
            random_states.restore(begun["random"])
            generators.restore(self.loader, begun["generators"])
        self.begun = {key: begun[key] for key in begun if key != "now"}
        try:
            self._source.begin(number, start, begun, outside_of(windows), new=new)
        finally:
            if not new:
                random_states.restore(outside)
        return Batches(self, number, may_be_empty=start > 0 or bool(self._windows))

    def state_dict(self) -> dict[str, Any] | None:
        """Where the epoch stands, after the batch that was handed out last, as plain data.

        None before the first epoch.
        """
        if self.begun is None:
            return None
        return {**self.begun, "now": {"taken": self.taken, **self._source.now()}}

    def between(self) -> dict[str, Any]:
        """What the next epoch begins with, as plain data, where none is open."""
        return {**self._source.begun(), "length": self.length}

    def put(self, between: dict[str, Any]) -> None:
        """Stand before an epoch as the feed of another process did; not one of other data."""
        if between["length"] == self.length:
            generators.restore(self.loader, between["generators"])
            self._source.put(between)

    @property
    def length(self) -> int | None:
        """Batches in an epoch, left-out ones too; None where nobody knows."""
        return self._source.length

    @property
    def is_last(self) -> bool:
        """Whether no batch comes after the one handed out last; False where nobody knows."""
        length = self.length
        if length is None:
            return False
        number = self.taken
        for first, end in self._windows:
            if first <= number:
                number = max(number, end)
        return number >= length

    @property
    def rewinds(self) -> bool:
        """Whether an epoch can be begun once more; False for generators, files and the like."""
        return self._source.rewinds

    def restart(self) -> None:
        """Leave the open epoch: its workers end, persistent ones wait for the next."""
        self._opened += 1
        self._source.drop()

    def close(self) -> None:
        """End all workers that were started here."""
        self.restart()
        self._source.close()

    def rest(self) -> bool:
        """Another loader's turn; whether this one may come again.

        Meanwhile it is held no more than its owner holds it: of one that is made anew in every
        epoch neither the data nor the workers stay.
        """
        if self._source.theirs is not None:
            self.restart()
            self._owned = held_by_others(self._source.theirs)
            self._source.theirs = None
        if self.loader is None:
            self.close()
        return self.loader is not None

    def wake(self) -> None:
        """Its loader's turn again."""
        self._source.theirs = self.loader


class Batches(Iterator[Any]):
    """One epoch of a feed."""

    def __init__(self, feed: Feed, number: int, *, may_be_empty: bool) -> None:
        self._feed = feed
        self._number = number
        self._may_be_empty = may_be_empty
        self._opened = feed._opened

    def __next__(self) -> Any:
        feed = self._feed
        if feed._opened != self._opened:
            raise StopIteration
        try:
            number, batch = next(feed._source)
        except StopIteration:
            self._end()
            raise
        feed.taken = number + 1
        self._may_be_empty = True
        return batch

    def _end(self) -> None:
        self._feed.taken = max(self._feed.taken, self._feed.length or 0)
        self.close()
        if not self._may_be_empty:
            raise no_batch(self._feed, self._number)

    def close(self) -> None:
        """Leave the epoch here; its workers end."""
        if self._feed._opened == self._opened:
            self._feed.restart()

    def __del__(self) -> None:
        self.close()


def held_by_others(loader: Any) -> Callable[[], Any]:
    """Gives it as long as somebody else has it.

    A list or a zip cannot be asked that: a feed that is made anew serves such a one as well.
    """
    try:
        return weakref.ref(loader)
    except TypeError:
        return nobody


def nobody() -> None:
    """Nobody has it."""


def outside_of(windows: list[tuple[int, int]]) -> Callable[[int], bool]:
    """Whether a batch is in none of them.

    No method of the feed: feed and workers would hold each other, and workers that only the
    garbage collector finds do not hear that they may go. Torch waits 5 s for each of these.
    """
    return lambda number: not any(first <= number < end for first, end in windows)


def no_batch(feed: Feed, number: int) -> UsageError:
    message = f"the loader gave no batch in epoch {number}"
    if not feed.rewinds:
        kind = type(feed.loader).__name__
        return UsageError(
            message,
            f"it is a {kind}, which gives everything once: "
            "pass a DataLoader, a list or an object whose __iter__ begins anew",
        )
    dataset = getattr(feed.loader, "dataset", None)
    size, batch_size = promised(dataset), getattr(feed.loader, "batch_size", None)
    if size and batch_size and getattr(feed.loader, "drop_last", False):
        return UsageError(
            message,
            f"its dataset has {size} items, a batch {batch_size}, and drop_last leaves out what "
            "fills none: take a smaller batch_size or drop_last=False",
        )
    if size is not None:
        return UsageError(message, f"its dataset has {size} items: look at the sampler and at them")
    return UsageError(message, "look at what it is made from: is the path right, a filter strict?")

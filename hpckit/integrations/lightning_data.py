"""Lightning's training loaders, read through feeds: an epoch can be gone on with in its midst."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from hpckit.integrations.hosted import Hosted
from hpckit.train.feed import Feed


class Loaders:
    """All loaders of the training, and where Lightning stands in them."""

    def __init__(self, trainer: Any, session: Hosted) -> None:
        self.trainer = trainer
        self.session = session
        # From on_train_start on; iterators are made, and some are read, before it.
        self.is_training = False
        strategy = trainer.strategy
        theirs = strategy.process_dataloader

        def process(loader: Any) -> Any:
            loader = theirs(loader)
            return Fed(loader, self) if trainer.training else loader

        strategy.process_dataloader = process

    @property
    def all(self) -> list[Fed]:
        combined = self.trainer.fit_loop._combined_loader
        return [] if combined is None else list(combined.flattened)

    @property
    def taken(self) -> int:
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.current.ready)

    @property
    def length(self) -> int | None:
        number = self.trainer.num_training_batches
        return None if number == float("inf") else int(number)

    def between(self) -> None:
        """The framework's own state says what its next epoch begins with."""

    def state_dict(self) -> dict[str, Any]:
        return {"loaders": [each.feed.state_dict() for each in self.all]}

    def open(self, fed: Fed) -> Iterator[Any]:
        """One loader's batches of this epoch, from where the run stands."""
        session, place = self.session, self.session.place
        if self.is_training or (place.epoch == 0 and place.begun is None):
            batches = fed.feed.epoch(self.trainer.current_epoch)
        elif place.begun is None:
            # Lightning asks before the epoch begins, and again when it does.
            return iter(())
        else:
            begun = place.begun["loaders"][self.all.index(fed)]
            batches = fed.feed.epoch(place.epoch, start=place.taken, begun=begun)
        session.opened()
        return self._read(fed, batches)

    def _read(self, fed: Fed, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            if self.is_training:
                self.session.put_random()
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.session.note_batch(batch, time.perf_counter() - began, self.length)
            yield batch


class Fed:
    """Stands for a loader, with all its attributes."""

    def __init__(self, loader: Any, owner: Loaders) -> None:
        self.loader = loader
        self.feed = Feed(loader)
        self._owner = owner

    def __iter__(self) -> Iterator[Any]:
        return self._owner.open(self)

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)

    # Lightning takes a loader with these two for one that goes on where it stood, as this one does.

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The session's place says it."""

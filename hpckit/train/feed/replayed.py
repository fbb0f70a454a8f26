"""Any other iterable: what is behind us is taken once more, or its own state tells the place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from hpckit.train.feed import generators
from hpckit.train.feed.length import promised
from hpckit.train.feed.ordered import stop


class Replayed:
    """Takes from the user's iterable itself."""

    def __init__(self, loader: Any) -> None:
        # None while another loader has its turn.
        self.theirs: Any = loader
        self._has_state = all(
            callable(getattr(loader, name, None)) for name in ("state_dict", "load_state_dict")
        )
        # A file or a generator object: it is its own iterator, and gives everything once.
        self.rewinds = self._has_state or not hasattr(type(loader), "__next__")
        self._batches: Iterator[Any] | None = None
        self._next = 0
        self._drawn = 0
        self._behind = 0

    @property
    def length(self) -> int | None:
        return promised(self.theirs)

    def begun(self) -> dict[str, Any]:
        drawn = max(self._drawn, self._behind)
        begun = {"generators": generators.capture(self.theirs), "drawn": drawn}
        # Before its first epoch a StatefulDataLoader would have to start its workers to answer.
        return begun if isinstance(self.theirs, DataLoader) else begun | self.now()

    def put(self, between: dict[str, Any]) -> None:
        # What another process has drawn from it is to be drawn once more.
        self._behind = between["drawn"]
        if "loader" in between:
            self.theirs.load_state_dict(between["loader"])

    def now(self) -> dict[str, Any]:
        return {"loader": self.theirs.state_dict()} if self._has_state else {}

    def begin(
        self,
        number: int,
        start: int,
        begun: dict[str, Any],
        wanted: Callable[[int], bool],
        *,
        new: bool,
    ) -> None:
        self._wanted = wanted
        self._next = start
        behind = start if new or not self._load(start, begun) else 0
        self._batches = iter(self.theirs)
        if not self.rewinds:
            # It may stand further on already, and cannot go back.
            self._next = max(start, self._drawn - begun["drawn"])
            behind += begun["drawn"] - self._drawn
        for _ in range(behind):
            if self._take() is END:
                break

    def _load(self, start: int, begun: dict[str, Any]) -> bool:
        """Give the loader its own state; whether it stands at `start` by that."""
        now = begun.get("now", {})
        at_start = now.get("taken") == start and "loader" in now
        state = now if at_start else begun
        if self._has_state and "loader" in state:
            self.theirs.load_state_dict(state["loader"])
        return at_start and self._has_state

    def _take(self) -> Any:
        assert self._batches is not None
        batch = next(self._batches, END)
        self._drawn += batch is not END
        return batch

    def __next__(self) -> tuple[int, Any]:
        while (batch := self._take()) is not END:
            number = self._next
            self._next += 1
            if self._wanted(number):
                return number, batch
        raise StopIteration

    def drop(self) -> None:
        batches, self._batches = self._batches, None
        if not getattr(self.theirs, "persistent_workers", False):
            stop(batches)

    def close(self) -> None:
        """The loader is the user's, and so are its persistent workers."""


END: Any = object()

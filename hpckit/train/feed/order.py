"""Which indices come in which order: read ahead in parts, so that it can be made once more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from hpckit.train import random_states

# Batches of indices read at once: at the epoch's start where its length is known, and later on.
FIRST_PART = 100_000
PART = 64


class Order:
    """One epoch's batches of indices.

    The first part is read at once, with the random numbers that the plain loop takes for it; this
    is nearly always all of it. Later parts draw from numbers of their own: otherwise what the
    training draws in between would decide about the order, and nobody could make it again.
    """

    def __init__(self, batches: Iterator[Any], *, promised: int | None, name: str) -> None:
        self._batches = batches
        self._name = name
        self._read = 0
        self.length: int | None = None
        # One more than promised: only the end itself tells that this was all.
        first = PART if promised is None else min(promised + 1, FIRST_PART)
        self._part = self._pull(first)

    def _pull(self, many: int) -> list[Any]:
        # Copies, since a sampler may fill the same list again and again.
        part = [each.copy() if type(each) is list else each for each in islice(self._batches, many)]
        self._read += len(part)
        if len(part) < many:
            self.length = self._read
        return part

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        number = 0
        while True:
            for each in self._part:
                yield number, each
                number += 1
            if self.length is not None:
                return
            with random_states.apart(f"{self._name} {number}"):
                self._part = self._pull(PART)


class Served:
    """What the inner loader takes for its sampler: the batches of the epoch that are wanted."""

    def __init__(self) -> None:
        self._tasks: Iterator[Any] = iter(())
        self.numbers: deque[int] = deque()

    def serve(
        self,
        order: Iterable[tuple[int, Any]],
        wanted: Callable[[int], bool],
        task: Callable[[int, Any], Any],
    ) -> None:
        """`numbers`: those of the batches that were asked for and have not come back yet."""
        numbers = self.numbers = deque()

        def tasks() -> Iterator[Any]:
            for number, indices in order:
                if wanted(number):
                    numbers.append(number)
                    yield task(number, indices)

        self._tasks = tasks()

    def __iter__(self) -> Iterator[Any]:
        # The same one when it is asked twice, as torch does before the first batch.
        return self._tasks

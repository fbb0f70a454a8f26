"""Outside of a run: the same words, and plain PyTorch behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any

from torch import Tensor

from hpckit.errors import UsageError
from hpckit.train.best import Best, Mode
from hpckit.train.params import Params
from hpckit.train.ranks import Ranks


class Outside:
    """What `hpckit.attach()` gives where there is no run: the script runs by itself."""

    inside = False

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = Params(params)
        self.values: dict[str, Any] = {}
        self.epoch = 0
        self.step_number = 0
        self.ranks = Ranks()
        self._optimizers: list[Any] = []
        self._scalers: dict[int, Any] = {}
        self._best = Best()
        self._nested = False
        self._stopping = False
        self._left: int | None = None

    def register(self, clip: Any = None, **things: Any) -> None:
        self._optimizers += [each for each in things.values() if hasattr(each, "param_groups")]

    @property
    def rank(self) -> int:
        return self.ranks.rank

    @property
    def world_size(self) -> int:
        return self.ranks.size

    @property
    def is_main(self) -> bool:
        return self.ranks.rank == 0

    @property
    def epoch_ends(self) -> bool:
        if self._left is None:
            raise UsageError(
                "run.epoch_ends: the loader does not know how many batches it has",
                "write `for epoch in run.epochs(n): for batch in run.batches(loader): ...`",
            )
        return self._left <= 0

    def epochs(self, number: int) -> Iterator[int]:
        self._nested = True
        for self.epoch in range(number):
            if self._stopping:
                break
            yield self.epoch
        self._nested = False

    def batches(
        self,
        loader: Iterable[Any],
        *,
        epochs: int | None = None,
        accumulate: int = 1,
        progress: bool | None = None,
    ) -> Iterator[Any]:
        for epoch in range(1 if self._nested or epochs is None else epochs):
            if not self._nested:
                self.epoch = epoch
            sampler: Any = getattr(loader, "sampler", None)
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(self.epoch)
            self._left = len(loader) if isinstance(loader, Sized) else None
            batches = iter(loader)
            while taken := list(islice(batches, accumulate)):
                if self._left is not None:
                    self._left -= len(taken)
                yield taken if accumulate > 1 else taken[0]
                self._close_pass()
                if self._stopping:
                    return

    def _close_pass(self) -> None:
        for scaler in self._scalers.values():
            scaler.update()
        self._scalers.clear()
        self.step_number += 1

    def step(
        self,
        optimizer: Any = None,
        *,
        loss: float | Tensor | None = None,
        scaler: Any = None,
        closure: Callable[[], Any] | None = None,
    ) -> None:
        optimizer = self._optimizers[0] if optimizer is None else optimizer
        if scaler is not None:
            scaler.step(optimizer)
            self._scalers[id(scaler)] = scaler
        elif closure is not None:
            optimizer.step(closure)
        else:
            optimizer.step()

    def log(self, **values: float | Tensor) -> None:
        """Nobody is there to read it."""

    def best(self, value: float | Tensor, *, mode: Mode = "min", name: str = "metric") -> bool:
        return self._best.better(name, float(value), mode, self.step_number)

    def save(self) -> None:
        """There is no run to save."""

    def stop(self) -> None:
        self._stopping = True

    def close(self) -> None:
        """Nothing is open."""

"""Outside of a run: the same words, and plain PyTorch behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from torch import Tensor, nn

from hpckit.errors import UsageError
from hpckit.monitor.reading import MAIN
from hpckit.train.best import Best, Mode, as_number
from hpckit.train.clip import Clip
from hpckit.train.clips import ALONE, clips_of, given_by_name
from hpckit.train.feed.generators import set_epoch
from hpckit.train.feed.length import promised
from hpckit.train.params import Params
from hpckit.train.ranks import Ranks
from hpckit.train.registry import refuse_unnamed


class Outside:
    """What `hpckit.attach()` gives where there is no run: the script runs by itself."""

    inside = False

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = Params(params)
        self.values: dict[str, Any] = {}
        self.epoch = 0
        self.step_number = 0
        self.ranks = Ranks()
        self._optimizers: dict[str, Any] = {}
        self._given: dict[str, Any] = {}
        self._clips: dict[str, Clip | float] | None = None
        self._scalers: dict[int, Any] = {}
        self._best = Best()
        self._nested = False
        self._stopping = False
        self._has_stepped = False
        self._left: int | None = None

    def register(self, *unnamed: Any, clip: Any = None, **things: Any) -> None:
        refuse_unnamed(unnamed)
        found = {
            MAIN if name == ALONE else name: each
            for name, each in things.items()
            if hasattr(each, "param_groups")
        }
        self._optimizers |= found
        if clip is not None:
            self._given = given_by_name(clip)
        self._clips = None

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
        self._nested, self._stopping, self.epoch = True, False, 0
        try:
            while self.epoch < number and not self._stopping:
                yield self.epoch
                self.epoch += 1
        finally:
            self._nested = False

    def batches(
        self,
        loader: Iterable[Any],
        *,
        epochs: int | None = None,
        accumulate: int = 1,
        progress: bool | None = None,
    ) -> Iterator[Any]:
        if self._nested:
            yield from self._one_epoch(loader, accumulate)
            return
        self._stopping, self.epoch = False, 0
        while self.epoch < (1 if epochs is None else epochs) and not self._stopping:
            yield from self._one_epoch(loader, accumulate)
            if not self._stopping:
                self.epoch += 1

    def _one_epoch(self, loader: Iterable[Any], accumulate: int) -> Iterator[Any]:
        set_epoch(loader, self.epoch)
        self._left = promised(loader)
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
        # Several passes may make one step.
        self.step_number += self._has_stepped
        self._has_stepped = False

    def step(
        self,
        optimizer: Any = None,
        *,
        loss: float | Tensor | None = None,
        scaler: Any = None,
        closure: Callable[[], Any] | None = None,
    ) -> None:
        self._has_stepped = True
        if optimizer is None:
            optimizer = next(iter(self._optimizers.values()))
        self._clip(optimizer, scaler)
        if scaler is not None:
            scaler.step(optimizer)
            self._scalers[id(scaler)] = scaler
        elif closure is not None:
            optimizer.step(closure)
        else:
            optimizer.step()

    def _clip(self, optimizer: Any, scaler: Any) -> None:
        """As torch does it: by norm or by value."""
        if self._clips is None:
            self._clips = clips_of({}, self._given, self._optimizers)
        names = [name for name, each in self._optimizers.items() if each is optimizer]
        clip = self._clips.get(names[0]) if names else None
        if clip is None:
            return
        if scaler is not None:
            scaler.unscale_(optimizer)
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        norm = clip.norm if isinstance(clip, Clip) else clip
        if norm is not None:
            nn.utils.clip_grad_norm_(parameters, norm)
        elif isinstance(clip, Clip) and clip.value is not None:
            nn.utils.clip_grad_value_(parameters, clip.value)

    def log(self, **values: float | Tensor) -> None:
        """Nobody is there to read it."""

    def best(self, value: float | Tensor, *, mode: Mode = "min", name: str = "metric") -> bool:
        return self._best.better(name, as_number(value), mode, self.step_number)

    def save(self) -> None:
        """There is no run to save."""

    def stop(self) -> None:
        self._stopping = True

    def close(self) -> None:
        """Nothing is open."""

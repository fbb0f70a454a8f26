"""Items whose randomness hangs on their place in the epoch, not on the worker that makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset, get_worker_info

from hpckit.train.random_states import seed_for


class Seeded(Dataset[Any]):
    """A dataset in a worker: every item is made from random numbers of its own.

    It is asked for (name, indices): the name is that of the batch in its epoch. By place, not by
    index: a sampler that takes an item twice wants it in two versions.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, task: tuple[str, Any]) -> Any:
        name, index = task
        seed_for(name)
        return self.dataset[index]

    def __getitems__(self, task: tuple[str, Any]) -> Any:
        name, indices = task
        if all_at_once := getattr(self.dataset, "__getitems__", None):
            seed_for(name)
            return all_at_once(indices)
        return [self._item(f"{name} {place}", index) for place, index in enumerate(indices)]

    def _item(self, name: str, index: Any) -> Any:
        seed_for(name)
        return self.dataset[index]


class Start:
    """A worker's start: it sees the dataset itself, as it would without hpckit."""

    def __init__(self, theirs: Callable[[int], None] | None) -> None:
        self.theirs = theirs

    def __call__(self, worker: int) -> None:
        info = get_worker_info()
        # Past its __setattr__, which refuses; a class of theirs may be asked for by isinstance.
        vars(info)["dataset"] = info.dataset.dataset  # type: ignore[union-attr]
        if self.theirs is not None:
            self.theirs(worker)

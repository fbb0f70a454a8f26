"""How many batches a loader says it has."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, IterableDataset


def promised(loader: Any) -> int | None:
    """Batches in an epoch; None where nobody knows."""
    try:
        if isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset):
            return _of_stream(loader)
        return len(loader)
    except (TypeError, NotImplementedError, AttributeError):
        return None


def _of_stream(loader: DataLoader[Any]) -> int | None:
    """Without asking the loader itself: it would warn later on about what it answered.

    With workers its answer is a guess: each of them may end with a batch that is not full.
    """
    if loader.num_workers > 0:
        return None
    items = len(loader.dataset)  # type: ignore[arg-type]
    if loader.batch_size is None:
        return items
    return items // loader.batch_size if loader.drop_last else -(-items // loader.batch_size)

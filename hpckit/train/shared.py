"""What ranks tell each other at each step: the loss, which nothing else reduces, and wishes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

# A torch may be built without it.
IS_AVAILABLE = distributed.is_available()
# How many ranks had a loss; it stays out of the reading.
HAD = "had/"


def over_ranks(
    losses: Mapping[str, float | Tensor],
    slots: Sequence[str],
    wishes: Mapping[str, float],
    device: torch.device,
) -> Mapping[str, float | Tensor]:
    """The mean of each loss over the ranks that have it, and each wish of any rank, in one sum.

    Every rank must decide alike, so what it decides by must be the same number on each. A rank
    without a loss joins in, and is told the others' mean: how many have one is told, too, since
    a mean of none is no number. On the parameters' device, since a backend may know no other.
    """
    if not IS_AVAILABLE or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return {**losses, **wishes}
    # full, not as_tensor: a number goes to a GPU as the kernel's argument, and nobody waits.
    kind: dict[str, Any] = {"dtype": torch.float64, "device": device}
    none = torch.zeros((), **kind)
    values = [_on(losses[slot], kind) if slot in losses else none for slot in slots]
    counts = [torch.full((), float(slot in losses), **kind) for slot in slots]
    wished = [torch.full((), wishes[wish], **kind) for wish in wishes]
    total = torch.stack([*values, *counts, *wished])
    distributed.all_reduce(total)
    number = len(slots)
    means = total[:number] / total[number : 2 * number]
    found: dict[str, float | Tensor] = {}
    for i, slot in enumerate(slots):
        found[slot], found[HAD + slot] = means[i], total[number + i]
    return {**found, **{wish: total[2 * number + i] for i, wish in enumerate(wishes)}}


def settle(values: dict[str, float], slots: Sequence[str]) -> None:
    """Once they are here: leave out the losses that no rank had."""
    for slot in slots:
        if values.pop(HAD + slot, 1.0) == 0.0:
            values.pop(slot, None)


def _on(loss: float | Tensor, kind: dict[str, Any]) -> Tensor:
    if isinstance(loss, Tensor):
        return loss.reshape(()).to(**kind)
    return torch.full((), loss, **kind)

"""The loss over all ranks: gradients are reduced before they are measured, the loss is not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed

# A torch may be built without it.
IS_AVAILABLE = distributed.is_available()


def mean_over_ranks(losses: Mapping[str, float | Tensor]) -> Mapping[str, float | Tensor]:
    """The mean of each loss over the ranks, in one sum; as they are where there is one rank.

    Every rank must decide alike, so what it decides by must be the same number on each.
    """
    if not IS_AVAILABLE or not losses or not distributed.is_initialized():
        return losses
    ranks = distributed.get_world_size()
    if ranks == 1:
        return losses
    device = next((each.device for each in losses.values() if isinstance(each, Tensor)), None)
    values = [torch.as_tensor(each, device=device) for each in losses.values()]
    total = torch.stack([value.reshape(()).to(torch.float64) for value in values])
    distributed.all_reduce(total)
    return dict(zip(losses, (total / ranks).unbind(), strict=True))

"""Clipping that changes gradients themselves: by value, and by group."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hpckit.monitor.gradients import Norms, bounded, measure, scaled
from hpckit.train.clip import Clip
from hpckit.train.parameters import Gradients, Parameters

# As torch's own clipping has it.
EPSILON = 1e-6


class Clipped(NamedTuple):
    """By how much the whole norm shrank, and what the norm of each group was before."""

    factor: Tensor
    groups: dict[str, Tensor]


def clip_in_place(
    clip: Clip, parameters: Parameters, gradients: Gradients, norms: Norms
) -> Clipped | None:
    """Clip by value or by group, where that is asked for."""
    if clip.groups:
        return _clip_groups(clip, parameters, gradients, norms)
    if clip.value is None:
        return None
    bounded(gradients.values, clip.value)
    after = measure(gradients.values, plain=gradients.plain).total
    return Clipped(_shrunk(after, norms.total), {})


def _clip_groups(clip: Clip, parameters: Parameters, gradients: Gradients, norms: Norms) -> Clipped:
    """Each group in its own way, or in the optimizer's where it has none."""
    squares = torch.zeros((), dtype=torch.float64, device=norms.each.device)
    found = {}
    for name, mine in parameters.by_group(gradients):
        own = clip.groups.get(name, clip)
        values = [gradients.values[index] for index in mine]
        norm = torch.linalg.vector_norm(norms.each[mine[0] : mine[-1] + 1])
        if name in clip.groups:
            found[name] = norm
        after, most = norm, own.limit()
        if own.value is not None:
            bounded(values, own.value)
            after = measure(values).total
        elif most is not None:
            factor = (most / (norm + EPSILON)).clamp(max=1.0)
            scaled(values, factor.to(torch.float32))
            after = norm * factor
        squares += after.double() ** 2
    return Clipped(_shrunk(squares.sqrt(), norms.total), found)


def _shrunk(after: Tensor, before: Tensor) -> Tensor:
    """A factor, 1 where nothing was clipped and where there was nothing to clip."""
    return ((after + EPSILON) / (before + EPSILON)).clamp(max=1.0)

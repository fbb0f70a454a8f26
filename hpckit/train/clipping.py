"""Clipping that changes gradients themselves: by value, and by group."""

from __future__ import annotations

import torch
from torch import Tensor

from hpckit.monitor.gradients import Norms, bounded, measure, scaled
from hpckit.train.clip import Clip
from hpckit.train.parameters import Gradients, Parameters

# As torch's own clipping has it.
EPSILON = 1e-6


def clip_in_place(
    clip: Clip, parameters: Parameters, gradients: Gradients, norms: Norms
) -> Tensor | None:
    """Clip by value or by group; the factor by which the whole norm shrank, where it was done."""
    if clip.value is not None:
        bounded(gradients.values, clip.value)
        return measure(gradients.values, plain=gradients.plain).total / (norms.total + EPSILON)
    if not clip.groups:
        return None
    squares = torch.zeros((), dtype=torch.float64, device=norms.each.device)
    for name, mine in parameters.by_group(gradients):
        norm = torch.linalg.vector_norm(norms.each[mine[0] : mine[-1] + 1])
        most = clip.groups.get(name, clip).limit()
        if most is not None:
            factor = (most / (norm + EPSILON)).clamp(max=1.0)
            scaled([gradients.values[index] for index in mine], factor.to(torch.float32))
            norm = norm * factor
        squares += norm.double() ** 2
    return squares.sqrt() / (norms.total + EPSILON)

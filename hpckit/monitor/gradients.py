"""Measures gradients where they are: one norm a parameter and one in all, nothing waited for.

The hazards, each of which has a test: float16 squares overflow at 256, so norms are taken in
float32; float32 squares overflow near 1.8e19 although every element is finite, so a total that is
not finite proves nothing until it was taken again in float64; a sharded gradient's norm is a part
of the whole; a sparse one must be coalesced, or its repeated rows count apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


class Norms(NamedTuple):
    """What one optimizer's gradients measure: tensors on their device."""

    each: Tensor
    total: Tensor


def measure(gradients: list[Tensor], *, plain: bool = False, wide: bool = False) -> Norms:
    """The norm of each gradient and of all together, before anything is clipped.

    `plain` promises that all are dense, whole, of one type and on one device: looking at each
    one to find that out costs as much as the arithmetic of a small model. `wide` takes the norms
    in float64: exact for whatever is finite, and slower on a CPU.
    """
    if not gradients:
        return Norms(torch.zeros(0), torch.zeros(()))
    if plain:
        each = torch.stack(_norms(gradients, gradients[0].dtype, wide))
        return Norms(each, torch.linalg.vector_norm(each))
    each = _mixed([values_of(gradient) for gradient in gradients], wide)
    if any(is_sharded(gradient) for gradient in gradients):
        each = _whole(each, gradients)
    return Norms(each, torch.linalg.vector_norm(each))


def are_plain(gradients: Sequence[Tensor]) -> bool:
    """Whether all are dense and whole, of one type and on one device."""
    first = gradients[0] if gradients else None
    return first is not None and all(
        type(each) is Tensor
        and not each.is_sparse
        and not each.is_complex()
        and each.dtype == first.dtype
        and each.device == first.device
        for each in gradients
    )


def values_of(gradient: Tensor) -> Tensor:
    """The numbers of a gradient that are here: a shard's own, a sparse one's values."""
    if is_sharded(gradient):
        shard: Any = gradient
        local: Tensor = shard.to_local()
        return local
    if gradient.is_sparse:
        gradient = gradient.coalesce().values()
    return torch.view_as_real(gradient) if gradient.is_complex() else gradient


def is_sharded(tensor: Tensor) -> bool:
    # By name: torch.distributed.tensor costs a second to import, and most runs have no shards.
    return type(tensor).__name__ == "DTensor"


def _norms(parts: list[Tensor], dtype: torch.dtype, wide: bool) -> tuple[Tensor, ...]:
    if wide:
        return torch._foreach_norm(parts, 2, dtype=torch.float64)
    if dtype in HALF:
        return torch._foreach_norm(parts, 2, dtype=torch.float32)
    return torch._foreach_norm(parts)


def _mixed(parts: list[Tensor], wide: bool) -> Tensor:
    """Gradients of several types or devices: each group in one go, then put in order again."""
    groups: dict[Any, list[int]] = {}
    for index, part in enumerate(parts):
        groups.setdefault((part.device, part.dtype), []).append(index)
    found: list[Tensor | None] = [None] * len(parts)
    where = parts[0].device
    for (_, dtype), indices in groups.items():
        norms = _norms([parts[i] for i in indices], dtype, wide)
        for index, norm in zip(indices, norms, strict=True):
            found[index] = norm.to(where, torch.float64, non_blocking=True)
    return torch.stack([norm for norm in found if norm is not None])


def _whole(each: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """Norms of shards made norms of the whole: one sum over each group of ranks that share."""
    from torch import distributed
    from torch.distributed.tensor import DTensor

    squares = each.double() ** 2
    groups: dict[tuple[Any, int], list[int]] = {}
    for index, gradient in enumerate(gradients):
        if isinstance(gradient, DTensor):
            for dim, placement in enumerate(gradient.placements):
                # A replica has the whole already; there are several kinds of shards.
                if not placement.is_replicate():
                    groups.setdefault((gradient.device_mesh, dim), []).append(index)
    for (mesh, dim), indices in groups.items():
        if len(indices) == len(squares):
            # As nearly always; to pick some would make the host wait for a GPU.
            distributed.all_reduce(squares, group=mesh.get_group(dim))
            continue
        part = squares[indices]
        distributed.all_reduce(part, group=mesh.get_group(dim))
        squares[indices] = part
    return squares.sqrt()


def bounded(gradients: list[Tensor], most: float) -> None:
    """Clip every element to [-most, most], in place."""
    parts = [values_in_place(gradient) for gradient in gradients]
    if parts:
        torch._foreach_clamp_max_(parts, most)
        torch._foreach_clamp_min_(parts, -most)


def scaled(gradients: list[Tensor], factor: Tensor, *, plain: bool = False) -> None:
    """Multiply every element, in place."""
    parts = gradients if plain else [values_in_place(gradient) for gradient in gradients]
    if parts:
        torch._foreach_mul_(parts, factor)


def values_in_place(gradient: Tensor) -> Tensor:
    """As `values_of`, but what is written there is written to the gradient."""
    if gradient.is_sparse:
        # Of one that is not coalesced, values() would be a copy.
        gradient = gradient._values()
    return values_of(gradient)

"""Buffers that a forward pass changes: a gated step must leave them as they were before it.

Batch norm's statistics and spectral norm's vectors change in forward, long before anybody knows
that the step is bad; one NaN batch would ruin evaluation with every weight finite. Each buffer has
a shadow, as of the last accepted step. torch counts in-place changes, so that a large table of
constants costs its memory once and no time; but batch norm's kernel changes its statistics
without counting: those, and whatever is small, are copied at each step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SMALL = 1024


@dataclass(kw_only=True, slots=True)
class Slot:
    """One buffer's place in its module: the tensor in it may be exchanged."""

    module: nn.Module
    name: str
    seen: Tensor
    version: int
    shadow: Tensor
    # Whether a change of it is sure to be counted.
    counts: bool

    def may_have_changed(self, buffer: Tensor) -> bool:
        return not self.counts or buffer is not self.seen or buffer._version != self.version

    def settle(self, buffer: Tensor) -> None:
        self.seen, self.version = buffer, buffer._version


def _counts(module: nn.Module, name: str, buffer: Tensor) -> bool:
    is_statistic = isinstance(module, nn.modules.batchnorm._NormBase) or name.startswith("running")
    return not is_statistic and buffer.numel() > SMALL


class Buffers:
    """All buffers of some models, and what each held after the last accepted step."""

    def __init__(self, models: Iterable[nn.Module]) -> None:
        modules = {id(each): each for model in models for each in model.modules()}
        self._slots = [
            Slot(
                module=module,
                name=name,
                seen=buffer,
                version=buffer._version,
                shadow=buffer.detach().clone(),
                counts=_counts(module, name, buffer),
            )
            for module in modules.values()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def _changed(self) -> list[tuple[Slot, Tensor]]:
        found = []
        for slot in self._slots:
            buffer = slot.module._buffers.get(slot.name)
            if buffer is None or not slot.may_have_changed(buffer):
                continue
            if buffer.shape != slot.shadow.shape or buffer.dtype != slot.shadow.dtype:
                # Another buffer altogether: there is nothing of it to go back to.
                slot.shadow = buffer.detach().clone()
                slot.settle(buffer)
                continue
            found.append((slot, buffer))
        return found

    def commit(self) -> None:
        """The step was good: what the buffers hold now is what they hold."""
        self._copy([(slot.shadow, buffer, slot, buffer) for slot, buffer in self._changed()])

    def restore(self) -> None:
        """The step was bad: put back what they held before it."""
        self._copy([(buffer, slot.shadow, slot, buffer) for slot, buffer in self._changed()])

    @staticmethod
    def _copy(pairs: list[tuple[Tensor, Tensor, Slot, Tensor]]) -> None:
        if pairs:
            with torch.no_grad():
                torch._foreach_copy_([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        for _, _, slot, buffer in pairs:
            slot.settle(buffer)

    @torch.no_grad()
    def settle(self, bad: Tensor) -> None:
        """Commit or restore by a flag that is still on the device: a few kernels a type."""
        groups: dict[tuple[torch.device, torch.dtype], list[tuple[Slot, Tensor]]] = {}
        for slot, buffer in self._changed():
            groups.setdefault((buffer.device, buffer.dtype), []).append((slot, buffer))
        for pairs in groups.values():
            shadows = [slot.shadow for slot, _ in pairs]
            buffers = [buffer for _, buffer in pairs]
            before = torch.cat([shadow.reshape(-1) for shadow in shadows])
            now = torch.cat([buffer.reshape(-1) for buffer in buffers])
            # where, never a product with 0: 0 times NaN is NaN.
            right = torch.where(bad.to(now.device, torch.bool), before, now)
            parts = torch.split(right, [buffer.numel() for buffer in buffers])
            shaped = [part.view_as(buffer) for part, buffer in zip(parts, buffers, strict=True)]
            torch._foreach_copy_(shadows, shaped)
            torch._foreach_copy_(buffers, shaped)
            for slot, buffer in pairs:
                slot.settle(buffer)

"""Buffers that a forward pass changes: a pass that is held back must leave them as they were.

Batch norm's statistics and spectral norm's vectors change in forward, long before anybody knows
that the step is bad; one NaN batch would ruin evaluation with every weight finite. Each buffer has
a shadow, as of the end of the last pass in which nothing was held back. torch counts in-place
changes, so that a large table of constants costs its memory once and no time; but batch norm's
kernel and `.data` change without counting: statistics, whatever is small, and whatever was seen to
change in the first passes is copied at each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 1024
# Passes in which large buffers are compared, to see whether they change without counting.
LOOKS = 8


@dataclass(kw_only=True, slots=True)
class Slot:
    """One buffer's place in its module: the tensor in it may be exchanged."""

    module: nn.Module
    name: str
    seen: Tensor | None
    version: int
    # None: the buffer was not made yet.
    shadow: Tensor | None
    # Whether a change of it is sure to be counted.
    counts: bool

    def buffer(self) -> Tensor | None:
        return self.module._buffers.get(self.name)

    def may_have_changed(self, buffer: Tensor) -> bool:
        return not self.counts or buffer is not self.seen or _version(buffer) != self.version

    def settle(self, buffer: Tensor) -> None:
        self.seen, self.version = buffer, _version(buffer)

    def renew(self, buffer: Tensor) -> None:
        self.shadow = buffer.detach().clone()
        self.settle(buffer)


def _version(buffer: Tensor) -> int:
    # One that was made in inference mode has none, and cannot change in place either.
    return -1 if buffer.is_inference() else buffer._version


def _counts(module: nn.Module, name: str, buffer: Tensor) -> bool:
    is_statistic = isinstance(module, nn.modules.batchnorm._NormBase) or name.startswith("running")
    return not is_statistic and buffer.numel() > SMALL


def _takes_writes(slot: Slot, buffer: Tensor) -> bool:
    """Whether the tensor itself can be put back; another one can only be put in its place."""
    # An expanded one has several places for one number.
    is_expanded = 0 in buffer.stride()
    return buffer is slot.seen and not buffer.is_inference() and not is_expanded


class Buffers:
    """All buffers of some models, and what each held after the last good pass."""

    def __init__(self, models: Iterable[nn.Module], *, follows_loads: bool = True) -> None:
        """`follows_loads` hooks into the models, and whoever pickles one whole pickles the hook."""
        self.models = list(models)
        self._slots: list[Slot] = []
        self._looks = LOOKS
        self.renew()
        for model in self.models if follows_loads else ():
            # A checkpoint may be loaded after we were made.
            hook = self._loaded
            model.register_load_state_dict_post_hook(hook)  # type: ignore[no-untyped-call]

    def _loaded(self, module: nn.Module, keys: Any) -> None:
        self.renew()

    def renew(self) -> None:
        """What the buffers hold now is what they hold: after a load, or a rollback."""
        modules = {id(each): each for model in self.models for each in model.modules()}
        self._slots = [
            Slot(
                module=module,
                name=name,
                seen=buffer,
                version=-1 if buffer is None else _version(buffer),
                shadow=None if buffer is None else buffer.detach().clone(),
                counts=buffer is None or _counts(module, name, buffer),
            )
            for module in modules.values()
            for name, buffer in module._buffers.items()
        ]
        self._looks = LOOKS

    def _changed(self) -> list[tuple[Slot, Tensor, Tensor]]:
        """Slots, what is in them and what was, where the one can be made the other."""
        found = []
        for slot in self._slots:
            buffer, shadow = slot.buffer(), slot.shadow
            if buffer is None or not slot.may_have_changed(buffer):
                continue
            if shadow is None or (buffer.shape, buffer.dtype) != (shadow.shape, shadow.dtype):
                # Another buffer altogether: there is nothing of it to go back to.
                slot.renew(buffer)
                slot.counts = slot.counts and _counts(slot.module, slot.name, buffer)
                continue
            found.append((slot, buffer, shadow))
        return found

    def _unmake(self) -> None:
        """What a bad pass made is not there."""
        for slot in self._slots:
            if slot.shadow is None:
                slot.module._buffers[slot.name] = None

    def _look(self) -> None:
        """Find the large ones that change without counting; by then a forward pass was made."""
        if not self._looks:
            return
        self._looks -= 1
        for slot in self._slots:
            buffer = slot.buffer()
            if not slot.counts or buffer is None or buffer is not slot.seen or slot.shadow is None:
                continue
            if not torch.equal(buffer, slot.shadow):
                slot.counts = False

    def close_pass(self, gates: Sequence[float | Tensor]) -> None:
        """The pass is over: its buffers count, unless anything of it was held back.

        Not before: in a GAN's pass the generator's graph is alive while the discriminator steps,
        and its backward refuses buffers that were written meanwhile.
        """
        if not self._slots:
            return
        flags = [gated for gated in gates if isinstance(gated, Tensor)]
        if any(gated for gated in gates if not isinstance(gated, Tensor)):
            self.restore()
        elif flags:
            first = flags[0]
            # Optimizers may be on several devices.
            same = [flag.to(first.device, non_blocking=True) for flag in flags]
            self.settle(first if len(flags) == 1 else torch.stack(same).amax())
        else:
            self.commit()

    def commit(self) -> None:
        """The pass was good: what the buffers hold now is what they hold."""
        self._look()
        pairs = self._changed()
        if pairs:
            with torch.no_grad():
                shadows = [shadow for _, _, shadow in pairs]
                torch._foreach_copy_(shadows, [buffer.detach() for _, buffer, _ in pairs])
        for slot, buffer, _ in pairs:
            slot.settle(buffer)

    @torch.no_grad()
    def restore(self) -> None:
        """Something was held back: put back what they held before the pass."""
        self._look()
        self._unmake()
        for slot, buffer, shadow in self._changed():
            if _takes_writes(slot, buffer):
                buffer.copy_(shadow)
            else:
                buffer = slot.module._buffers[slot.name] = shadow.clone()
            slot.settle(buffer)

    def restore_unnoticed(self) -> None:
        """The same while a graph may be alive, whose backward would refuse what it sees change."""
        there = [each for slot in self._slots if (each := slot.buffer()) is not None]
        counters: Any = torch.autograd._unsafe_preserve_version_counter  # type: ignore[attr-defined]
        with counters(tuple(each for each in there if not each.is_inference())):
            self.restore()
        for slot in self._slots:
            buffer = slot.buffer()
            if buffer is not None and buffer is slot.seen:
                slot.settle(buffer)

    @torch.no_grad()
    def settle(self, bad: Tensor) -> None:
        """Commit or restore by a flag that is still on the device: a few kernels a type."""
        self._look()
        groups: dict[tuple[torch.device, torch.dtype], list[tuple[Slot, Tensor, Tensor]]] = {}
        for pair in self._changed():
            groups.setdefault((pair[1].device, pair[1].dtype), []).append(pair)
        for pairs in groups.values():
            shadows = [shadow for _, _, shadow in pairs]
            buffers = [buffer.detach() for _, buffer, _ in pairs]
            before = torch.cat([shadow.reshape(-1) for shadow in shadows])
            now = torch.cat([buffer.reshape(-1) for buffer in buffers])
            # where, never a product with 0: 0 times NaN is NaN.
            right = torch.where(bad.to(now.device, torch.bool), before, now)
            parts = torch.split(right, [buffer.numel() for buffer in buffers])
            shaped = [part.view_as(buffer) for part, buffer in zip(parts, buffers, strict=True)]
            torch._foreach_copy_(buffers, shaped)
            torch._foreach_copy_(shadows, shaped)
            for slot, buffer, _ in pairs:
                slot.settle(buffer)

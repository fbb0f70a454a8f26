"""State in host memory, as it was after one step: what is written off-thread, and gone back to.

A buffer's first touch costs fifty times a copy into memory that is there (measured: 1.0 s and
0.02 s for 400 MB), so that buffers are used again and again, and made ahead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from hpckit.train.registry import local_part
from hpckit.train.tree import mapped, tensors_of

# Steps that memory looks back; what lies farther is on disk.
HORIZON = 600


@dataclass(kw_only=True, eq=False)
class Snapshot:
    """The whole state after a step; `state` is what all share, `own` is this rank's."""

    step: int
    state: dict[str, Any]
    own: dict[str, Any]
    buffers: list[Tensor]
    # None while it is undecided.
    good: bool | None = None
    # Who else still reads it: a writer.
    users: int = 0
    # Set on a GPU, when the copies have been done.
    copied: Any = None

    def wait(self) -> None:
        """Before the host reads it."""
        if self.copied is not None:
            self.copied.synchronize()

    def tensors(self) -> dict[str, Tensor]:
        """What must be finite; a person's own values may be what they like.

        So may single numbers of other things: the best so far begins as infinity.
        """
        own = tensors_of({name: each for name, each in self.own.items() if name != "values"})
        return tensors_of(self.state) | {name: each for name, each in own.items() if each.dim()}


class Buffers:
    """Host memory for snapshots that are all alike."""

    def __init__(self) -> None:
        self._free: list[list[Tensor]] = []
        # How many tensors they are for, once that is known.
        self.length: int | None = None
        self._lock = threading.Lock()

    def take(self) -> list[Tensor]:
        """Memory of a snapshot that nobody reads any more; none where there is none."""
        with self._lock:
            return self._free.pop() if self._free else []

    def give(self, buffers: list[Tensor]) -> None:
        with self._lock:
            # Not what is from before the optimizer had its moments.
            if self.length in (None, len(buffers)):
                self._free.append(buffers)

    def prepare(self, like: list[Tensor], number: int) -> None:
        """Touch memory for so many of these, on a thread: the loop must not wait for it."""
        with self._lock:
            self.length = len(like)
            self._free.clear()

        def touch() -> None:
            for _ in range(number):
                self.give([_on_host(each).zero_() for each in like])

        threading.Thread(target=touch, name="snapshot memory", daemon=True).start()


def _fits(buffer: Tensor, tensor: Tensor) -> bool:
    return buffer.shape == tensor.shape and buffer.dtype == tensor.dtype


def _on_host(tensor: Tensor) -> Tensor:
    """Memory for it, laid out as it is."""
    pinned = tensor.is_cuda
    return torch.empty_like(tensor, device="cpu", pin_memory=pinned, requires_grad=False)


class Taker:
    """Takes snapshots of state trees."""

    def __init__(self) -> None:
        self.buffers = Buffers()
        self._lock = threading.Lock()

    def hold(self, snapshot: Snapshot) -> None:
        """One more reads it: its memory stays until that one has dropped it, too."""
        with self._lock:
            snapshot.users += 1

    @torch.no_grad()
    def take(self, step: int, state: dict[str, Any], own: dict[str, Any]) -> Snapshot:
        """Copy every tensor to host memory; the loop waits for no more than that."""
        free = self.buffers.take()
        buffers: list[Tensor] = []

        def buffer(tensor: Tensor) -> Tensor:
            index = len(buffers)
            found = free[index] if index < len(free) and _fits(free[index], tensor) else None
            buffers.append(found if found is not None else _on_host(tensor))
            return buffers[-1]

        made, live = _replaced({"state": state, "own": own}, buffer)
        if live:
            torch._foreach_copy_(buffers, live, non_blocking=True)
        snapshot = Snapshot(step=step, state=made["state"], own=made["own"], buffers=buffers)
        if any(each.is_cuda for each in live):
            # In order on the stream: the next step comes after it, and nobody waits here.
            snapshot.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            snapshot.copied.record()
        return snapshot

    def drop(self, snapshot: Snapshot) -> None:
        """Nobody goes back to it any more; its memory serves the next one."""
        with self._lock:
            snapshot.users -= 1
            is_free = snapshot.users < 0
        if is_free:
            self.buffers.give(snapshot.buffers)


def _replaced(tree: Any, by: Callable[[Tensor], Any]) -> tuple[Any, list[Tensor]]:
    """The containers with each tensor replaced, and the tensors; a tied one once."""
    known: dict[int, list[tuple[Tensor, Any]]] = {}
    live: list[Tensor] = []

    def replaced(tensor: Tensor) -> Any:
        tensor = _plain(tensor)
        place = tensor.data_ptr()
        # Tied weights are one tensor with two names; what is empty lies nowhere.
        there = known.setdefault(place, []) if place else []
        for other, made in there:
            if _is_same(other, tensor):
                return made
        live.append(tensor)
        there.append((tensor, by(tensor)))
        return there[-1][1]

    return mapped(tree, replaced), live


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two at one address are one: views of one may lie there, too."""
    return _fits(one, other) and one.stride() == other.stride() and one.device == other.device


def live_tensors(state: dict[str, Any], own: dict[str, Any]) -> list[Tensor]:
    """The tensors that a snapshot of these would copy."""
    return _replaced({"state": state, "own": own}, lambda each: each)[1]


def _plain(tensor: Tensor) -> Tensor:
    found = tensor if type(tensor) in (Tensor, Parameter) else local_part(tensor)
    return found.detach().to_dense() if found.is_sparse else found


def first_bad(tensors: Mapping[str, Tensor], but: Collection[str] = ()) -> str | None:
    """The name of the first tensor with a value that is not finite."""
    return next(
        (name for name, tensor in tensors.items() if name not in but and _is_bad(tensor)), None
    )


def all_bad(tensors: Mapping[str, Tensor]) -> frozenset[str]:
    """Of a model that has not been trained: what holds infinities by its nature, as masks do."""
    return frozenset(name for name, tensor in tensors.items() if _is_bad(tensor))


def _is_bad(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return False
    if tensor.dtype.itemsize == 1:
        if tensor.dtype == getattr(torch, "float4_e2m1fn_x2", None):
            # It has neither, and torch does not count with it.
            return False
        tensor = tensor.float()
    # A sum is one fast pass and keeps every NaN; one that overflows is looked at again.
    return not torch.isfinite(tensor.sum()) and not bool(torch.isfinite(tensor).all())


class Ring:
    """The last snapshots in memory; the newest good one is never given up."""

    def __init__(self, taker: Taker, capacity: int) -> None:
        self.taker = taker
        self.capacity = capacity
        self.all: list[Snapshot] = []

    def add(self, snapshot: Snapshot) -> None:
        for each in [each for each in self.all if each.step == snapshot.step]:
            # Of the same weights, at an epoch's end maybe: one place in the ring is enough.
            snapshot.good = snapshot.good or each.good
            self._drop(each)
        self.all.append(snapshot)
        while len(self.all) > self.capacity:
            self._drop(self._least_useful())

    def _least_useful(self) -> Snapshot:
        bad = next((each for each in self.all if each.good is False), None)
        if bad is not None:
            return bad
        good = [each for each in self.all if each.good]
        if len(good) < 2:
            # The older of the undecided is the first to be good: the newest has to wait for it.
            return self.all[-1]
        now = self.all[-1].step
        if now - good[0].step > HORIZON:
            return good[0]
        # The older they are the farther apart: an onset is rarely long ago, but then it matters.
        inner = zip(good, good[1:], good[2:], strict=False)
        gaps = [
            ((after.step - before.step) / max(1, now - each.step) ** 2, each)
            for before, each, after in inner
        ]
        return min(gaps, key=lambda gap: gap[0])[1] if gaps else good[0]

    def _drop(self, snapshot: Snapshot) -> None:
        self.all.remove(snapshot)
        self.taker.drop(snapshot)

    def good(self, before: int | None, least: int) -> list[Snapshot]:
        """Those that are good, of no step after `before` and none under `least`, newest first."""
        return [
            each
            for each in reversed(self.all)
            if each.good and each.step >= least and (before is None or each.step <= before)
        ]

    def drop_after(self, step: int) -> None:
        """What was taken after a step is on a branch that was left."""
        for each in [each for each in self.all if each.step > step]:
            self._drop(each)

    def drop_all(self) -> None:
        for each in list(self.all):
            self._drop(each)

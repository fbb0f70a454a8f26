"""When state is kept, where, and which of it is good: memory to go back, disk to come back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from hpckit.checkpoint import retention
from hpckit.checkpoint.manifest import Checkpoint
from hpckit.checkpoint.names import Segment, folder_name
from hpckit.checkpoint.store import Store
from hpckit.spec.parts import Checkpoint as Settings
from hpckit.train.saving import PAUSE_S, Saver
from hpckit.train.snapshots import (
    Ring,
    Snapshot,
    Taker,
    first_bad,
    how_many_fit,
    live_tensors,
)
from hpckit.train.writing import SHARDED, STATE, Task, Writer

# Steps between two snapshots in memory; with 100 steps to confirm one, and none held back, at most
# 125 are replayed. Where few fit, so that most of them would wait to be confirmed: twice as many.
MEMORY_EVERY = 25
FEW = 8
# A save that is due for so long, while one is being written, is told.
SLOW_S = 60.0
# Bad steps that are remembered while a state waits to be confirmed.
MOST_BAD = 1000


class Keeper:
    """Takes snapshots, hands them to the disk, confirms them, and answers where to go back to."""

    def __init__(
        self,
        *,
        store: Store,
        settings: Settings,
        segment: Segment,
        rank: int,
        world_size: int,
        tell: Callable[[str], None],
    ) -> None:
        self.store = store
        self.settings = settings
        self.segment = segment
        self.rank = rank
        self.world_size = world_size
        self.tell = tell
        self.taker = Taker()
        self.ring = Ring(self.taker, 1)
        rules = retention.Rules(keep=settings.keep, keep_every=settings.keep_every)
        self.writer = Writer(store=store, rank=rank, world_size=world_size)
        self.saver = Saver(writer=self.writer, rules=rules, tell=tell, drop=self.taker.drop)
        # Steps that were not healthy, as long as a state of before waits to be confirmed.
        self.bad_steps: list[int] = []
        self._newest: Path | None = None
        self._saved_at = time.monotonic()
        self._saved_step = 0
        self._saved_epoch = 0
        self._told_slow = False
        self._due_since: float | None = None

    # When.

    def is_due_in_memory(self, step: int) -> bool:
        every = MEMORY_EVERY if self.ring.capacity >= FEW else 2 * MEMORY_EVERY
        return step % every == 0 and self.ring.capacity > 0

    def is_due(self, step: int, epoch: int | None = None) -> bool:
        """Whether to save: rank 0 asks, and all obey at one step.

        With `epoch` at an epoch's end. A disk that is slower than the interval makes it longer:
        the training waits for none.
        """
        every, now = self.settings.every, time.monotonic()
        failed = self.saver.failed_at
        if failed is not None:
            # It is tried again before its time.
            due = now - failed >= PAUSE_S
        elif every.steps is not None:
            due = step - self._saved_step >= every.steps
        elif every.epochs is not None:
            due = epoch is not None and epoch - self._saved_epoch >= every.epochs
        else:
            due = every.seconds is not None and now - self._saved_at >= every.seconds
        if not due or self.saver.is_idle:
            self._due_since = None
        elif self._due_since is None:
            self._due_since = now
        elif now - self._due_since > SLOW_S and not self._told_slow:
            self._told_slow = True
            self.tell(
                f"writing a checkpoint takes longer than the interval between two: one is due for "
                f"{SLOW_S:.0f} s; nothing waits for it, checkpoint.every could be longer"
            )
        return due and self.saver.is_idle

    def resumed(self, step: int, epoch: int) -> None:
        """The state of this step is on disk."""
        self._saved_step, self._saved_epoch = step, epoch

    # Taking.

    def take(
        self, step: int, state: dict[str, Any], own: dict[str, Any], *, good: bool = False
    ) -> Snapshot:
        """Copy the state after a step, for whoever keeps it."""
        snapshot = self.taker.take(step, state, own)
        snapshot.good = True if good or step == 0 else None
        return snapshot

    def to_disk(
        self,
        snapshot: Snapshot,
        *,
        why: str,
        about: dict[str, Any],
        plain: dict[str, Any],
        sharded: Callable[[Path], Callable[[], str | None]] | None = None,
    ) -> None:
        """Have it written: with what is told `about` it, and this rank's `plain` numbers."""
        self.taker.hold(snapshot)
        folder = self.store.folder / folder_name(snapshot.step, self.segment)
        # An epoch's end after its last step has the same folder: there it is already.
        is_new, self._newest = folder != self._newest, folder
        later = sharded(folder / SHARDED) if sharded is not None and is_new else None
        self.saver.save(
            Task(
                snapshot=snapshot,
                segment=self.segment,
                why=why,
                about=about,
                plain=plain,
                sharded=later,
            )
        )
        self.resumed(snapshot.step, about.get("epoch", 0))
        self._saved_at = time.monotonic()

    def make_room(self, state: dict[str, Any], own: dict[str, Any]) -> None:
        """Now that the optimizers have their moments: how many of these fit into memory."""
        live = live_tensors(state, own)
        size = sum(each.numel() * each.element_size() for each in live)
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        fit = how_many_fit(size, here)
        if self.world_size > 1:
            # All go back to the same state, so all must have it.
            device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
            least = torch.tensor(fit, device=device)
            distributed.all_reduce(least, op=distributed.ReduceOp.MIN)
            fit = int(least)
        # One more is being written; with fewer than three none would live to be good.
        self.ring.capacity = fit - 1 if fit >= 4 else 0
        if self.ring.capacity:
            self.taker.buffers.prepare(live, self.ring.capacity + 1)
        else:
            self.ring.drop_all()
            self.tell("the state does not fit into memory again: a rollback reads it from disk")

    # Confirming.

    def note(self, step: int, *, healthy: bool) -> None:
        """A step was judged."""
        if not healthy:
            self.bad_steps.append(step)
            del self.bad_steps[:-MOST_BAD]

    def confirm(self, judged: int) -> None:
        """Those that enough healthy steps have followed are good."""
        most = judged - self.settings.confirm_steps
        for snapshot in self.ring.all:
            if snapshot.good is None and snapshot.step <= most - self._bad_since(snapshot.step):
                snapshot.good = True
        failed = self.saver.failed_at
        pauses = failed is not None and time.monotonic() - failed < PAUSE_S
        if self.rank != 0 or not self.saver.undecided or pauses:
            return
        ready = self.saver.forget(lambda each: each.step <= most - self._bad_since(each.step))
        for checkpoint in ready:
            self.saver.confirm(checkpoint, judged)

    def _bad_since(self, step: int) -> int:
        return sum(bad >= step for bad in self.bad_steps) if self.bad_steps else 0

    def doubt(self, since: int) -> None:
        """Something went wrong from a step on, and nobody goes back: what is newer is not good."""
        for snapshot in self.ring.all:
            if snapshot.good is None and snapshot.step > since:
                snapshot.good = False
        self.saver.forget(lambda each: each.step > since)

    # Going back.

    def target(self, before: int | None, back: int, least: int) -> Snapshot | Checkpoint | None:
        """The state to go back to: the newest good one, from memory where it is there."""
        memory = self._in_memory(before, back, least)
        disk = None
        if memory is None or back:
            self.saver.wait()
            disk = self.store.newest_good(before, back, self.tell)
            if disk is not None and disk.step < least:
                disk = None
        if memory is None or (disk is not None and disk.step > memory.step):
            return disk
        return memory

    def _in_memory(self, before: int | None, back: int, least: int) -> Snapshot | None:
        while True:
            limit = before if before is not None else 1 << 62
            found = self.ring.newest_good(limit, back)
            if found is None or found.step < least:
                return None
            found.wait()
            if first_bad(found.tensors(), self.writer.never_finite) is None:
                return found
            found.good = False

    def in_memory(self, step: int) -> Snapshot:
        return next(each for each in self.ring.all if each.step == step)

    def went_back(self, step: int) -> None:
        """The run goes on from a step of before, on a branch of its own."""
        self.saver.went_back(step, self.segment)
        self.ring.drop_after(step)
        self.bad_steps = [bad for bad in self.bad_steps if bad < step]
        self.segment = Segment(
            self.segment.attempt, self.segment.launch, self.segment.rollbacks + 1
        )
        self._saved_step = min(self._saved_step, step)


def loaded(checkpoint: Checkpoint, rank: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What all share of a checkpoint, and this rank's own; of a rank that is new, rank 0's."""
    own = f"rank-{rank}.pt"
    if own not in checkpoint.files:
        own = "rank-0.pt"
    parts = (STATE, own)
    shared, mine = (
        torch.load(checkpoint.path / name, map_location="cpu", weights_only=True) for name in parts
    )
    return shared, mine

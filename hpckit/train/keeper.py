"""When state is kept, where, and which of it is good: memory to go back, disk to come back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from hpckit.checkpoint import retention
from hpckit.checkpoint.manifest import Checkpoint
from hpckit.checkpoint.names import Segment, folder_name
from hpckit.checkpoint.search import Search
from hpckit.checkpoint.store import Store, further
from hpckit.spec.parts import Checkpoint as Settings
from hpckit.train.room import how_many_fit
from hpckit.train.saving import PAUSE_S, Saver
from hpckit.train.snapshots import (
    Ring,
    Snapshot,
    Taker,
    first_bad,
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
        # Why a state cannot be put back; a program may have made its model or optimizer another.
        self.misfit: Callable[[dict[str, Any]], str | None] = lambda items: None
        self.taker = Taker()
        self.ring = Ring(self.taker, 1)
        rules = retention.Rules(keep=settings.keep, keep_every=settings.keep_every)
        self.writer = Writer(store=store, rank=rank, world_size=world_size)
        self.saver = Saver(writer=self.writer, rules=rules, tell=tell, drop=self.taker.drop)
        # Steps that were not healthy, as long as a state of before waits to be confirmed.
        self.bad_steps: list[int] = []
        # When something was last told that nobody goes back for.
        self._doubted = -(1 << 62)
        # The newest one, by its moment; and which one of its step it is.
        self._newest: tuple[Any, ...] = ()
        self._nth = 1
        # Bytes of memory that snapshots have.
        self._held = 0
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
            # Whatever the disk does: an epoch's end does not come again at the next step.
            return epoch is not None and epoch - self._saved_epoch >= every.epochs
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
        moment: tuple[int, ...],
        about: dict[str, Any],
        plain: dict[str, Any],
        sharded: Callable[[Path], Callable[[], str | None]] | None = None,
    ) -> None:
        """Have it written: with what is told `about` it, and this rank's `plain` numbers.

        A step may have several moments: after an epoch's last one the program does this and that.
        """
        self.taker.hold(snapshot)
        step = snapshot.step
        is_new = (step, self.segment, moment) != self._newest
        if is_new:
            same_step = (step, self.segment) == self._newest[:2]
            self._nth = self._nth + 1 if same_step else 1
            self._newest = (step, self.segment, moment)
        folder = self.store.folder / folder_name(step, self.segment, self._nth)
        later = sharded(folder / SHARDED) if sharded is not None and is_new else None
        self.saver.save(
            Task(
                snapshot=snapshot,
                segment=self.segment,
                folder=folder,
                good=bool(snapshot.good),
                why=why,
                about=about,
                plain=plain,
                sharded=later,
            )
        )
        self.resumed(snapshot.step, about.get("epoch", 0))
        self._saved_at = time.monotonic()

    def make_room(self, state: dict[str, Any], own: dict[str, Any]) -> None:
        """Now that optimizers have their moments: how many of these fit into memory.

        Asked again, what is in use already counts as free.
        """
        live = live_tensors(state, own)
        size = sum(each.numel() * each.element_size() for each in live)
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        fit = how_many_fit(size, here, self._held)
        if self.world_size > 1:
            # All go back to the same state, so all must have it.
            device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
            least = torch.tensor(fit, device=device)
            distributed.all_reduce(least, op=distributed.ReduceOp.MIN)
            fit = int(least)
        # One more is being written; with fewer than three none would live to be good.
        capacity = fit - 1 if fit >= 4 else 0
        buffers = self.taker.buffers
        if capacity == self.ring.capacity and buffers.length in (None, len(live)):
            return
        self.ring.capacity = capacity
        if capacity:
            buffers.prepare(live, capacity + 1)
            self._held = size * (capacity + 1)
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

    def doubt(self, since: int, seen: int) -> None:
        """Something went wrong from a step on, and nobody goes back: what is newer is not good."""
        self._doubted = seen
        for snapshot in self.ring.all:
            if snapshot.good is None and snapshot.step > since:
                snapshot.good = False
        self.saver.forget(lambda each: each.step > since)

    def is_calm(self, step: int) -> bool:
        """Whether nothing was wrong for so long that the present state is good as it is."""
        wrong = max([*self.bad_steps, self._doubted])
        return step - wrong > self.settings.confirm_steps

    # Going back.

    def target(self, before: int | None, back: int, least: int) -> Snapshot | Checkpoint | None:
        """The state to go back to: the newest good one, from memory where it is there.

        Or the one that is so many good ones further `back`: as far as there are.
        """
        memory = {each.step: each for each in self.ring.good(before, least)}
        newest = self._first_finite([] if back else memory.values())
        if newest is not None:
            return newest
        self.saver.wait()
        search = Search(self.store, self.tell)
        disk = {each.step: each for each in reversed(search.good(before, least))}
        for step in further(sorted({*memory, *disk}, reverse=True), back):
            near = self._first_finite([memory[step]] if step in memory else [])
            far = [disk[step]] if step in disk else []
            found = near or search.first_intact(far)
            if isinstance(found, Checkpoint):
                wrong = self.misfit(_shapes(found)["items"])
                if wrong is not None:
                    self.tell(f"{found.name} is passed over: {wrong}")
                    continue
            if found is not None:
                return found
        search.refuse_to_forget()
        return None

    def _first_finite(self, snapshots: Iterable[Snapshot]) -> Snapshot | None:
        for each in snapshots:
            each.wait()
            bad = first_bad(each.tensors(), self.writer.never_finite)
            if bad is None and self.misfit(each.state["items"]) is None:
                return each
            each.good = False
        return None

    def in_memory(self, step: int) -> Snapshot:
        return next(each for each in self.ring.all if each.step == step)

    def went_back(self, step: int, epoch: int) -> None:
        """The run goes on from a step of before, on a branch of its own."""
        self.saver.went_back(step, self.segment)
        self.ring.drop_after(step)
        self.bad_steps = [bad for bad in self.bad_steps if bad < step]
        self.segment = Segment(
            self.segment.attempt, self.segment.launch, self.segment.rollbacks + 1
        )
        self._saved_step = min(self._saved_step, step)
        self._saved_epoch = min(self._saved_epoch, epoch)


def _shapes(checkpoint: Checkpoint) -> dict[str, Any]:
    """What all share of a checkpoint, its tensors without their numbers."""
    found: dict[str, Any] = torch.load(
        checkpoint.path / STATE, map_location="meta", weights_only=True
    )
    return found


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

"""Has snapshots written, on a thread of its own: the training never waits for a disk."""

from __future__ import annotations

import contextlib
import errno
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hpckit.checkpoint import manifest, retention
from hpckit.checkpoint.manifest import Checkpoint
from hpckit.checkpoint.names import Segment
from hpckit.train.snapshots import Snapshot
from hpckit.train.writing import Task, Writer

# After a save that failed, no other is tried for so long.
PAUSE_S = 60.0
# With so many on their way the loop waits.
MOST_WAITING = 2
# Saves that no other comes after: a disk that is full for a moment is waited for.
LAST = ("end", "told to end")
LAST_CHANCES = 4
PATIENCE_S = 5.0
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(kw_only=True)
class Saver:
    """The thread that writes, and what it knows of what it has written."""

    writer: Writer
    rules: retention.Rules
    tell: Callable[[str], None]
    drop: Callable[[Snapshot], None]
    # Written in this process and not confirmed yet; rank 0's business.
    undecided: list[Checkpoint] = field(default_factory=list)
    failed_at: float | None = None
    # Why the last state of all is not on the disk.
    unsaved: str | None = None
    # What was told of it: a disk that stays full is one story.
    _trouble: str | None = None
    # The newest folder that a save was for.
    _tried: Path | None = None
    _tasks: queue.Queue[Callable[[], None] | None] = field(default_factory=queue.Queue)
    _busy: int = 0
    _thread: threading.Thread | None = None
    _idle: threading.Condition = field(default_factory=threading.Condition)
    # Both threads change what is undecided.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def save(self, task: Task) -> None:
        """Take over a snapshot that is held, and drop it when it is written.

        Each that waits has the whole state in memory: with two on their way the loop waits.
        """
        if self._busy >= MOST_WAITING:
            self.wait()
        self._do(lambda: self._save(task))

    def consider(self, checkpoint: Checkpoint) -> None:
        """It waits to be confirmed."""
        with self._lock:
            if all(each.path != checkpoint.path for each in self.undecided):
                self.undecided.append(checkpoint)

    def forget(self, which: Callable[[Checkpoint], bool]) -> list[Checkpoint]:
        """These wait no more."""
        with self._lock:
            gone = [each for each in self.undecided if which(each)]
            self.undecided = [each for each in self.undecided if not which(each)]
        return gone

    def confirm(self, checkpoint: Checkpoint, step: int) -> None:
        self._do(lambda: self._confirm(checkpoint, step))

    def _do(self, task: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="checkpoints", daemon=True)
            self._thread.start()
        with self._idle:
            self._busy += 1
        self._tasks.put(task)

    @property
    def is_idle(self) -> bool:
        return self._busy == 0

    def wait(self, patience_s: float = 10.0) -> None:
        """Until all is written; who waits long is told what for."""
        began = time.monotonic()
        with self._idle:
            while self._busy:
                if not self._idle.wait(patience_s) and self._busy:
                    took = time.monotonic() - began
                    self.tell(f"waiting for a checkpoint to be written, since {took:.0f} s")

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception as error:
                self.tell(f"a checkpoint failed: {type(error).__name__}: {error}")
            finally:
                with self._idle:
                    self._busy -= 1
                    self._idle.notify_all()

    def close(self) -> None:
        self.wait()
        if self._thread is not None:
            self._tasks.put(None)
            self._thread.join()
            self._thread = None

    # On the thread.

    def _save(self, task: Task) -> None:
        try:
            if task.folder == self._tried:
                made = self.writer.again(task)
                if made is not None and made.finite and task.good:
                    self._confirm(made, made.step)
                return
            if self._tried is not None and not self.writer.store.folder.is_dir():
                gone = self.writer.store.folder
                self.tell(f"{gone} is gone, and what was saved in it: it is made anew")
            self._tried = task.folder
            for left in reversed(range(LAST_CHANCES if task.why in LAST else 2)):
                try:
                    made = self.writer.write(task)
                except Exception as error:
                    self.writer.clean(task, str(error))
                    may_help = task.why in LAST and self.writer.world_size == 1
                    full = isinstance(error, OSError) and error.errno in FULL
                    if left and ((full and self._made_room()) or may_help):
                        time.sleep(PATIENCE_S if may_help else 0.0)
                        continue
                    self._failed(task, error)
                    return
                self._works_again(task)
                if made is not None:
                    self._afterwards(made)
                return
        finally:
            self.drop(task.snapshot)

    def _failed(self, task: Task, error: Exception) -> None:
        self.failed_at = time.monotonic()
        if self.writer.world_size == 1:
            self._tried = None
        where = getattr(error, "filename", None) or self.writer.store.folder
        what = getattr(error, "strerror", None) or str(error) or type(error).__name__
        then = "the training goes on without it, and tries again"
        if task.why in LAST:
            self.unsaved = f"{where}: {what}"
            then = "nothing is tried any more: what came after the newest checkpoint will be lost"
        text = f"the checkpoint of step {task.snapshot.step} could not be written: {where}: {what}"
        self._tell_trouble(what + task.why if task.why in LAST else what, f"{text}; {then}")

    def _tell_trouble(self, what: str, text: str) -> None:
        if what != self._trouble:
            self._trouble = what
            self.tell(text)

    def _works_again(self, task: Task) -> None:
        if self._trouble is not None:
            self.tell(f"checkpoints can be written again: step {task.snapshot.step}")
        self.failed_at = self._trouble = self.unsaved = None

    def _afterwards(self, made: Checkpoint) -> None:
        """It is there, and whole: whatever fails from here on does it no harm."""
        if not made.finite:
            self.tell(
                f"the checkpoint of step {made.step} is not finite: {made.bad}; "
                "no rollback will take it"
            )
        elif made.confirmed_at is not None:
            self._confirm(made, made.step)
            return
        else:
            self.consider(made)
        self._retain(made.step)

    def _confirm(self, checkpoint: Checkpoint, step: int) -> None:
        try:
            manifest.confirm(checkpoint, step)
        except OSError as error:
            # Room may come back: it is tried again at the next boundary.
            self.consider(checkpoint)
            self.failed_at = time.monotonic()
            what = error.strerror or str(error)
            self._tell_trouble(what, f"{checkpoint.name} could not be marked as good: {what}")
            return
        self.forget(lambda each: each.path == checkpoint.path)
        self._retain(step)

    def _retain(self, step: int) -> int:
        """Delete what is not needed any more; how many that were."""
        try:
            going = retention.to_delete(*self.writer.store.parted(), self.rules, step)
            return sum(retention.delete(each) for each in going)
        except OSError as error:
            self._tell_trouble(str(error), f"old checkpoints could not be looked at: {error}")
            return 0

    def _made_room(self) -> bool:
        return self.writer.rank == 0 and self._retain(1 << 62) > 0

    def went_back(self, step: int, segment: Segment) -> None:
        """What is newer than a step is on a branch that was left.

        Where a later attempt has begun it is we who were left behind: it builds on all there is.
        """
        self.wait()
        self.forget(lambda each: each.step > step)
        if self.writer.rank != 0:
            return
        # Where it cannot be read: by the ledger's word of the rollback they count no more.
        with contextlib.suppress(OSError):
            if any(each.segment.attempt > segment.attempt for each in self.writer.store.begun()):
                return
            for each in self.writer.store.all():
                if each.step > step and each.segment <= segment:
                    with contextlib.suppress(OSError):
                        manifest.abandon(each)

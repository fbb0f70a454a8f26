"""Writes snapshots into checkpoints, on a thread of its own: the training never waits for a disk.

Each rank writes its own files and then its word on them; rank 0 waits for all words and writes the
manifest, which makes the folder a checkpoint. Whoever dies before that leaves a folder that nobody
takes for one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hpckit.checkpoint import manifest, retention
from hpckit.checkpoint.manifest import Checkpoint, Word
from hpckit.checkpoint.names import Segment, folder_name
from hpckit.checkpoint.store import Store
from hpckit.clock import now_iso
from hpckit.files import fsync_folder
from hpckit.train.snapshots import Snapshot, first_bad
from hpckit.train.tree import tensors_of

STATE = "state.pt"
SHARDED = "sharded"
# How long rank 0 waits for the others' words: their folder may be slow.
WORDS_S = 300.0
# Once the program itself is over: most likely a rank has died, and nobody is to wait for its word.
ENDING_S = 20.0
LOOK_S = 0.05
# After a save that failed, no other is tried for so long.
PAUSE_S = 60.0
# With so many on their way the loop waits.
MOST_WAITING = 2
# Saves that no other comes after: a disk that is full for a moment is waited for.
LAST = ("end", "time limit")
LAST_CHANCES = 4
PATIENCE_S = 5.0
# A disk with less room than this is full.
LITTLE = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One snapshot on its way to the disk."""

    snapshot: Snapshot
    segment: Segment
    why: str
    about: dict[str, Any]
    # Of this rank, what only a checkpoint on disk needs.
    plain: dict[str, Any]
    # Of a sharded training: waits until torch's own checkpoint is written; what is not finite.
    sharded: Callable[[], str | None] | None = None


@dataclass(kw_only=True)
class Saver:
    """The thread that writes, and what it knows of what it has written."""

    store: Store
    rank: int
    world_size: int
    rules: retention.Rules
    tell: Callable[[str], None]
    drop: Callable[[Snapshot], None]
    # What must be on the disk before a checkpoint counts: the readings of the steps before it.
    settle: Callable[[], None] = lambda: None
    # Tensors that hold infinities by their nature, as masks do.
    never_finite: frozenset[str] = frozenset()
    # Written in this process and not confirmed yet; rank 0's business.
    undecided: list[Checkpoint] = field(default_factory=list)
    failed_at: float | None = None
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
            if self._folder(task) == self._tried:
                self._again(task)
                return
            self._tried = self._folder(task)
            for left in reversed(range(LAST_CHANCES if task.why in LAST else 2)):
                try:
                    made = self._write(task)
                except Exception as error:
                    self._clean(task, str(error))
                    may_help = task.why in LAST and self.world_size == 1
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
        if self.world_size == 1:
            self._tried = None
        where = getattr(error, "filename", None) or self.store.folder
        what = getattr(error, "strerror", None) or str(error) or type(error).__name__
        then = "the training goes on without it, and tries again"
        if task.why in LAST:
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
        self.failed_at = self._trouble = None

    def _again(self, task: Task) -> None:
        """An epoch's end after its last step: the weights are there, and may be the best now.

        No file is written anew: one rank's would meet others of the first time.
        """
        made = manifest.read(self._folder(task)) if self.rank == 0 else None
        if made is not None and task.about.get("best"):
            metrics = task.about.get("metrics", {})
            manifest.write(dataclasses.replace(made, best=True, metrics=metrics))

    def _folder(self, task: Task) -> Path:
        return self.store.folder / folder_name(task.snapshot.step, task.segment)

    def _write(self, task: Task) -> Checkpoint | None:
        """Write this rank's part; on rank 0 what has come of all."""
        folder, snapshot = self._folder(task), task.snapshot
        if not self.store.folder.parent.is_dir():
            raise FileNotFoundError(
                errno.ENOENT, "the run's folder is gone", str(self.store.folder.parent)
            )
        if (folder / manifest.MANIFEST).exists():
            return None
        folder.mkdir(parents=True, exist_ok=True)
        snapshot.wait()
        parts = {f"rank-{self.rank}.pt": {**snapshot.own, **task.plain}}
        if self.rank == 0:
            parts[STATE] = {"format": manifest.FORMAT, **snapshot.state}
        files = {name: _written(folder / name, part) for name, part in parts.items()}
        bad = first_bad(snapshot.tensors(), self.never_finite)
        if task.sharded is not None:
            bad = task.sharded() or bad
            if self.rank == 0:
                files |= _measured(folder / SHARDED, folder)
        Word(files=files, finite=bad is None, bad=bad).write(folder, self.rank)
        return self._concluded(task, folder) if self.rank == 0 else None

    def _concluded(self, task: Task, folder: Path) -> Checkpoint:
        """Rank 0's last word: from here on it is a checkpoint."""
        words = self._words(folder)
        files = {name: each for word in words for name, each in word.files.items()}
        bad = next((word.bad for word in words if not word.finite), None)
        tensors = tensors_of({k: v["state"] for k, v in task.snapshot.state["items"].items()})
        made = Checkpoint(
            path=folder,
            step=task.snapshot.step,
            segment=task.segment,
            world_size=self.world_size,
            created=now_iso(),
            why=task.why,
            files=files,
            finite=bad is None,
            bad=bad,
            bytes=sum(each["size"] for each in files.values()),
            tensors={k: [list(v.shape), str(v.dtype)] for k, v in tensors.items()},
            **task.about,
        )
        fsync_folder(folder)
        self.settle()
        manifest.write(made)
        fsync_folder(self.store.folder)
        return dataclasses.replace(made, confirmed_at=made.step) if task.snapshot.good else made

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

    def _words(self, folder: Path) -> list[Word]:
        until = time.monotonic() + WORDS_S
        while True:
            words = [Word.read(folder, rank) for rank in range(self.world_size)]
            there = [word for word in words if word is not None]
            for rank, word in enumerate(words):
                if word is not None and word.failed is not None:
                    raise OSError(errno.EIO, f"rank {rank}: {word.failed}", str(folder))
            if len(there) == self.world_size:
                return there
            if not threading.main_thread().is_alive():
                until = min(until, time.monotonic() + ENDING_S)
            if time.monotonic() > until:
                missing = ", ".join(str(i) for i, word in enumerate(words) if word is None)
                raise OSError(errno.ETIMEDOUT, f"no word from rank {missing}", str(folder))
            time.sleep(LOOK_S)

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
            on, off = self.store.on_branch(), self.store.off_branch()
            going = retention.to_delete(on, off, self.rules, step)
            return sum(retention.delete(each) for each in going)
        except OSError as error:
            self._tell_trouble(str(error), f"old checkpoints could not be looked at: {error}")
            return 0

    def _made_room(self) -> bool:
        return self.rank == 0 and self._retain(1 << 62) > 0

    def _clean(self, task: Task, why: str) -> None:
        """What was half written goes; where even that fails, it is no checkpoint all the same."""
        folder = self._folder(task)
        if (folder / manifest.MANIFEST).exists():
            return
        if self.world_size == 1:
            shutil.rmtree(folder, ignore_errors=True)
            return
        names = [f"rank-{self.rank}.pt", *([STATE] if self.rank == 0 else [])]
        for name in names:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        if self.rank == 0:
            shutil.rmtree(folder / SHARDED, ignore_errors=True)
        with contextlib.suppress(OSError):
            # Rank 0 need not wait for files that will not come.
            Word(files={}, finite=False, failed=why).write(folder, self.rank)

    def went_back(self, step: int, segment: Segment) -> None:
        """What is newer than a step is on a branch that was left.

        Where a later attempt has begun it is we who were left behind: it builds on all there is.
        """
        self.wait()
        self.forget(lambda each: each.step > step)
        if self.rank != 0:
            return
        # Where it cannot be read: by the ledger's word of the rollback they count no more.
        with contextlib.suppress(OSError):
            if any(each.segment.attempt > segment.attempt for each in self.store.begun()):
                return
            for each in self.store.all():
                if each.step > step and each.segment <= segment:
                    with contextlib.suppress(OSError):
                        manifest.abandon(each)


def _written(path: Path, part: Any) -> dict[str, int]:
    """One file, on the disk when this returns; its size and checksum, as they came to be there."""
    try:
        torch.save(part, path)
    except RuntimeError as error:
        # torch does not say that the disk is full.
        room = os.statvfs(path.parent)
        full = room.f_bavail * room.f_frsize < LITTLE
        raise OSError(
            errno.ENOSPC if full else errno.EIO,
            os.strerror(errno.ENOSPC) if full else str(error).splitlines()[0],
            str(path),
        ) from error
    # Of the file as it is: what torch meant to write is not known here.
    about = manifest.measure(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return about


def _measured(folder: Path, root: Path) -> dict[str, dict[str, int]]:
    return {
        str(path.relative_to(root)): manifest.measure(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

"""The files of one checkpoint: each rank writes its own and then its word on them.

Rank 0 waits for the others' words and writes the manifest, which makes the folder a checkpoint.
Whoever dies before that leaves a folder that nobody takes for one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hpckit.checkpoint import manifest
from hpckit.checkpoint.manifest import Checkpoint, Word
from hpckit.checkpoint.names import Segment
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
# A disk with less room than this is full.
LITTLE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Task:
    """One snapshot on its way to the disk."""

    snapshot: Snapshot
    segment: Segment
    folder: Path
    # Whether it was when it was taken; the steps after it are another's to count.
    good: bool
    why: str
    about: dict[str, Any]
    # Of this rank, what only a checkpoint on disk needs.
    plain: dict[str, Any]
    # Of a sharded training: waits until torch's own checkpoint is written; what is not finite.
    sharded: Callable[[], str | None] | None = None


@dataclass(kw_only=True)
class Writer:
    """Writes this rank's part of checkpoints."""

    store: Store
    rank: int
    world_size: int
    # What must be on the disk before a checkpoint counts: the readings of the steps before it.
    settle: Callable[[], None] = lambda: None
    # Tensors that hold infinities by their nature, as masks do.
    never_finite: frozenset[str] = frozenset()

    def write(self, task: Task) -> Checkpoint | None:
        """Write this rank's part; on rank 0 what has come of all."""
        folder, snapshot = task.folder, task.snapshot
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
                fsync_folder(folder / SHARDED)
        word = Word(files=files, finite=bad is None, bad=bad)
        if self.rank == 0:
            return self._concluded(task, folder, word)
        word.write(folder, self.rank)
        return None

    def _concluded(self, task: Task, folder: Path, own: Word) -> Checkpoint:
        """Rank 0's last word: from here on it is a checkpoint."""
        words = [own, *self._others(folder)]
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
        return dataclasses.replace(made, confirmed_at=made.step) if task.good else made

    def _others(self, folder: Path) -> list[Word]:
        """What the other ranks say of theirs."""
        until = time.monotonic() + WORDS_S
        while True:
            words = {rank: Word.read(folder, rank) for rank in range(1, self.world_size)}
            there = [word for word in words.values() if word is not None]
            for rank, word in words.items():
                if word is not None and word.failed is not None:
                    raise OSError(errno.EIO, f"rank {rank}: {word.failed}", str(folder))
            if len(there) == len(words):
                return there
            if not threading.main_thread().is_alive():
                until = min(until, time.monotonic() + ENDING_S)
            if time.monotonic() > until:
                missing = ", ".join(str(rank) for rank, word in words.items() if word is None)
                raise OSError(errno.ETIMEDOUT, f"no word from rank {missing}", str(folder))
            time.sleep(LOOK_S)

    def again(self, task: Task) -> Checkpoint | None:
        """Nothing was done since it was written, but it may be the best now.

        No file is written anew: one rank's would meet others of the first time.
        """
        made = manifest.read(task.folder) if self.rank == 0 else None
        if made is not None and task.about.get("best"):
            metrics = task.about.get("metrics", {})
            made = dataclasses.replace(made, best=True, metrics=metrics)
            manifest.write(made)
        return made

    def clean(self, task: Task, why: str) -> None:
        """What was half written goes; where even that fails, it is no checkpoint all the same."""
        folder = task.folder
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
            return
        with contextlib.suppress(OSError):
            # Rank 0 need not wait for files that will not come.
            Word(files={}, finite=False, failed=why).write(folder, self.rank)


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

"""Appending to a file on a disk that may be full, read-only or away for a while."""

from __future__ import annotations

import os
from pathlib import Path

from hpckit.files import fsync_folder
from hpckit.monitor.readings.background import tell

# What may wait for a disk to be there again.
MOST_BYTES = 8_000_000


class Appender:
    """Appends to a file that nobody else writes; what cannot be written waits, within bounds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Of this file, whole and on its way to the disk.
        self.size = 0
        # Pieces that had no room to wait in.
        self.lost = 0
        self._pending: list[bytes] = []
        self._waiting = 0
        self._is_durable = True
        self._failed = False

    def add(self, piece: bytes) -> None:
        """Take what belongs together, a line for instance: it is written whole or not at all."""
        if self._waiting + len(piece) > MOST_BYTES:
            self.lost += 1
            return
        self._pending.append(piece)
        self._waiting += len(piece)

    def save(self, *, durable: bool = False) -> bool:
        """Whether all that was added is in the file now, and with `durable` on the disk."""
        if not self._pending and (self._is_durable or not durable):
            return not self._failed
        try:
            self._append(b"".join(self._pending), durable)
        except OSError as error:
            self._complain(error)
            return False
        self._pending.clear()
        self._waiting = 0
        self._recover()
        return True

    @property
    def waiting(self) -> int:
        """How many pieces are not in the file."""
        return len(self._pending) + self.lost

    def turn_to(self, path: Path) -> None:
        """Begin another file; all that was added must have been saved."""
        self.path, self.size, self._is_durable = path, 0, True

    def _append(self, data: bytes, durable: bool) -> None:
        # Opened anew each time: a file that was deleted would take the rest without a word.
        descriptor = self._opened()
        try:
            self._write(descriptor, data)
            if durable:
                os.fsync(descriptor)
        finally:
            # A network filesystem may say only now that there was no room.
            os.close(descriptor)
        if durable:
            fsync_folder(self.path.parent)
        self.size += len(data)
        self._is_durable = durable

    def _opened(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        try:
            return os.open(self.path, flags, 0o666)
        except FileNotFoundError:
            # Its parents are not made again: they are away with a filesystem, and would be made
            # in the place where it is to be mounted.
            self.path.parent.mkdir(exist_ok=True)
            return os.open(self.path, flags, 0o666)

    def _write(self, descriptor: int, data: bytes) -> None:
        there = os.fstat(descriptor).st_size
        if there > self.size:
            # Half a line that a failed write left would swallow the next one.
            os.ftruncate(descriptor, self.size)
        self.size = min(there, self.size)
        while data:
            data = data[os.write(descriptor, data) :]

    def _complain(self, error: OSError) -> None:
        if not self._failed:
            what = error.strerror or str(error)
            tell(f"cannot write {self.path}: {what}; the training goes on, trying again")
        self._failed = True

    def _recover(self) -> None:
        if self._failed:
            gone = f"; {self.lost} readings are lost" if self.lost else ""
            tell(f"{self.path} can be written again{gone}")
        self._failed = False

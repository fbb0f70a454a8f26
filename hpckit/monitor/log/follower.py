"""Following a log while it is written, replaced and shortened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from hpckit.monitor.log.reader import LogReader
from hpckit.monitor.reading import Reading

PIECE = 1_000_000
# A look takes in no more than this, so that whoever looks can do something else between.
MOST = 16 * PIECE
# So many bytes before where we stand must be what they were, or the file is another one.
MARK = 64


class Follower:
    """Feeds a reader with what was added to a file since the last look."""

    def __init__(self, path: Path, reader: LogReader) -> None:
        self.path = path
        self.reader = reader
        self._stream: BinaryIO | None = None
        self._at = 0
        self._mark = b""

    def poll(self) -> list[Reading]:
        """The readings that are complete by now."""
        # Asked first: what was written to the old file before it went is read to its end.
        if self._is_replaced():
            return self._drain() + self._leave() + self._more()
        return self._more() or self.reader.feed(b"")

    def rest(self) -> list[Reading]:
        """All that is left, when nobody writes any more."""
        return self._drain() + self.reader.flush()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self.reader.close()

    def _drain(self) -> list[Reading]:
        found: list[Reading] = []
        while more := self._pieces():
            found += more[1]
        return found

    def _more(self) -> list[Reading]:
        pieces = self._pieces()
        return [] if pieces is None else pieces[1]

    def _pieces(self) -> tuple[int, list[Reading]] | None:
        """How much was added and what is complete by it; None where nothing was added."""
        if not self._open():
            return None
        assert self._stream is not None
        found, taken = self._restarted(), 0
        while taken < MOST and (data := self._stream.read(PIECE)):
            taken += len(data)
            self._at += len(data)
            self._mark = (self._mark + data)[-MARK:]
            found += self.reader.feed(data)
        return (taken, found) if taken or found else None

    def _open(self) -> bool:
        if self._stream is None:
            try:
                # Unbuffered: what was read ahead would hide that the file was shortened.
                self._stream = open(self.path, "rb", buffering=0)  # noqa: SIM115
            except FileNotFoundError:
                return False
            self._at, self._mark = 0, b""
        return True

    def _restarted(self) -> list[Reading]:
        """Go back to the beginning of a file that was shortened, or written anew in place."""
        assert self._stream is not None
        descriptor = self._stream.fileno()
        start = self._at - len(self._mark)
        if os.pread(descriptor, len(self._mark), start) == self._mark:
            return []
        self._stream.seek(0)
        self._at, self._mark = 0, b""
        return self.reader.end_line()

    def _is_replaced(self) -> bool:
        if self._stream is None:
            return False
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            # Moved away; the new one is not there yet.
            return False
        return not os.path.samestat(there, os.fstat(self._stream.fileno()))

    def _leave(self) -> list[Reading]:
        assert self._stream is not None
        self._stream.close()
        self._stream = None
        return self.reader.end_line()

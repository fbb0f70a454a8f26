"""attempts/NNN/hooks.log: what hooks print, between our own lines, and never without bound."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from hpckit.clock import now_iso

MOST_OF_ONE = 1_000_000
# Of an attempt's hooks together: a night full of incidents must not fill a disk.
MOST_OF_ALL = 20_000_000


class HookLog:
    """Appends to one file; what the disk refuses is lost, and nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._room = MOST_OF_ALL
        self._left = 0
        self._cut = 0
        self._is_mid_line = False

    def line(self, text: str) -> None:
        """A line of our own."""
        begin = "\n" if self._is_mid_line else ""
        self._write(f"{begin}hpckit: {now_iso()[:19]}Z {text}\n".encode(errors="backslashreplace"))

    def begin(self, text: str) -> None:
        """A hook starts; what it prints has a bound of its own."""
        self._left, self._cut = min(MOST_OF_ONE, self._room), 0
        self.line(text)

    def take(self, data: bytes) -> None:
        """What a hook printed; what there is no room for is only counted."""
        kept = data[: self._left]
        self._left -= len(kept)
        self._room -= len(kept)
        self._cut += len(data) - len(kept)
        if kept:
            self._write(kept)

    @property
    def cut(self) -> int:
        """How many bytes of the last hook's output were left out."""
        return self._cut

    def _write(self, data: bytes) -> None:
        self._is_mid_line = not data.endswith(b"\n")
        with contextlib.suppress(OSError):
            # No folder is made: where the run was deleted it must not come back.
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                while data:
                    data = data[os.write(file, data) :]
            finally:
                os.close(file)

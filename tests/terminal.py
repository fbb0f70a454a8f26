"""A terminal that a command is run in, and what a person would see in it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable

import pyte


class Terminal:
    """The real program in a pty; pyte is the screen."""

    def __init__(self, *args: object, columns: int = 80, rows: int = 24, **environ: str) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        # What has come, in the pieces in which it came.
        self.pieces: list[bytes] = []
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            # Whatever else this process may do, it is not the test any more.
            try:
                time.sleep(0.1)
                known = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
                known |= {"TERM": "xterm", "LC_ALL": "C.UTF-8", **environ}
                command = [sys.executable, "-m", "hpckit", *map(str, args)]
                os.execve(sys.executable, command, known)
            finally:
                os._exit(127)
        self._tell_size()

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)
        self._tell_size()

    def _tell_size(self) -> None:
        size = struct.pack("HHHH", self.screen.lines, self.screen.columns, 0, 0)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, size)

    def until(self, is_so: Callable[[Terminal], object], within_s: float = 60.0) -> None:
        """Show what comes until something is seen."""
        end = time.monotonic() + within_s
        while not is_so(self):
            assert time.monotonic() < end, self.text
            assert self._read(0.2) or is_so(self), self.text

    def see(self, text: str, within_s: float = 60.0) -> None:
        self.until(lambda each: text in each.text, within_s)

    def _read(self, within_s: float) -> bool:
        """Whether there may be more to come."""
        if not select.select([self._fd], [], [], within_s)[0]:
            return True
        try:
            piece = os.read(self._fd, 65_536)
        except OSError:
            return False
        self.pieces.append(piece)
        self._stream.feed(piece)
        return bool(piece)

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        os.write(self._fd, b"\x03")

    def end(self) -> int:
        """Show the rest; its exit code."""
        while self._read(60.0):
            pass
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.end()

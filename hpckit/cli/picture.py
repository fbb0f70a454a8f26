"""Lines that are drawn over themselves in a terminal: of each second only what has changed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence

from hpckit.paint import ESCAPES, RESET, cut, width_of

# Where the terminal does not say how large it is.
USUAL_SIZE = (80, 24)
CLEAR, CLEAR_LINE, CLEAR_BELOW = "\x1b[H\x1b[2J", "\x1b[K", "\x1b[J"


class Picture:
    """Stands at the end of what was printed before, and stays there when it is over."""

    def __init__(self) -> None:
        self._drawn: list[str] = []
        self._size = terminal_size()
        self._is_lost = False
        with contextlib.suppress(ValueError):
            # Who was stopped by Ctrl-Z finds the terminal otherwise than he left it.
            signal.signal(signal.SIGCONT, lambda *_: self._lose())

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows that there are for it."""
        columns, rows = self._size
        # In a last column the cursor hangs over, and the last row is where it rests.
        return max(1, columns - 1), max(1, rows - 1)

    def look(self) -> None:
        """Find out the terminal's size: lines of before are broken anew when it changes."""
        size = terminal_size()
        if size != self._size:
            self._size = size
            self._write(CLEAR)
            self._drawn = []

    def draw(self, lines: Sequence[str]) -> None:
        if self._is_lost:
            self._drawn, self._is_lost = [], False
        columns, rows = self.size
        fitting = [cut(line, columns) for line in lines[:rows]]
        self._write(redrawn(self._drawn, fitting))
        self._drawn = fitting

    def _lose(self) -> None:
        self._is_lost = True

    @staticmethod
    def _write(text: str) -> None:
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()


def redrawn(before: Sequence[str], lines: Sequence[str]) -> str:
    """What makes one picture of another; the cursor stands below the last line."""
    out, at = "", len(before)
    for row, line in enumerate(lines[: len(before)]):
        if line != before[row]:
            out += f"{_moved(row - at)}{_changed(before[row], line)}{CLEAR_LINE}\r"
            at = row
    if len(lines) < len(before):
        return out + _moved(len(lines) - at) + CLEAR_BELOW
    out += _moved(len(before) - at)
    return out + "".join(f"{line}{CLEAR_LINE}\n" for line in lines[len(before) :])


def _changed(before: str, line: str) -> str:
    """A line from where it differs, its colours whole."""
    pairs = zip(before, line, strict=False)
    differs = (place for place, (one, other) in enumerate(pairs) if one != other)
    same = line[: next(differs, min(len(before), len(line)))]
    last = same.rfind("\x1b")
    if last >= 0 and not same.startswith(RESET, last):
        same = same[:last]
    columns = width_of(ESCAPES.sub("", same))
    return (f"\x1b[{columns}C" if columns else "") + line[len(same) :]


def _moved(rows: int) -> str:
    return f"\x1b[{rows}B" if rows > 0 else f"\x1b[{-rows}A" if rows < 0 else ""


def terminal_size() -> tuple[int, int]:
    """Asked from the terminal itself: COLUMNS is what a shell has found when it started."""
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        return USUAL_SIZE
    return columns or USUAL_SIZE[0], rows or USUAL_SIZE[1]

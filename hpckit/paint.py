"""Words for a terminal: colour where it is wanted, tables that fit, sizes and times for people."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence

COLOURS = {
    "running": "32",
    "healing": "33",
    "pending": "36",
    "done": "32",
    "stopped": "33",
    "failed": "31",
    "cancelled": "35",
    "unknown": "33",
    "warning": "33",
    "bold": "1",
    "dim": "2",
}


# Our own colours; a program's sequences never reach a person's terminal through `show`.
ESCAPES = re.compile(r"(\x1b\[[0-9;]*m)")
RESET = "\x1b[0m"
# With them what some terminals take for such a sequence in one sign, what turns the direction of
# writing, and halves of signs, which no file takes.
CONTROL = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    r"|[\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def plain_line(line: str) -> str:
    """A line without tabs, and a progress bar as it stood last."""
    return line.rstrip("\r").rpartition("\r")[2].expandtabs()


def harmless(line: str) -> str:
    """What a program printed, without what would move a reader's cursor or rename the window."""
    return CONTROL.sub("", plain_line(line)).replace("\n", " ")


def can_redraw() -> bool:
    """Whether stdout is a terminal that knows how to move its cursor."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


def colours_wanted() -> bool:
    return can_redraw() and not os.environ.get("NO_COLOR")


def is_plain_text() -> bool:
    """Whether stdout has no signs beyond ASCII: by its locale, for Python itself writes UTF-8."""
    named = [os.environ.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    locale = next((each for each in named if each), "utf-8")
    return not all("utf" in each.lower() for each in (locale, sys.stdout.encoding or ""))


def width_of(text: str) -> int:
    """Columns that a text takes in a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    wide = sum(east_asian_width(sign) in "WF" for sign in text)
    return len(text) + wide - sum(bool(combining(sign)) for sign in text)


def cut(line: str, columns: int) -> str:
    """A line that takes one row: escape sequences take no room, and none is left open."""
    shown, out = 0, ""
    for part in ESCAPES.split(plain_line(line)):
        if ESCAPES.fullmatch(part):
            out += part
            continue
        room = max(0, columns - shown)
        part = part[:room]
        while width_of(part) > room:
            part = part[:-1]
        out += part
        shown += width_of(part)
    return out


def paint(text: str, kind: str) -> str:
    """The text in a kind's colour, plain where nobody sees colours."""
    if not colours_wanted() or kind not in COLOURS:
        return text
    return f"\x1b[{COLOURS[kind]}m{text}{RESET}"


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    state: int = -1,
) -> str:
    """Columns under a head; the last one is cut to the terminal's width, where there is one."""
    cells = [list(head), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    lines = []
    for number, row in enumerate(cells):
        line = []
        for i, text in enumerate(row):
            padded = text.rjust(widths[i]) if i in right else text.ljust(widths[i])
            if i == len(row) - 1:
                room = max(8, limit - sum(widths[:i]) - 2 * i)
                padded = text if len(text) <= room else text[: room - 1] + "…"
            kind = "bold" if number == 0 else row[i].strip() if i == state else ""
            line.append(paint(padded, kind))
        lines.append("  ".join(line).rstrip())
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A time that a person reads at a glance: 4 s, 12 min, 3 h 05, 2 d 4 h."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s" if whole < 600 else f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d}"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(mb: float) -> str:
    """A size that a person reads at a glance."""
    if mb >= 1024:
        return f"{mb / 1024:.3g} GB"
    return f"{mb:.3g} MB" if mb >= 0.1 else f"{max(mb * 1000, 0.1):.2g} kB"


def spaced(value: object) -> str:
    """A count with room between its thousands."""
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else str(value)


def short(value: object) -> str:
    """A parameter as it fits in a table, and as a spec has it: null, true."""
    if isinstance(value, float):
        return f"{value:.6g}"
    is_text = isinstance(value, str)
    text = harmless(str(value) if is_text else json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= 24 else text[:23] + "…"


def counted(names: list[str]) -> list[str]:
    """`4 x NVIDIA H200` for four of a kind."""
    kinds = Counter(names).items()
    return [name if number == 1 else f"{number} x {name}" for name, number in kinds]


def note(text: str) -> None:
    """Progress and remarks: for people, on stderr, so that stdout stays data."""
    # A terminal that is gone is no reason to stop halfway.
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)

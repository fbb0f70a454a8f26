"""What a mail says: a subject and a few lines for a person, from what has happened. Pure."""

from __future__ import annotations

import re
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hpckit.clock import seconds_of
from hpckit.paint import harmless
from hpckit.worker.news import End, News

MOST_SHOWN = 20
LINE = 600
SUBJECT = 140
# The other kinds are ends, and are called by the state.
COUNTED = ("incident", "restart")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing that happened."""

    # In a sweep, the point; nothing for a run of its own.
    point: str
    kind: str
    time: str
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What a mail is about, and where it is."""

    run: str
    folder: str


def item_of(news: News, point: str, reason_before: str = "") -> Item:
    """An incident or a restart, as it is told."""
    data = news.event.data
    if news.kind == "restart":
        why = f": {reason_before}" if reason_before else ""
        said = f"restarted as attempt {data['number']}{why}"
        return Item(point=point, kind="restart", time=news.event.time, title=said, lines=(said,))
    found, plan = data["incident"], data.get("plan")
    title = f"{found.get('kind')} at step {found.get('step')}"
    said = f"{title}, attempt {data.get('attempt')}: {found.get('sentence') or 'no more is known'}"
    answer = plan.get("sentence") if isinstance(plan, dict) else None
    lines = (said, f"plan: {answer}") if answer else (said,)
    return Item(point=point, kind="incident", time=news.event.time, title=title, lines=lines)


def item_of_end(end: End, point: str) -> Item:
    why = "" if end.reason in ("", end.state) else f": {end.reason}"
    said = f"{end.state}{why}"
    return Item(point=point, kind=end.state, time=end.time, title=said, lines=(said,))


def whole_sweep(ends: Sequence[End]) -> str:
    """How a sweep ended, in a line."""
    states = ", ".join(f"{many} {state}" for state, many in _counted(end.state for end in ends))
    return f"all {len(ends)} points have ended: {states}"


def subject(place: Place, items: Sequence[Item], headline: str = "") -> str:
    """One short line."""
    return _cut(f"hpckit: {_head(place, items, headline)}", SUBJECT)


def body(place: Place, items: Sequence[Item], headline: str = "") -> str:
    """What happened, where it is, and how to look at it."""
    own_end = _own_end(items)
    told = sorted((item for item in items if item is not own_end), key=lambda item: item.time)
    lines = [_head(place, items, headline), ""]
    for item in _shown(told):
        lines += [item] if isinstance(item, str) else _told(item)
    lines += [""] * bool(told)
    lines += [f"folder  {place.folder}", f"look    hpckit show {shlex.quote(place.folder)}"]
    return "".join(f"{_cut(line, LINE)}\n" for line in lines)


def _head(place: Place, items: Sequence[Item], headline: str) -> str:
    """What it is all about: the end stands before all that came before it."""
    one = _own_end(items) or (items[0] if len(items) == 1 else None)
    if headline or one is None:
        return f"{place.run}: {headline or _counts(items)}"
    return f"{place.run}{'/' * bool(one.point)}{one.point} {one.title}"


def _own_end(items: Sequence[Item]) -> Item | None:
    """The end of the run itself, not of a point of it."""
    ends = [item for item in items if not item.point and item.kind not in COUNTED]
    return ends[0] if ends else None


def _told(item: Item) -> Iterator[str]:
    """An item's lines, the first with where and when."""
    point = f"point {item.point}, " if item.point else ""
    first, *others = (line for text in item.lines for line in text.splitlines() or [""])
    yield f"{_when(item.time)}  {point}{first}"
    yield from (f"    {line}" for line in others)


def _when(moment: str) -> str:
    """A wall clock's time, with its day: a mail is read whenever."""
    try:
        return time.strftime("%b %d %H:%M %Z", time.localtime(seconds_of(moment)))
    except ValueError:
        return "-"


def _shown(items: Sequence[Item]) -> Sequence[Item | str]:
    """Of many, the first that says how it began and the last ones."""
    if len(items) <= MOST_SHOWN:
        return items
    left_out = len(items) - MOST_SHOWN
    return [items[0], f"... {left_out} more", *items[1 - MOST_SHOWN :]]


def _counts(items: Sequence[Item]) -> str:
    return ", ".join(_many(kind, many) for kind, many in _counted(item.kind for item in items))


def _many(kind: str, many: int) -> str:
    plural = "s" * (many > 1)
    return f"{many} {kind}{plural}" if kind in COUNTED else f"{many} point{plural} {kind}"


def _counted(kinds: Iterable[str]) -> list[tuple[str, int]]:
    return Counter(kinds).most_common()


def _cut(text: str, most: int) -> str:
    """One line that a terminal and a header can bear, and no longer than it should be."""
    line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", harmless(text.replace("\r", " ")))
    line = line.encode(errors="backslashreplace").decode().rstrip()
    return line if len(line) <= most else f"{line[: most - 3]}..."

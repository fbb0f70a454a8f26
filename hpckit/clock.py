"""Times as hpckit writes them: ISO 8601 in UTC, whole seconds where a person reads them."""

from __future__ import annotations

import time


def now_iso() -> str:
    """The present moment, to the microsecond: events are put in order by it."""
    return iso(time.time(), digits=6)


def iso(seconds: float, digits: int = 3) -> str:
    """A Unix time as ISO 8601 in UTC."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 10**digits):0{digits}d}Z"


def seconds_of(text: str) -> float:
    """The Unix time of an ISO 8601 text in UTC, with or without a fraction."""
    import calendar

    whole, _, fraction = text.rstrip("Z").partition(".")
    base = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    return base + (float(f"0.{fraction}") if fraction else 0.0)


def local_words(text: str | None) -> str:
    """A UTC text as the reader's own wall clock: 14:05 today, Jul 20 14:05 on another day."""
    if not text:
        return "-"
    moment = time.localtime(seconds_of(text))
    today = time.localtime()
    same_day = moment[:3] == today[:3]
    return time.strftime("%H:%M:%S" if same_day else "%b %d %H:%M", moment)

"""Durations and sizes as a person writes them, to whole seconds and megabytes and back."""

from __future__ import annotations

import math
import re

# Plain fragments without flags: spec.schema.json carries the same patterns to editors.
DURATION_PATTERN = (
    r"(?=[0-9])(?:[0-9]{1,6}d)?(?:[0-9]{1,7}h)?(?:[0-9]{1,8}m)?(?:[0-9]{1,9}s)?"
    r"|(?:[0-9]{1,6}-)?[0-9]{1,7}:[0-5][0-9]:[0-5][0-9]"
)
SIZE_PATTERN = r"[0-9]{1,9}(?:\.[0-9]{1,3})? ?[MGTmgt](?:[iI]?[bB])?"

_DURATION = re.compile(DURATION_PATTERN)
_UNITS = re.compile(r"([0-9]+)([dhms])")
_CLOCK = re.compile(r"(?:([0-9]+)-)?([0-9]+):([0-9]+):([0-9]+)")
_SIZE = re.compile(r"([0-9.]+) ?([MGT])")
_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_MEGABYTES = {"M": 1, "G": 1_024, "T": 1_048_576}


def parse_duration(text: str) -> int:
    """Whole seconds in `24h`, `1h30m` or `1-12:00:00`; ValueError says what to write."""
    if not _DURATION.fullmatch(text):
        raise ValueError(_duration_complaint(text))
    if clock := _CLOCK.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return days * 86_400 + hours * 3_600 + minutes * 60 + seconds
    return sum(int(count) * _SECONDS[unit] for count, unit in _UNITS.findall(text))


def format_duration(seconds: int) -> str:
    """The shortest spelling that parse_duration reads back: 5400 is `1h30m`."""
    parts = []
    for unit, length in _SECONDS.items():
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_size(text: str) -> int:
    """Whole megabytes in `64G`, `500M` or `1.5T`, counted as Slurm does: 1G is 1024M."""
    if not re.fullmatch(SIZE_PATTERN, text):
        raise ValueError(_size_complaint(text))
    number, unit = _SIZE.match(text.upper()).groups()  # type: ignore[union-attr]
    # In thousandths, so that 1.1G does not pick up a float's last digit.
    whole, _, fraction = number.partition(".")
    thousandths = (int(whole) * 1000 + int(fraction.ljust(3, "0"))) * _MEGABYTES[unit]
    return math.ceil(thousandths / 1000)


def format_size(megabytes: int) -> str:
    """The shortest spelling that parse_size reads back: 65536 is `64G`."""
    for unit in ("T", "G"):
        if megabytes and megabytes % _MEGABYTES[unit] == 0:
            return f"{megabytes // _MEGABYTES[unit]}{unit}"
    return f"{megabytes}M"


def _duration_complaint(text: str) -> str:
    if re.fullmatch(r"[0-9]{1,9}", text):
        return f"{text} has no unit: write {text}h, {text}m or {text}s"
    if short := re.fullmatch(r"([0-9]{1,9}):([0-9]{1,2})", text):
        first, second = short.groups()
        return (
            f"{text} could be hours or minutes: write {first}h{second}m or {first}m{second}s, "
            f"or {text}:00"
        )
    if decimal := re.fullmatch(r"([0-9]{1,6}\.[0-9]{1,6})([dhm])", text):
        seconds = round(float(decimal[1]) * _SECONDS[decimal[2]])
        return f"{text} has a fraction: write {format_duration(seconds)}"
    return f"{_short(text)} is not a duration: write 24h, 90m, 1h30m, 10d or 1-12:00:00"


def _size_complaint(text: str) -> str:
    if re.fullmatch(r"[0-9]{1,12}", text):
        return f"{text} has no unit: write {text}G or {text}M"
    return f"{_short(text)} is not a size: write 64G, 500M or 1.5T"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")

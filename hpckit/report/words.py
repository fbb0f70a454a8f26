"""Bits of wording that several parts of a report share."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hpckit.clock import seconds_of
from hpckit.paint import duration
from hpckit.spec.parts import INFRASTRUCTURE

Told = dict[str, Any]
# A number with more digits than a person reads.
LONG = re.compile(r"(?<![\w.])\d+\.\d{4,}(?:e-?\d+)?(?![\w.])")


def arrows(change: str) -> str:
    """A change as one reads it: `lr 0.000741181 -> 0.00037059` has more digits than matter."""
    return LONG.sub(lambda found: f"{float(found[0]):.3g}", change).replace(" -> ", " → ")


def redone(incident: Told) -> int:
    """Steps that were done, and given up by going back."""
    step, resumed = incident["step"], incident["resumed_step"]
    if step is None or resumed is None:
        return 0
    # The step of an incident was done; of a program's end it is told how many were done.
    done = step if incident["kind"] in INFRASTRUCTURE else step + 1
    return int(max(0, done - resumed))


def enumeration(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def count(value: Any) -> str:
    """A count with room between its thousands."""
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else str(value)


def cause(incident: Told) -> str:
    """Whose fault it was, by which it has its colour."""
    return "machine" if incident["kind"] in INFRASTRUCTURE else "numeric"


def amount(value: float) -> str:
    """Hours, and the like, at a glance."""
    return f"{value:.3g}" if value < 1000 else count(round(value))


def until(told: Told, now: float) -> float:
    """Now for a run that goes on; for one that is over the last moment that is known of it."""
    if told["state"] in ("pending", "running", "healing"):
        return now
    known = [each[name] for each in told["attempts"] for name in ("started", "ended")]
    known += [each["time"] for each in told["incidents"]]
    return max(_moments(known), default=now)


def _moments(times: Iterable[Any]) -> Iterator[float]:
    """Those that make sense."""
    for each in times:
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            yield seconds_of(each)


def took(told: Told, now: float) -> str:
    """From the first attempt's start to the last one's end."""
    started = [each["started"] for each in told["attempts"] if each["started"]]
    if not started:
        return "-"
    last = told["attempts"][-1]
    ended = seconds_of(last["ended"]) if last["ended"] else now
    return duration(max(0.0, ended - seconds_of(started[0])))


def outcome(incident: Told) -> str:
    """What came of what was done about an incident."""
    if incident["came_back"] is not None:
        return f"came back at step {count(incident['came_back'])}"
    if not incident["applied"]:
        return "-"
    return {True: "healed", False: "came no further"}.get(incident["healed"], "too early to say")


def because(attempt: Told, acted: Sequence[Told]) -> str:
    """Why an attempt ended, in short where an incident tells the whole of it."""
    reason = str(attempt["reason"] or "")
    mine = [each for each in acted if each["attempt"] == attempt["number"]]
    if reason and mine and mine[-1]["plan_sentence"] == f"stop: {reason}":
        return f"stopped after {_a(str(mine[-1]['kind']).replace('_', ' '))}"
    return reason


def _a(word: str) -> str:
    return f"an {word}" if word[:1] in "aeiou" else f"a {word}"

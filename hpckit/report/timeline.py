"""A run over wall-clock time: attempts, launches, incidents; drawn, and in words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpckit.clock import iso, seconds_of
from hpckit.monitor.reading import GATED, MAIN
from hpckit.paint import duration
from hpckit.report.facts import Facts
from hpckit.report.markup import moment, text
from hpckit.report.words import arrows, because, cause, count, outcome
from hpckit.spec.parts import INFRASTRUCTURE, SKIPPED

# Of what was only told, so many are listed; more would hide what was done.
MOST_TOLD = 30
TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200)
DAY_S = 86_400
# What a numbered mark takes of the width, in percent.
MARK = 2.4


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A launch, or an attempt of which no launch is known."""

    attempt: int
    launch: int | None
    begin: float
    end: float
    words: str


def bars(facts: Facts, now: float) -> list[Bar]:
    """What ran from when to when: attempts by the ledger, launches by their readings."""
    found = []
    for each in facts.told["attempts"]:
        if not each["started"]:
            continue
        begin = seconds_of(each["started"])
        end = seconds_of(each["ended"]) if each["ended"] else max(begin, now)
        why = str(because(each, facts.acted) or each["state"])
        steps = f"steps {each['from_step'] or 0} to {each['to_step']}"
        words = f"{steps if each['to_step'] is not None else 'no steps told'}; {why}"
        spans = _launches(facts, each["number"])
        edges = [begin, *(span[0] for span in spans[1:]), end]
        for place, launch in enumerate([number for *_, number in spans] or [None]):
            found.append(
                Bar(
                    attempt=each["number"],
                    launch=launch if len(spans) > 1 else None,
                    begin=edges[place],
                    end=max(edges[place], edges[place + 1]),
                    words=words,
                )
            )
    return found


def _launches(facts: Facts, attempt: int) -> list[tuple[float, float, int]]:
    spans = []
    for folder, (number, launch) in enumerate(facts.launches):
        times = facts.columns.time[facts.columns.folder == folder]
        if number == attempt and np.isfinite(times).any():
            spans.append((float(np.nanmin(times)), float(np.nanmax(times)), launch))
    return spans


def drawn(facts: Facts, now: float) -> str:
    """The picture; everything in it stands in the words beneath, too."""
    ran = bars(facts, now)
    if not ran:
        return ""
    begin = min(seconds_of(facts.told["created"]), ran[0].begin)
    end = max([bar.end for bar in ran])
    # What waited long in a queue must not press the rest together.
    if ran[0].begin - begin > end - ran[0].begin:
        begin = ran[0].begin
    whole = max(end - begin, 1e-3)

    def share(seconds: float) -> float:
        return 100 * min(1.0, max(0.0, (seconds - begin) / whole))

    def at(seconds: float) -> str:
        return f"{share(seconds):.3f}%"

    rows = ""
    for number in dict.fromkeys(bar.attempt for bar in ran):
        mine = [bar for bar in ran if bar.attempt == number]
        pieces = "".join(
            f'<i style="left:{at(bar.begin)};width:{_share(bar, whole)}" '
            f'title="{text(_name(bar))}: {text(bar.words)}"></i>'
            for bar in mine
        )
        struck = [
            (place, each)
            for place, each in enumerate(facts.acted, start=1)
            if each["attempt"] == number and _when(each)
        ]
        places = apart([share(_when(each)) for _, each in struck], MARK)
        marks = "".join(
            f'<b class="{cause(each)}" style="left:{left:.3f}%" title="{text(each["kind"])}">'
            f"{place}</b>"
            for (place, each), left in zip(struck, places, strict=True)
        )
        rows += (
            f'<div class="row"><span>attempt {number}</span><div class="bar">{pieces}{marks}</div>'
            "</div>"
        )
    ticks = "".join(
        f'<span style="left:{at(begin + tick)}">{duration(tick)}</span>' for tick in _ticks(whole)
    )
    number = len(facts.told["attempts"])
    label = f"{number} attempt{'s' * (number != 1)} over {duration(whole)}; told in words below"
    return (
        f'<div class="timeline" role="img" aria-label="{text(label)}">{rows}'
        f'<div class="row ticks"><span></span><div>{ticks}</div></div></div>'
    )


def apart(places: Sequence[float], gap: float, most: float = 100.0) -> list[float]:
    """In order, so far apart that each can be seen, and none beyond the end."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + gap) if found else place)
    for at in reversed(range(len(found))):
        found[at] = min(found[at], most)
        most = found[at] - gap
    return found


def _share(bar: Bar, whole: float) -> str:
    return f"max(3px, {100 * (bar.end - bar.begin) / whole:.3f}%)"


def _name(bar: Bar) -> str:
    return f"attempt {bar.attempt}" + (f", launch {bar.launch}" if bar.launch else "")


def _when(each: dict[str, Any]) -> float:
    with contextlib.suppress(ValueError, TypeError):
        return seconds_of(each["time"])
    return 0.0


def _ticks(whole: float) -> list[int]:
    steps = (*TICKS, *(DAY_S * days for days in (1, 2, 5, 10, 30, 100)))
    step = next((each for each in steps if whole / each <= 6), steps[-1])
    return [int(tick) for tick in np.arange(0, 0.94 * whole, step)]


def told(facts: Facts) -> str:
    """The same in words, in order of time."""
    entries = sorted(_entries(facts), key=lambda entry: entry[0])
    if not entries:
        return "<p>Nothing of it has run yet.</p>"
    items = "".join(f'<li class="{kind}">{body}</li>' for _, kind, body in entries)
    return f'<ol class="events">{items}</ol>{_left_out(facts)}'


def _left_out(facts: Facts) -> str:
    only_told = len(facts.incidents) - len(facts.acted)
    if only_told <= MOST_TOLD:
        return ""
    said = f"Of {count(only_told)} incidents about which nothing was done {MOST_TOLD} are listed."
    return f"<p>{said}</p>"


def _entries(facts: Facts) -> Iterator[tuple[float, str, str]]:
    created = facts.told["created"]
    yield seconds_of(created), "", f"{moment(created)} <p>Submitted.</p>"
    for each in facts.told["attempts"]:
        if each["started"]:
            where = f" on {text(each['node'])}" if each["node"] else ""
            job = f", job {text(each['job_id'])}" if each["job_id"] else ""
            begins = f"Attempt {each['number']} began{where}{job}"
            if each["from_step"]:
                begins += f", from step {count(each['from_step'])}"
            yield seconds_of(each["started"]), "", f"{moment(each['started'])} <p>{begins}.</p>"
        if each["ended"]:
            ends = f"Attempt {each['number']} ended"
            if each["to_step"] is not None:
                ends += f" at step {count(each['to_step'])}"
            said = f"<p>{ends}: {text(because(each, facts.acted) or 'no word of why')}.</p>"
            yield seconds_of(each["ended"]), "", f"{moment(each['ended'])} {said}"
    yield from _told_of_incidents(facts)


def _told_of_incidents(facts: Facts) -> Iterator[tuple[float, str, str]]:
    numbers = {id(each): place for place, each in enumerate(facts.acted, start=1)}
    only_told = [each for each in facts.incidents if id(each) not in numbers]
    for each in [*facts.acted, *_spread(only_told)]:
        number = numbers.get(id(each))
        mark = f'<b class="{cause(each)}">{number}</b> ' if number else ""
        step = f"Step {count(each['step'])}: " if each["step"] is not None else ""
        kind = text(str(each["kind"]).replace("_", " "))
        said = f"{step}<strong>{kind}</strong>"
        if each["sentence"] and each["sentence"] != each["kind"]:
            said += f"; {text(each['sentence'])}"
        parts = f"<p>{mark}{said}.</p>"
        if number:
            well = "" if each["healed"] and each["came_back"] is None else " open"
            parts += f'<p class="answer{well}">{text(_answer(each))}</p>'
        elif (each["plan"] == "skip" or each["kind"] == SKIPPED) and _was_held_back(facts, each):
            parts += '<p class="answer">This update was held back.</p>'
        anchor = f' id="incident-{number}"' if number else ""
        kind = cause(each) if number else "told"
        yield _when(each), kind, f"{moment(each['time'])} <div{anchor}>{parts}</div>"


def _was_held_back(facts: Facts, each: dict[str, Any]) -> bool:
    """By the readings: who only reads a log holds nothing back."""
    name = f"{GATED}/{each['optimizer'] or MAIN}"
    rows, gated = facts.columns.values.get(name, ([], np.array([])))
    return bool((facts.columns.step[rows][gated > 0] == each["step"]).any()) if len(rows) else False


def _spread(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(found) <= MOST_TOLD:
        return list(found)
    return [found[int(place)] for place in np.linspace(0, len(found) - 1, MOST_TOLD)]


def _answer(each: dict[str, Any]) -> str:
    if each["plan"] == "stop":
        return f"Stopped: {str(each['plan_sentence'] or 'no more is done').removeprefix('stop: ')}."
    if not each["applied"]:
        return f"Asked for: {each['plan_sentence'] or each['plan']}."
    went = "Went on from" if each["kind"] in INFRASTRUCTURE else "Went back to"
    parts = [f"{went} step {count(each['resumed_step'])}", *map(arrows, each["changed"])]
    return f"{'; '.join(parts)}. Outcome: {outcome(each)}."


def reported(now: float) -> str:
    return moment(iso(now, digits=0))

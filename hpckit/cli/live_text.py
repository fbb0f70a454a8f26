"""A run or a sweep as whoever watches it sees it: what matters first, as much as there is room."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from hpckit.cli.run_text import (
    attempts_table,
    is_acted_on,
    steps_text,
    summary,
    unsaved_text,
    what_was_done,
    wish_text,
    without_first_signs,
)
from hpckit.monitor.reading import LOSS, MAIN
from hpckit.paint import cut, duration, harmless, is_plain_text, paint, short, spaced, table
from hpckit.paint import width_of as width
from hpckit.sparkline import MARK, chart, sparkline
from hpckit.status.live import Live, Strip

Told = dict[str, Any]
GAP = "   "
# The newest; `hpckit show` has all.
MOST_ATTEMPTS = 5
# Columns of a point's curve, and of the shortest bar.
SMALL = 12
LONGEST_BAR = 42
# Parts of the loss; the losses themselves come before them.
MOST_PARTS = 4
# A chart for every so many rows of the terminal, and a row of bars: of the rest there is a caption.
ROWS_A_CHART = 8
MOST_CHARTS, TALLEST = 2, 4
# Of a log, what the picture itself tells: incidents, and how far it is.
TOLD_ABOVE = re.compile(r"hpckit: (?:step \d+: |back to step \d)|\[[#.]+\] +\d+%  step \d")
LIVELY = ("running", "healing", "unknown", "pending")


def run_lines(told: Told, live: Live, tail: Sequence[str], *, size: tuple[int, int]) -> list[str]:
    """One run in so many columns and rows, the end of its log last."""
    columns, rows = size
    lines = [_head(told, columns)]
    if told["reason"] not in ("", told["state"]):
        lines += _wrapped(told["reason"], columns)[:3]
    lines += _now(told, live, columns, rows)
    parts = [
        _incidents(told, columns, rows // 3),
        [
            *_summary(told, columns),
            *(wish_text(each, told) for each in told["asked"]),
            *_unsaved(told),
        ],
        _attempts(told),
        [harmless(line) for line in tail if not TOLD_ABOVE.match(line)],
    ]
    for part in parts:
        room = rows - len(lines) - 1
        # Of the log the end, of anything else the beginning.
        fitting = part[-room:] if part is parts[-1] else part[:room]
        lines += ["", *fitting] if part and room > 0 else []
    return lines


def _head(told: Told, columns: int) -> str:
    parts = [told["run"], told["state"].upper()]
    if told["attempts"]:
        last = told["attempts"][-1]
        parts += [f"attempt {last['number']}", f"job {last['job_id'] or '-'}", last["node"] or "-"]
    shown = _fitting(parts, columns)
    return GAP.join([paint(shown[0], "bold"), *(paint(each, told["state"]) for each in shown[1:2]),
                     *shown[2:]])  # fmt: skip


def _now(told: Told, live: Live, columns: int, rows: int) -> list[str]:
    """Where it stands, how fast it goes, losses, norms and their course."""
    lines = [_fitting(_progress(told, live, columns), columns), _fitting(_losses(live), columns)]
    return [harmless(GAP.join(line)) for line in lines if line] + _courses(live, columns, rows)


def _progress(told: Told, live: Live, columns: int) -> list[str]:
    step, total = told["step"], live.total
    if step is None:
        return []
    parts = [steps_text(step, total), *_epoch(live)]
    if told["state"] == "running":
        parts += pace_words(live)
    if total:
        share = min(1.0, step / total)
        parts.insert(1, f"{share:.0%}")
        room = min(columns - sum(width(part) + len(GAP) for part in parts), LONGEST_BAR)
        full = round((room - 2) * share)
        parts += [f"[{'#' * full:.<{room - 2}}]"] if room >= SMALL else []
    return parts


def pace_words(live: Live) -> list[str]:
    """How long is left, and steps a second."""
    left_s, rate = live.left_s, live.pace.rate
    words = [] if left_s is None else [f"{duration(left_s)} left"]
    if rate is not None:
        words.append(f"{rate:.3g} steps/s" if rate >= 0.1 else f"{1 / rate:.3g} s/step")
    return words


def _epoch(live: Live) -> list[str]:
    return [] if live.epoch is None else [f"epoch {live.epoch}"]


def _losses(live: Live) -> list[str]:
    told = [f"{_of(name)} {value:.4g}" for name, value in live.losses.items()]
    whole = sum(name == LOSS or name.startswith(f"{LOSS}/") for name in live.losses)
    return told[: whole + MOST_PARTS]


def _of(name: str) -> str:
    """train/mel is mel, train/loss/generator is loss of generator."""
    first, _, rest = name.removeprefix("train/").partition("/")
    return f"{first} of {rest}" if rest and first == "loss" else name.removeprefix("train/")


def _courses(live: Live, columns: int, rows: int) -> list[str]:
    """Gradient norms, and beneath each a chart of it; the one to look at first, and taller."""
    # Of the terminal, whose last row is the cursor's.
    room = max(1, (rows + 1) // ROWS_A_CHART)
    lines: list[str] = []
    for number, (name, strip) in enumerate(live.strips.items()):
        lines += [harmless(GAP.join(_fitting(_caption(name, live), columns)))]
        if number < min(room, MOST_CHARTS):
            lines += _chart(strip, columns, min(room, TALLEST) if number == 0 else 1)
    return lines


def _caption(name: str, live: Live) -> list[str]:
    norm = live.norms.get(name)
    if norm is None:
        return ["course of the loss" if name == LOSS else f"course of the loss of {name}"]
    parts = [f"gradient norm{_whose(name)} {norm.now:.3g}"]
    if not math.isnan(norm.usual):
        parts += [f"usual {norm.usual:.3g}"]
    if not math.isnan(live.strips[name].largest):
        parts += [f"largest {live.strips[name].largest:.3g}"]
    return parts + ([f"{norm.clipped:.0%} of steps clipped"] if norm.clipped else [])


def _whose(optimizer: str) -> str:
    return "" if optimizer == MAIN else f" of {optimizer}"


def _chart(strip: Strip, columns: int, rows: int) -> list[str]:
    if len(strip.values) < 2:
        return []
    drawn = chart(strip.values, columns, rows=rows, marked=strip.marked, is_plain=is_plain_text())
    return [paint(MARK, "failed").join(line.split(MARK)) for line in drawn]


def _summary(told: Told, columns: int) -> list[str]:
    return [line for each in summary(told) for line in _wrapped(each, columns)]


def _incidents(told: Told, columns: int, most_lines: int) -> list[str]:
    """The newest, what was done about each beneath it; the newest last."""
    lines: list[str] = []
    for each in reversed(without_first_signs(told["incidents"])):
        block = _incident(each, told["reason"], columns)
        if lines and len(lines) + len(block) > most_lines:
            break
        lines = block + lines
    return lines


def _incident(each: Told, reason: str, columns: int) -> list[str]:
    kind = str(each["kind"]).replace("_", " ")
    said = f"step {spaced(each['step'])}: {kind}: {each['sentence'] or ''}"
    if not is_acted_on(each):
        first, *more = _wrapped(said.partition("; ")[0], columns - 4)
        return [first + " ..." * bool(more)]
    # Why it was stopped is said above.
    done = _wrapped(what_was_done(each).removesuffix(f": {reason}"), columns - 2)
    told = (paint(line, "warning") for line in _wrapped(said, columns))
    return [*told, *(f"  {line}" for line in done)]


def _wrapped(text: str, columns: int) -> list[str]:
    """In so many lines as it takes, each of some words."""
    return textwrap.wrap(harmless(text), max(20, columns)) or [""]


def _unsaved(told: Told) -> list[str]:
    return [unsaved_text(told["unsaved"], told["checkpoints"])] if told["unsaved"] else []


def _attempts(told: Told) -> list[str]:
    """Of several; the head tells of one."""
    if len(told["attempts"]) < 2:
        return []
    return attempts_table({**told, "attempts": told["attempts"][-MOST_ATTEMPTS:]}).split("\n")


def _fitting(parts: Sequence[str], columns: int) -> list[str]:
    """As many of the first ones as there is room for; the first one anyway."""
    fitting: list[str] = []
    for part in parts:
        if fitting and width(GAP.join([*fitting, part])) > columns:
            break
        fitting.append(part)
    return fitting


def progress_line(told: Told, live: Live) -> str:
    """How far a run is, for who sees no picture."""
    norms = [f"norm{_whose(name)} {norm.now:.3g}" for name, norm in live.norms.items()]
    parts = [
        steps_text(told["step"], live.total), *_epoch(live), *_losses(live)[:1], *norms,
        *pace_words(live),
    ]  # fmt: skip
    return harmless(f"{told['run']}: {', '.join(parts)}")


# A sweep.


def sweep_lines(told: Told, lives: Mapping[str, Live], *, size: tuple[int, int]) -> list[str]:
    """A line a point; where there is no room for all, those first in which something happens."""
    _, rows = size
    head = f"{paint(told['run'], 'bold')}{GAP}{told['points']} runs: {told['reason']}"
    body = _points(seen_points(told, rows), told["varied"], lives)
    hidden = told["points"] - len(body) + 1
    return [head, "", *body, *([f"({hidden} more: hpckit show tells all)"] if hidden else [])]


def seen_points(told: Told, rows: int) -> list[Told]:
    """The points that there is room for, in their order."""
    room = max(1, rows - 4)
    points = told["runs"]
    if len(points) <= room:
        return list(points)
    lively = sorted(points, key=lambda each: (*LIVELY, each["state"]).index(each["state"]))
    seen = {each["run"] for each in lively[:room]}
    return [each for each in points if each["run"] in seen]


def _points(points: Sequence[Told], varied: Sequence[str], lives: Mapping[str, Live]) -> list[str]:
    from hpckit.heal.changes import get_path

    rows = []
    for point in points:
        live = lives.get(point["run"]) or Live()
        values = [short(get_path(point["params"], key)) for key in varied]
        loss = next(iter(live.losses.values()), None)
        reason = "" if point["reason"] == point["state"] else str(point["reason"] or "")
        strip = sparkline(
            live.strip.values, SMALL, marked=live.strip.marked, is_plain=is_plain_text()
        )
        rows.append([
            point["run"].rpartition("/")[2], point["state"], _far(live),
            "-" if loss is None else f"{loss:.4g}", strip or "-", *values, harmless(reason),
        ])  # fmt: skip
    head = ["point", "state", "step", "loss", "norm", *varied, "why"]
    return table(head, rows, right=(0, 2, 3), state=1).split("\n")


def _far(live: Live) -> str:
    if live.step is None:
        return "-"
    return spaced(live.step) + (f" of {spaced(live.total)}" if live.total else "")


def sweep_progress_line(told: Told, lives: Mapping[str, Live]) -> str:
    """How far the points are that run."""
    running = [each["run"] for each in told["runs"] if each["state"] == "running"]
    parts = [
        f"{run.rpartition('/')[2]} step {_far(lives[run])}"
        for run in running
        if run in lives and lives[run].step is not None
    ]
    return harmless(cut(f"{told['run']}: {', '.join(parts)}", 400)) if parts else ""

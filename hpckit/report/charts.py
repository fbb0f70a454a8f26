"""Which charts a report has, and which readings stand in which of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hpckit.monitor import reading as names

Scale = Literal["log", "linear", "auto"]
# What rules look at; no picture of it tells a person anything.
INTERNAL = re.compile(
    r"epoch(/|$)|data/|lr_planned/|device/|schedule/|updates/|grad/(clip|gated|usual|limit)/"
)
RATE = "rate/steps"
SECTIONS = {
    "gradients": "Gradients",
    "loss": "Loss",
    "validation": "Validation",
    "rate": "Learning rate",
    "speed": "Speed",
    "memory": "Memory",
    "other": "Other readings",
}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One picture: its place on the page, and the readings that are drawn in it, with words."""

    id: str
    section: str
    title: str
    # The reading's name, and what the line is called.
    lines: tuple[tuple[str, str], ...]
    unit: str = ""
    scale: Scale = "auto"
    wide: bool = False
    # The optimizer whose usual norm, limit and clip belong in it.
    optimizer: str | None = None


def charts_of(found: Iterable[str], *, overlaid: bool = False) -> list[Chart]:
    """The charts for readings of these names; overlaid, each line has a chart to itself."""
    known = sorted(name for name in found if not INTERNAL.match(name))
    charts = [chart for make in _MAKERS for chart in make(known)]
    drawn = {name for chart in charts for name, _ in chart.lines}
    charts += [
        Chart(id=name, section="other", title=name, lines=((name, name),))
        for name in known
        if name not in drawn
    ]
    return [single for each in charts for single in _apart(each)] if overlaid else charts


def _apart(chart: Chart) -> list[Chart]:
    if len(chart.lines) == 1:
        return [chart]
    return [
        Chart(
            id=name,
            section=chart.section,
            title=f"{chart.title} · {word}",
            lines=((name, word),),
            unit=chart.unit,
            scale=chart.scale,
        )
        for name, word in chart.lines
    ]


def _under(known: list[str], prefix: str) -> list[tuple[str, str]]:
    """The readings of a prefix, and what comes after it."""
    start = prefix + "/"
    return [(name, name.removeprefix(start)) for name in known if name.startswith(start)]


def _norms(known: list[str]) -> list[Chart]:
    found = _under(known, names.NORM)
    return [
        Chart(
            id=name,
            section="gradients",
            title="Gradient norm" if len(found) == 1 else f"Gradient norm · {optimizer}",
            lines=((name, "norm"),),
            scale="log",
            wide=True,
            optimizer=optimizer,
        )
        for name, optimizer in found
    ]


def _groups(known: list[str]) -> list[Chart]:
    by_optimizer: dict[str, list[tuple[str, str]]] = {}
    for name, rest in _under(known, names.GROUP):
        optimizer, _, group = rest.partition("/")
        by_optimizer.setdefault(optimizer, []).append((name, group))
    return [
        _several(f"grad/group/{optimizer}", "gradients", f"Norm by group · {optimizer}", lines)
        for optimizer, lines in by_optimizer.items()
    ]


def _updates(known: list[str]) -> list[Chart]:
    found = [("weights", names.UPDATE, "Size of an update over size of the weights")]
    found += [("scale", names.SCALE, "float16 loss scale")]
    return [
        _several(f"gradients/{key}", "gradients", title, lines)
        for key, prefix, title in found
        if (lines := _under(known, prefix))
    ]


def _several(id: str, section: str, title: str, lines: list[tuple[str, str]]) -> Chart:
    return Chart(id=id, section=section, title=title, lines=tuple(lines), scale="log")


def _loss(known: list[str]) -> list[Chart]:
    total = [(names.LOSS, "loss")] if names.LOSS in known else []
    lines = tuple(total + _under(known, names.LOSS))
    if not lines:
        return []
    return [Chart(id="loss", section="loss", title="Loss", lines=lines, wide=True)]


def _components(known: list[str]) -> list[Chart]:
    return [
        Chart(id=name, section="loss", title=word, lines=((name, word),))
        for name, word in _under(known, "train")
        if name != names.LOSS and not name.startswith(f"{names.LOSS}/")
    ]


def _validation(known: list[str]) -> list[Chart]:
    return [
        Chart(id=name, section="validation", title=word, lines=((name, word),))
        for name, word in _under(known, "val")
    ]


def _rates(known: list[str]) -> list[Chart]:
    lines = tuple(_under(known, names.RATE))
    return [Chart(id="lr", section="rate", title="Learning rate", lines=lines)] if lines else []


def _speed(known: list[str]) -> list[Chart]:
    words = {"time/step": "whole step", "time/data": "waiting for data"}
    lines = tuple((name, word) for name, word in words.items() if name in known)
    charts = []
    if RATE in known:
        rate = ((RATE, "steps"),)
        charts = [Chart(id=RATE, section="speed", title="Steps a second", lines=rate, unit="1/s")]
    if lines:
        charts.append(
            Chart(id="time", section="speed", title="Time", lines=lines, unit="s", scale="log")
        )
    return charts


def _memory(known: list[str]) -> list[Chart]:
    words = {"gpu": "GPU memory", "host": "host memory"}
    return [
        Chart(
            id=name, section="memory", title=words.get(word, word), lines=((name, word),), unit="GB"
        )
        for name, word in _under(known, "memory")
    ]


_MAKERS = (
    _norms,
    _groups,
    _updates,
    _loss,
    _components,
    _validation,
    _rates,
    _speed,
    _memory,
)

"""Which charts a report has, and which readings stand in which of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from hpckit.monitor import reading as names

Scale = Literal["log", "linear", "auto"]
# What rules look at; no picture of it tells a person anything.
INTERNAL = re.compile(
    r"epoch(/|$)|data/|lr_planned/|device/|schedule/|updates/|progress/"
    r"|grad/(clip|gated|usual|limit)/"
)
# What the names of several of a kind differ in.
COUNTED = re.compile(r"[._-]?\d+$")
RATE = "rate/steps"
SECTIONS = {
    "gradients": "Gradients",
    "loss": "Loss",
    "other": "What else it logged",
    "validation": "Validation",
    "rate": "Learning rate",
    "speed": "Speed",
    "memory": "Memory",
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


def charts_of(
    found: Iterable[str], *, overlaid: bool = False, first: Collection[str] = ()
) -> list[Chart]:
    """The charts for readings of these names, in their order; those of some optimizers come first.

    Overlaid, each line has a chart to itself.
    """
    names = [name for name in found if not INTERNAL.match(name)]
    known = sorted(names, key=lambda name: first_of(name.split("/"), first))
    charts = [chart for make in _MAKERS for chart in make(known)]
    drawn = {name for chart in charts for name, _ in chart.lines}
    charts += _others([name for name in known if name not in drawn])
    return [single for each in charts for single in _apart(each)] if overlaid else charts


def first_of(parts: Iterable[str], first: Collection[str]) -> bool:
    """A key to sort by: what is of those that come first, before the rest."""
    return not set(first) & set(parts)


def _others(known: list[str]) -> list[Chart]:
    """By their first word: `stage_0/rms` and `stage_1/rms` differ in a number, and are compared."""
    families: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name in sorted(known, key=lambda name: COUNTED.sub("", name.partition("/")[0])):
        word, _, rest = name.partition("/")
        families.setdefault((COUNTED.sub("", word), rest), []).append((name, word))
    return [_family(stem, rest, lines) for (stem, rest), lines in families.items()]


def _family(stem: str, rest: str, lines: list[tuple[str, str]]) -> Chart:
    name = lines[0][0]
    is_one = len(lines) == 1
    title = name if is_one else f"{stem} · {rest}" if rest else stem
    return Chart(
        id=name,
        section="other",
        title=title,
        lines=((name, name),) if is_one else tuple(lines),
    )


def _apart(chart: Chart) -> list[Chart]:
    if len(chart.lines) == 1:
        return [chart]
    return [
        Chart(
            id=name,
            section=chart.section,
            title=name if chart.section == "other" else f"{chart.title} · {word}",
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
    words = {"gpu": "GPU memory", "host": "Host memory"}
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

"""Curves for a paper: a figure a chart, as PNG or SVG, the same bytes for the same run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.paint import harmless
from hpckit.report.charts import Chart, charts_of
from hpckit.report.facts import Facts
from hpckit.report.lines import LONG, lines_of, room_for
from hpckit.report.several import labels
from hpckit.report.timeline import apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A column of a paper, in inches; its letters are as large as those of the text around it.
WIDTH, HEIGHT = 3.4, 2.3
# About what the axes take of it, and a numbered mark, in points; letters of a legend's line.
AXES, BADGE = 205.0, 9.5
LETTERS = 84
COLOURS = ("#0068a8", "#c04a00", "#007a5c", "#a03f86", "#86690a", "#5353c6", "#2a7d96", "#7a4a2b")
BAD, SOFT = "#b3261e", "#5b616b"
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "grid.color": "#e3e1dc",
    "axes.grid": True,
    "axes.axisbelow": True,
    "lines.linewidth": 0.9,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "savefig.dpi": 300,
    # Text stays text, and ids do not depend on chance.
    "svg.fonttype": "none",
    "svg.hashsalt": "hpckit",
}
# Values that are farther apart than so many times stand on a log scale.
DECADES = 15
# As many points a line as on a page with so many lines: more than a column has dots.
LINES = 24
# A limit beyond so many times the highest value is not worth the room.
FAR = 10
# What would tell another day, or another version.
UNDATED = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}
WORDS = {"norm": "grad/norm", "lr": "lr", "val": "val", "loss": "loss"}


def known(runs: Sequence[Facts]) -> list[Chart]:
    """The charts there are of these runs."""
    names = dict.fromkeys(name for each in runs for name in each.columns.values)
    blamed = {optimizer for each in runs for optimizer in each.blamed}
    return charts_of(names, overlaid=len(runs) > 1, first=blamed)


def asked(charts: Sequence[Chart], words: Sequence[str]) -> tuple[list[Chart], list[str]]:
    """Those that are meant by words as `norm` or `loss` or a reading's name; words of none."""
    found, unknown = [], []
    for word in words:
        mine = [chart for chart in charts if _is_meant(chart, word)]
        found += [chart for chart in mine if chart not in found]
        unknown += [] if mine else [word]
    return found, unknown


def _is_meant(chart: Chart, word: str) -> bool:
    names = [chart.id, chart.section, *(name for name, _ in chart.lines)]
    start = WORDS.get(word, word)
    if word == "loss":
        return chart.id == "loss" or chart.id.startswith("train/loss")
    return any(name in (word, start) or name.startswith(f"{start}/") for name in names)


def file_name(chart: Chart) -> str:
    """A name for its file: a reading's, without what a folder's name cannot have."""
    kept = [sign if sign.isalnum() or sign in "._" else "-" for sign in chart.id]
    return "".join(kept).strip("-.") or "chart"


def save(charts: Sequence[Chart], runs: Sequence[Facts], path: Path) -> None:
    """These charts, one beneath the other, as one file."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        _save(charts, runs, path)


def _save(charts: Sequence[Chart], runs: Sequence[Facts], path: Path) -> None:
    import io

    # Not pyplot: it would look for a screen, and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from hpckit.files import write_atomic

    figure = Figure(figsize=(WIDTH, HEIGHT * len(charts)), layout="constrained")
    FigureCanvasAgg(figure)
    for place, chart in enumerate(charts, start=1):
        _draw(figure.add_subplot(len(charts), 1, place), chart, runs)
    # Without a date the same run gives the same file.
    out = io.BytesIO()
    figure.savefig(out, format=path.suffix[1:], metadata={UNDATED[path.suffix]: None})
    write_atomic(path, out.getvalue())


def _draw(axes: Axes, chart: Chart, runs: Sequence[Facts]) -> None:
    several = len(runs) > 1
    names = labels(runs)
    lines = [(at, line) for at, each in enumerate(runs) for line in _lines(chart, each, several)]
    values = np.concatenate([line["y"] for _, line in lines] or [np.array([])])
    if _is_log(chart, values):
        axes.set_yscale("log")
    words = [word for _, word in chart.lines]
    for at, line in lines:
        # What a norm is held against has colours of its own.
        place = at if several or line["name"] not in words else words.index(line["name"])
        _line(
            axes,
            line,
            COLOURS[place % len(COLOURS)],
            _plain(names[at] if several else line["name"]),
        )
    axes.set_xlabel("step")
    axes.set_ylabel(_plain(f"{chart.title} ({chart.unit})" if chart.unit else chart.title))
    axes.margins(x=0.01)
    _near(axes, lines)
    if not several:
        _marks(axes, runs[0].acted)
    if several or len(chart.lines) > 1 or chart.optimizer is not None:
        _legend(axes)


def _near(axes: Axes, lines: Sequence[tuple[int, dict[str, Any]]]) -> None:
    """A limit far above all there was would press that together: it may leave the picture."""

    def highest(*roles: str) -> float:
        found = [line["y"][np.isfinite(line["y"])] for _, line in lines if line["role"] in roles]
        return float(np.concatenate(found or [np.array([])]).max(initial=0))

    most = highest("line", "left")
    if 0 < FAR * most < highest("limit"):
        axes.set_ylim(top=2 * most)


def _legend(axes: Axes) -> None:
    """Beneath the picture, where it hides no curve."""
    _, words = axes.get_legend_handles_labels()
    columns = LETTERS // (max(map(len, words), default=0) + 6)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.45, -0.23),
        ncols=max(1, min(4, columns)),
        handlelength=1.4,
        columnspacing=1.2,
    )


def _plain(words: str) -> str:
    """A name as text: a dollar would begin a formula, and what begins with _ has no legend."""
    said = harmless(words).replace("$", r"\$")
    return f" {said}" if said.startswith("_") else said


def _lines(chart: Chart, facts: Facts, several: bool) -> Iterator[dict[str, Any]]:
    steps = [each["step"] for each in facts.acted if each["step"] is not None]
    room = room_for(LINES, steps, facts.columns)
    yield from lines_of(chart, facts.columns, room, plain=several)


def _is_log(chart: Chart, values: Any) -> bool:
    finite = values[np.isfinite(values)]
    if not len(finite) or finite.min() <= 0:
        return chart.scale == "log" and bool((finite > 0).any())
    return chart.scale == "log" or (
        chart.scale == "auto" and bool(finite.max() / finite.min() > DECADES)
    )


def _line(axes: Axes, line: Mapping[str, Any], colour: str, label: str) -> None:
    look: dict[str, dict[str, Any]] = {
        "line": {"color": colour, "label": label, "alpha": 0.45 if line["of"] > LONG else 1.0},
        "middle": {"color": colour, "linewidth": 1.1},
        "left": {"color": colour, "alpha": 0.45, "linewidth": 0.8},
        "usual": {"color": SOFT, "linestyle": (0, (4, 3)), "linewidth": 0.7, "label": "usual"},
        "limit": {
            "color": BAD,
            "linestyle": (0, (1, 3)),
            "linewidth": 0.8,
            "label": "held back above",
        },
        "clip": {"color": COLOURS[2], "linewidth": 0.7, "label": "clipped to"},
    }
    x, y = line["x"], line["y"]
    finite = np.isfinite(y)
    axes.plot(x, np.where(finite, y, np.nan), **look[line["role"]])
    if not finite.all():
        # At the top edge, whatever the scale.
        top = np.ones(int((~finite).sum()))
        axes.plot(
            x[~finite],
            top,
            linestyle="",
            marker="v",
            markersize=3.5,
            color=BAD,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )


def _marks(axes: Axes, acted: Sequence[Mapping[str, Any]]) -> None:
    """Numbered as they came; those that are close stand beside each other."""
    found = [each for each in enumerate(acted, start=1) if each[1]["step"] is not None]
    found.sort(key=lambda each: each[1]["step"])
    begin, end = axes.get_xlim()
    points = [(each["step"] - begin) / (end - begin) * AXES for _, each in found]
    for (number, each), here, place in zip(found, points, apart(points, BADGE, AXES), strict=True):
        _mark(axes, number, each, place - here)


def _mark(axes: Axes, number: int, incident: Mapping[str, Any], aside: float) -> None:
    step, back = incident["step"], incident["resumed_step"]
    axes.axvline(step, color=BAD, linewidth=0.6)
    if incident["applied"] and back is not None:
        axes.axvspan(back, step, color=BAD, alpha=0.07, linewidth=0)
        axes.axvline(back, color=BAD, linewidth=0.6, linestyle=(0, (3, 2)))
    axes.annotate(
        str(number),
        (step, 1),
        xycoords=("data", "axes fraction"),
        xytext=(aside, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=6,
        color="white",
        bbox={"boxstyle": "circle,pad=0.2", "color": BAD},
        annotation_clip=False,
    )

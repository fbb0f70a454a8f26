"""The page: one HTML file that needs nothing else, of one run or of several side by side."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hpckit import __version__
from hpckit.monitor.reading import CLIP, GATED, LIMIT, LOSS, USUAL
from hpckit.report import tables, timeline
from hpckit.report.charts import SECTIONS, first_of
from hpckit.report.data import data
from hpckit.report.facts import Facts, Told
from hpckit.report.markup import folded, in_script, pairs, section, text
from hpckit.report.several import MOST_DRAWN, labels, outcomes
from hpckit.report.verdict import verdict
from hpckit.report.words import amount, count, took, until

NORM = (
    "The gradient is how a step wants to change the weights, its norm how strongly. Clipping makes "
    "a larger one as small as the clip. Gradients explode when their norm grows far beyond what is "
    "usual: such updates spoil what was learnt."
)
# A verdict with more letters than this is set smaller.
LONG = 420
HERE = Path(__file__).parent
SCRIPTS = ("scales.js", "marks.js", "table.js", "chart.js", "heat.js", "gestures.js", "page.js")


def page(runs: Sequence[Facts], *, title: str | None = None, now: float | None = None) -> str:
    """The whole document."""
    now = time.time() if now is None else now
    name = title or (runs[0].run.id if len(runs) == 1 else f"{len(runs)} runs")
    body = _one(runs[0], now) if len(runs) == 1 else _several(runs, name, now)
    scripts = "\n".join((HERE / each).read_text(encoding="utf-8") for each in SCRIPTS)
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{text(name)} · hpckit report</title>",
            f"<style>{(HERE / 'report.css').read_text(encoding='utf-8')}</style></head><body>",
            body,
            f"<footer>Written by hpckit {text(__version__)} on {timeline.reported(now)}. ",
            "Times are UTC.</footer>",
            f'<script type="application/json" id="data">{in_script(data(runs))}</script>',
            f"<script>{scripts}</script></body></html>",
        )
    )


def _bar() -> str:
    return (
        '<div class="tools"><button type="button" id="theme" aria-label="Light or dark">'
        "◐</button></div>"
    )


def _one(facts: Facts, now: float) -> str:
    told, now = facts.told, until(facts.told, now)
    return (
        f'<header>{_bar()}<p class="id">{text(told["run"])} '
        f'<span class="state {text(told["state"])}">{text(told["state"])}</span></p>'
        f"{_verdict(told)}{_explained(facts)}{_missing(facts)}"
        f"{_figures(facts, now)}</header>"
        f"<main>{_events(facts, now)}{_curves([facts])}{_rest(facts)}</main>"
    )


def _verdict(told: Told) -> str:
    said = verdict(told)
    return f"<h1{' class=long' if len(said) > LONG else ''}>{text(said)}</h1>"


def _explained(facts: Facts) -> str:
    """For whom the verdict is the first to speak of gradients."""
    return f'<p class="small">{NORM}</p>' if facts.blamed else ""


def _missing(facts: Facts) -> str:
    listed = "".join(f"<li>{text(each)}</li>" for each in facts.missing)
    return f'<ul class="missing">{listed}</ul>' if listed else ""


def _figures(facts: Facts, now: float) -> str:
    """A handful of numbers that one wants first."""
    told = facts.told
    hours = told["gpu_hours"]
    step = told["step"]
    items = [
        ("steps", count(step) if step is not None else "-"),
        ("time", took(told, now)),
        (hours["unit"], amount(hours["used"])),
        (f"{hours['unit']} lost", f"{hours['lost']:.2g}" if hours["lost"] else "0"),
        ("attempts", str(len(told["attempts"]))),
        ("incidents", str(len(facts.acted))),
    ]
    items += [(name, f"{value:.4g}") for name, value in _losses(facts)]
    return f'<div class="figures">{pairs((name, text(value)) for name, value in items)}</div>'


def _losses(facts: Facts) -> list[tuple[str, float]]:
    """What validation and loss came to, of the state that is kept and of what went wrong."""
    return [*_validation(facts), *_training(facts)]


def _validation(facts: Facts) -> Iterator[tuple[str, float]]:
    best = [each for each in facts.told["checkpoints"] if each.get("best") and each.get("metrics")]
    if best:
        name, value = next(iter(best[-1]["metrics"].items()))
        if isinstance(value, (int, float)):
            yield f"best val {name}", value
            return
    names = sorted(facts.columns.values, key=lambda name: name != "val/loss")
    for name in [name for name in names if name.startswith("val/")][:1]:
        yield from _newest(facts, name, name.replace("/", " "))


def _training(facts: Facts) -> Iterator[tuple[str, float]]:
    start = f"{LOSS}/"
    if LOSS in facts.columns.values:
        yield from _newest(facts, LOSS, "loss")
        return
    known = [name for name in facts.columns.values if name.startswith(start)]
    for name in sorted(known, key=lambda name: first_of(name.split("/"), facts.blamed))[:1]:
        yield from _newest(facts, name, f"{name.removeprefix(start)} loss")


def _newest(facts: Facts, name: str, word: str) -> Iterator[tuple[str, float]]:
    _, values = facts.columns.counting(name)
    if len(values):
        yield word, float(values[-1])


def _events(facts: Facts, now: float) -> str:
    drawn = timeline.drawn(facts, now)
    return section(
        "events",
        "What happened",
        f"{drawn}{timeline.told(facts)}{tables.log_end(facts)}",
        "Attempts are jobs that served this run; a number marks what hpckit acted on.",
    ) + section("changes", "What was changed, and why", tables.changes(facts))


def _rest(facts: Facts) -> str:
    return "".join(
        (
            section("hours", "Hours", tables.hours(facts)),
            section("attempts", "Attempts", tables.attempts(facts)),
            section("checkpoints", "Checkpoints", tables.checkpoints(facts)),
            section("spec", "The spec, as it was resolved", folded("show it", tables.spec(facts))),
            section("environment", "The environment", tables.machines(facts)),
        )
    )


def _curves(runs: Sequence[Facts]) -> str:
    """Places for the charts; the script draws them."""
    if not any(len(each.columns.step) for each in runs):
        return section("curves", "Curves", "<p>No step has been read yet.</p>")
    # Where no verdict had to explain it.
    norm = "" if len(runs) == 1 and runs[0].blamed else f'<p class="lead">{NORM}</p>'
    places = "".join(
        f'<div id="charts-{key}" class="group" hidden><h3>{word}</h3>'
        f"{norm if key == 'gradients' else ''}"
        '<div class="charts"></div></div>'
        for key, word in SECTIONS.items()
    )
    more = f"Of the {len(runs)} runs the first {MOST_DRAWN} are drawn. "
    hint = (
        f'<p class="hint">{more if len(runs) > MOST_DRAWN else ""}Drag over a chart to zoom, '
        "double click or <kbd>Esc</kbd> to see all. Arrow keys move along a chart. "
        "Steps run from left to right; a log scale shows tenfold as the same distance.</p>"
    )
    noscript = "<noscript><p>The charts need JavaScript; all else does not.</p></noscript>"
    range_ = (
        '<div id="range"><output id="shown" aria-live="polite"></output>'
        '<button type="button" id="reset" hidden>show all</button></div>'
    )
    return section(
        "curves",
        "Curves",
        f"{hint}{_key(runs)}{range_}{noscript}{places}",
    )


def _key(runs: Sequence[Facts]) -> str:
    """What the looks of lines mean: of those that may be drawn."""
    words = {"line": "counts", "left": "given up by going back"}
    found = {name.rpartition("/")[0] for each in runs for name in each.columns.values}
    if len(runs) == 1:
        against = {USUAL: "usual norm", LIMIT: "held back above", CLIP: "clipped to"}
        words |= {role.rpartition("/")[2]: word for role, word in against.items() if role in found}
    if GATED in found:
        words["gated"] = "update held back"
    listed = "".join(f'<li class="{look}">{word}</li>' for look, word in words.items())
    return f'<ul class="key">{listed}</ul>'


def _several(runs: Sequence[Facts], name: str, now: float) -> str:
    states: dict[str, int] = {}
    for each in runs:
        states[each.told["state"]] = states.get(each.told["state"], 0) + 1
    said = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    each_one = "".join(
        folded(
            f"{each.run.id}  {label}",
            f'<p class="verdict">{text(verdict(each.told))}</p>{_missing(each)}'
            f"{_anonymous(_events(each, until(each.told, now)) + _rest(each))}",
            kind="run",
        )
        for each, label in zip(runs, labels(runs), strict=True)
    )
    return (
        f'<header>{_bar()}<p class="id">{text(name)}</p><h1>{len(runs)} runs: {text(said)}.</h1>'
        f"</header><main>{section('outcomes', 'Outcomes', outcomes(runs))}"
        f"{_curves(runs)}{section('each', 'Each of them', each_one)}</main>"
    )


def _anonymous(body: str) -> str:
    """Without names of places, which would stand in the document more than once."""
    import re

    return re.sub(r' (?:id|aria-labelledby)="[a-z0-9-]*"', "", body)

"""The page: one HTML file that needs nothing else, of one run or of several side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpckit import __version__
from hpckit.heal.changes import get_path
from hpckit.paint import short
from hpckit.report import tables, timeline
from hpckit.report.charts import SECTIONS, Chart, charts_of
from hpckit.report.facts import Facts
from hpckit.report.heat import Heat, heats
from hpckit.report.lines import encoded, lines_of, room_for
from hpckit.report.markup import as_json, folded, in_script, pairs, section, table, text
from hpckit.report.words import count, took, verdict

HERE = Path(__file__).parent
SCRIPTS = ("scales.js", "chart.js", "heat.js", "gestures.js", "page.js")
# Of more runs than this the lines tell nobody anything; the table has them all.
MOST_DRAWN = 24
# Marks of a run that are drawn; beyond it they would be a wall.
MOST_MARKS = 40
# Values that a run came to, at the top of the page.
MOST_LAST = 2
# Of a reason in the table of outcomes, so many letters.
LONGEST = 100


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
            f'<script type="application/json" id="data">{in_script(_data(runs))}</script>',
            f"<script>{scripts}</script></body></html>",
        )
    )


def _bar() -> str:
    return (
        '<div class="tools"><button type="button" id="theme" aria-label="Light or dark">'
        "◐</button></div>"
    )


def _one(facts: Facts, now: float) -> str:
    told = facts.told
    return (
        f'<header>{_bar()}<p class="id">{text(told["run"])} '
        f'<span class="state {text(told["state"])}">{text(told["state"])}</span></p>'
        f"<h1>{text(verdict(told))}</h1>{_missing(facts)}{_figures(facts, now)}</header>"
        f"<main>{_events(facts, now)}{_curves([facts])}{_rest(facts)}</main>"
    )


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
        (hours["unit"], f"{hours['used']:.3g}"),
        ("lost", f"{hours['lost']:.2g}" if hours["lost"] else "0"),
        ("attempts", str(len(told["attempts"]))),
        ("incidents", str(len(facts.acted))),
    ]
    items += [(name, f"{value:.4g}") for name, value in _last(facts)]
    return f'<div class="figures">{pairs((name, text(value)) for name, value in items)}</div>'


def _last(facts: Facts) -> list[tuple[str, float]]:
    """What loss and validation came to."""
    found = []
    known = sorted(facts.columns.values)
    names = [name for name in ("train/loss",) if name in known]
    for name in [*names, *(each for each in known if each.startswith("val/"))]:
        _, values = facts.columns.counting(name)
        if len(values):
            found.append((name.removeprefix("train/"), float(values[-1])))
    return found[:MOST_LAST]


def _events(facts: Facts, now: float) -> str:
    drawn = timeline.drawn(facts, now)
    return section(
        "events",
        "What happened",
        f"{drawn}{timeline.told(facts)}",
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
    places = "".join(
        f'<div id="charts-{key}" class="group" hidden><h3>{word}</h3>'
        '<div class="charts"></div></div>'
        for key, word in SECTIONS.items()
        if key != "other"
    )
    other = folded("Other readings", '<div class="charts"></div>', kind="other")
    more = f"Of the {len(runs)} runs the first {MOST_DRAWN} are drawn. "
    hint = (
        f'<p class="hint">{more if len(runs) > MOST_DRAWN else ""}Drag over a chart to zoom, '
        "double click or <kbd>Esc</kbd> to see all. Arrow keys move along a chart.</p>"
    )
    keys = '<li class="line">counts</li><li class="left">left by a rollback</li>'
    if len(runs) == 1:
        keys += '<li class="usual">usual norm</li><li class="limit">held back above</li>'
        keys += '<li class="clip">clipped to</li>'
    keys = f'<ul class="key">{keys}<li class="gated">update held back</li></ul>'
    noscript = "<noscript><p>The charts need JavaScript; all else does not.</p></noscript>"
    range_ = (
        '<div id="range"><output id="shown" aria-live="polite"></output>'
        '<button type="button" id="reset" hidden>show all</button></div>'
    )
    return section(
        "curves",
        "Curves",
        f'{hint}{keys}{range_}{noscript}{places}<div id="charts-other" hidden>{other}</div>',
    )


def _several(runs: Sequence[Facts], name: str, now: float) -> str:
    varied = differing([each.run.params for each in runs])
    states: dict[str, int] = {}
    for each in runs:
        states[each.told["state"]] = states.get(each.told["state"], 0) + 1
    said = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    each_one = "".join(
        folded(
            f"{each.run.id}  {label}",
            f'<p class="verdict">{text(verdict(each.told))}</p>{_missing(each)}'
            f"{_anonymous(_events(each, now) + _rest(each))}",
            kind="run",
        )
        for each, label in zip(runs, labels(runs), strict=True)
    )
    return (
        f'<header>{_bar()}<p class="id">{text(name)}</p><h1>{len(runs)} runs: {text(said)}.</h1>'
        f"</header><main>{section('outcomes', 'Outcomes', _outcomes(runs, varied))}"
        f"{_curves(runs)}{section('each', 'Each of them', each_one)}</main>"
    )


def _anonymous(body: str) -> str:
    """Without names of places, which would stand in the document more than once."""
    import re

    return re.sub(r' (?:id|aria-labelledby)="[a-z0-9-]*"', "", body)


def _outcomes(runs: Sequence[Facts], varied: Sequence[str]) -> str:
    metrics = sorted({name for each in runs for name in each.columns.values if _is_outcome(name)})
    rows = []
    for number, each in enumerate(runs):
        drawn = f' class="swatch c{number % 8}"' if number < MOST_DRAWN else ""
        told = each.told
        state = text(told["state"])
        rows.append(
            [
                f"<i{drawn}></i>{text(told['run'])}",
                *(text(_param(each, key)) for key in varied),
                f'<span class="state {state}">{state}</span>',
                count(told["step"]) if told["step"] is not None else "-",
                *(_outcome(each, name) for name in metrics),
                str(len(each.acted)),
                f"{told['gpu_hours']['used']:.3g}",
                _why(told),
            ]
        )
    unit = runs[0].told["gpu_hours"]["unit"]
    head = [
        "run",
        *map(text, varied),
        "state",
        "steps",
        *map(text, metrics),
        "incidents",
        unit,
        "why",
    ]
    numbers = range(2 + len(varied), len(head) - 1)
    return table(head, rows, right=tuple(numbers), caption="Outcomes")


def _param(facts: Facts, key: str) -> str:
    value = get_path(facts.run.params, key)
    return "-" if value is None else short(value)


def _why(told: dict[str, Any]) -> str:
    """In a line; the run's own part has all of it."""
    reason = str(told["reason"])
    if reason in ("", told["state"]):
        return "-"
    return text(reason if len(reason) <= LONGEST else f"{reason[: LONGEST - 1]}…")


def _is_outcome(name: str) -> bool:
    return name == "train/loss" or name.startswith("val/")


def _outcome(facts: Facts, name: str) -> str:
    if name not in facts.columns.values:
        return "-"
    _, values = facts.columns.counting(name)
    return f"{values[-1]:.4g}" if len(values) else "-"


def differing(params: Sequence[dict[str, Any]]) -> list[str]:
    """The parameters, by their path, in which runs differ."""
    flat = [dict(_flat(each)) for each in params]
    names = list(dict.fromkeys(name for each in flat for name in each))
    return [name for name in names if len({repr(each.get(name)) for each in flat}) > 1]


def _flat(params: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in params.items():
        inner = isinstance(value, dict) and value
        found += _flat(value, f"{prefix}{key}.") if inner else [(f"{prefix}{key}", value)]
    return found


def labels(runs: Sequence[Facts]) -> list[str]:
    """What each run is called where several are drawn: what differs, else its id."""
    params = [dict(_flat(each.run.params)) for each in runs]
    varied = differing([each.run.params for each in runs])
    said = [" ".join(f"{key}={short(each.get(key, '-'))}" for key in varied) for each in params]
    same = len(set(said)) < len(said)
    return [
        f"{run.run.id.rpartition('/')[2]} {words}".strip() if same else words
        for run, words in zip(runs, said, strict=True)
    ]


def _data(runs: Sequence[Facts]) -> str:
    """What the script draws, as JSON."""
    drawn = [each for each in runs[:MOST_DRAWN] if len(each.columns.step)]
    overlaid = len(runs) > 1
    names = {name for each in drawn for name in each.columns.values}
    charts = charts_of(names, overlaid=overlaid)
    total = sum(len(chart.lines) for chart in charts) * max(1, len(drawn))
    listed = ",".join(_chart(chart, drawn, runs, total) for chart in charts)
    about = as_json(
        [
            {"label": label, "marks": _marks(each), "order": at, "varied": overlaid}
            for at, (each, label) in enumerate(zip(runs, labels(runs), strict=True))
            if each in drawn
        ]
    )
    maps = "" if overlaid else ",".join(_heat(each) for each in _heats(runs[0]))
    return f'{{"runs":{about},"charts":[{listed}],"heats":[{maps}]}}'


def _chart(chart: Chart, drawn: Sequence[Facts], runs: Sequence[Facts], total: int) -> str:
    series = []
    for place, each in enumerate(drawn):
        room = room_for(
            total, [e["step"] for e in each.acted if e["step"] is not None], each.columns
        )
        for line in lines_of(chart, each.columns, room, plain=len(runs) > 1):
            series.append(encoded({**line, "run": place}))
    about = {
        "id": chart.id,
        "section": chart.section,
        "title": chart.title,
        "unit": chart.unit,
        "scale": chart.scale,
        "wide": chart.wide,
    }
    return f'{as_json(about)[:-1]},"series":[{",".join(series)}]}}'


def _heats(facts: Facts) -> list[Heat]:
    blamed = {each["parameter"] for each in facts.acted if each["parameter"]}
    return heats(facts.columns, blamed)


def _heat(heat: Heat) -> str:
    from hpckit.report.lines import number

    about = {
        "optimizer": heat.optimizer,
        "names": heat.names,
        "blamed": [name in heat.blamed for name in heat.names],
        "hidden": heat.hidden,
        "x": heat.steps.tolist(),
    }
    rows = ",".join(f"[{','.join(map(number, row.tolist()))}]" for row in heat.norms)
    return f'{as_json(about)[:-1]},"cells":[{rows}]}}'


def _marks(facts: Facts) -> list[dict[str, Any]]:
    """Incidents and where they led back to; where an attempt took up."""
    marks: list[dict[str, Any]] = [
        {
            "kind": "incident",
            "number": number,
            "step": each["step"],
            "back": each["resumed_step"] if each["applied"] else None,
            "text": f"{str(each['kind']).replace('_', ' ')}, step {each['step']}",
        }
        for number, each in enumerate(facts.acted, start=1)
        if each["step"] is not None
    ]
    marks += [
        {"kind": "attempt", "number": each["number"], "step": each["from_step"]}
        for each in facts.told["attempts"][1:]
        if each["from_step"] is not None
    ]
    return marks[:MOST_MARKS]

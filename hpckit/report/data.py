"""What the page's script draws: lines, marks and heat maps, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpckit.report.charts import Chart, charts_of, first_of
from hpckit.report.facts import Facts
from hpckit.report.heat import Heat, heats
from hpckit.report.lines import encoded, lines_of, number, room_for
from hpckit.report.markup import as_json
from hpckit.report.several import MOST_DRAWN, labels
from hpckit.report.words import cause

# Marks of a run that are drawn; beyond it they would be a wall.
MOST_MARKS = 40


def data(runs: Sequence[Facts]) -> str:
    """What the script draws, as JSON."""
    drawn = [each for each in runs[:MOST_DRAWN] if len(each.columns.step)]
    overlaid = len(runs) > 1
    names = dict.fromkeys(name for each in drawn for name in each.columns.values)
    blamed = {optimizer for each in drawn for optimizer in each.blamed}
    charts = charts_of(names, overlaid=overlaid, first=blamed)
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
    spans = [_span(each) for each in facts.acted if each["optimizer"] and each["step"] is not None]
    found = heats(facts.columns, blamed, spans)
    return sorted(found, key=lambda each: first_of([each.optimizer], facts.blamed))


def _span(incident: dict[str, Any]) -> tuple[int, int]:
    """From where it began to grow to where something was done about it."""
    step, onset = incident["step"], incident["onset"]
    return (onset if isinstance(onset, int) else step, step)


def _heat(heat: Heat) -> str:
    about = {
        "optimizer": heat.optimizer,
        "names": heat.names,
        "blamed": heat.blamed,
        "hidden": heat.hidden,
        "x": heat.steps.tolist(),
    }
    rows = ",".join(f"[{','.join(map(number, row.tolist()))}]" for row in heat.norms)
    listed = ",".join(
        f"[{as_json(each.name)},{number(each.first)},{number(each.largest)},{each.at},"
        f"{number(each.last)},{int(each.is_blamed)}]"
        for each in heat.parameters
    )
    return f'{as_json(about)[:-1]},"cells":[{rows}],"parameters":[{listed}]}}'


def _marks(facts: Facts) -> list[dict[str, Any]]:
    """Incidents and where they led back to; where an attempt took up."""
    marks: list[dict[str, Any]] = [
        {
            "kind": "incident",
            "number": number,
            "cause": cause(each),
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

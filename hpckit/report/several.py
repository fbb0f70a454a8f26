"""Several runs side by side: what they are called, and what came of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpckit.heal.changes import get_path
from hpckit.paint import short
from hpckit.report.facts import Facts
from hpckit.report.markup import table, text
from hpckit.report.words import amount, count

# Of more runs than this the lines tell nobody anything; the table has them all.
MOST_DRAWN = 24
# Of a reason in the table of outcomes, so many letters.
LONGEST = 100


def outcomes(runs: Sequence[Facts]) -> str:
    """A table: a run a line, with what differs, and what came of it."""
    varied = differing([each.run.params for each in runs])
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
                amount(told["gpu_hours"]["used"]),
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

"""Several runs side by side: what they are called, and what came of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hpckit.heal.changes import get_path
from hpckit.monitor.reading import LOSS
from hpckit.paint import short
from hpckit.report.facts import Facts
from hpckit.report.markup import table, text
from hpckit.report.words import amount, because, count

# Of more runs than this the lines tell nobody anything; the table has them all.
MOST_DRAWN = 24
# Of more parameters than this each has a line of its own.
MOST_BESIDE = 4
MOST_METRICS = 3
# A longer label has no room in a chart.
LONGEST_LABEL = 48
# Of a reason in the table of outcomes, so many letters.
LONGEST = 100


def outcomes(runs: Sequence[Facts]) -> str:
    """A table: a run a line, with what differs, and what came of it."""
    varied = differing([each.run.params for each in runs])
    beside = varied if len(varied) <= MOST_BESIDE else []
    metrics = _metrics(runs)
    units = {each.told["gpu_hours"]["unit"] for each in runs}
    rows = []
    for number, (each, label) in enumerate(zip(runs, labels(runs), strict=True)):
        drawn = f' class="swatch c{number % 8}"' if number < MOST_DRAWN else ""
        told = each.told
        state = text(told["state"])
        # What the lines are called, where neither the id nor a parameter beside it says so.
        is_said = bool(beside) or label in told["run"]
        name = told["run"] if is_said else f"{label}  {told['run']}"
        rows.append(
            [
                f"<i{drawn}></i>{text(name)}",
                *(text(_param(each, key)) for key in beside),
                f'<span class="state {state}">{state}</span>',
                count(told["step"]) if told["step"] is not None else "-",
                *(_outcome(each, name) for name in metrics),
                str(len(each.acted)),
                _hours(told["gpu_hours"], with_unit=len(units) > 1),
                _why(each),
            ]
        )
    came = [
        *(name.removeprefix("train/").replace("/", " ") for name in metrics),
        "incidents",
        *(units if len(units) == 1 else ["hours"]),
    ]
    head = ["run", *map(text, beside), "state", "steps", *map(text, came), "why"]
    numbers = range(2 + len(beside), len(head) - 1)
    found = table(head, rows, right=tuple(numbers), caption="Outcomes")
    return found if beside or not varied else found + _params(runs, varied)


def _hours(told: dict[str, Any], *, with_unit: bool) -> str:
    """Hours of GPUs and hours of nodes are told apart where a table has both."""
    return f"{amount(told['used'])} {text(told['unit'])}" if with_unit else amount(told["used"])


def _params(runs: Sequence[Facts], varied: Sequence[str]) -> str:
    """Where much differs: a parameter a line."""
    rows = [[text(key), *(text(_param(each, key)) for each in runs)] for key in varied]
    head = ["parameter", *map(text, labels(runs))]
    return table(head, rows, caption="What differs")


def _metrics(runs: Sequence[Facts]) -> list[str]:
    """Loss and validation; of a validation with many parts the whole of it."""
    names = sorted({name for each in runs for name in each.columns.values})
    found = [name for name in names if name.startswith("val/")]
    if len(found) > MOST_METRICS:
        found = ["val/loss"] if "val/loss" in found else found[:MOST_METRICS]
    return [name for name in names if name == LOSS] + found


def _param(facts: Facts, key: str) -> str:
    value = get_path(facts.run.params, key)
    return "-" if value is None else short(value)


def _why(facts: Facts) -> str:
    """In a line; the run's own part has all of it."""
    attempts = facts.told["attempts"]
    reason = str(facts.told["reason"])
    if attempts and attempts[-1]["reason"] == reason:
        reason = because(attempts[-1], facts.acted)
    if reason in ("", facts.told["state"]):
        return "-"
    return text(reason if len(reason) <= LONGEST else f"{reason[: LONGEST - 1]}…")


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
    """What each run is called where several are drawn: its job's name, what differs, its id."""
    names = _short([each.run.name for each in runs])
    if len(set(names)) == len(names) > 1:
        return names
    params = [dict(_flat(each.run.params)) for each in runs]
    varied = differing([each.run.params for each in runs])
    said = [" ".join(f"{key}={short(each.get(key, '-'))}" for key in varied) for each in params]
    ids = [each.run.id.rpartition("/")[2] for each in runs]
    if len(set(ids)) < len(ids):
        # Points of two sweeps.
        ids = [each.run.id for each in runs]
    if max(map(len, said)) > LONGEST_LABEL:
        return ids
    if len(set(said)) == len(said):
        return said
    return [f"{id} {words}".strip() for id, words in zip(ids, said, strict=True)]


def _short(names: Sequence[str]) -> list[str]:
    """Without the words that all begin with: `agent-tiny` and `agent-large` are tiny and large."""
    words = [re.split(r"(?<=[-_.])", name) for name in names]
    same = 0
    while all(len(each) > same + 1 for each in words) and len({each[same] for each in words}) == 1:
        same += 1
    return ["".join(each[same:]) for each in words]

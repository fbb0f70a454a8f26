"""What many verdicts come to."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.detection.verdict import Verdict

DRAWS = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """One detector on one group of traces."""

    caught: int
    bad: int
    median_lead: float | None
    onset_right: int
    onset_known: int
    healthy_steps: int
    false_acts: int
    # Per 100,000 healthy steps.
    false_act_rate: float
    false_act_upper: float
    false_skip_rate: float
    # Runs that went wrong and got over it, and in how many of them it acted.
    recovered: int
    acted_on_recovered: int


def summarise(verdicts: Iterable[Verdict]) -> Summary:
    """The numbers of a group."""
    some = list(verdicts)
    bad = [verdict for verdict in some if verdict.bad]
    leads = [verdict.lead for verdict in bad if verdict.caught and verdict.lead is not None]
    onsets = [v.onset_right for v in bad if v.onset_right is not None]
    steps = [verdict.healthy_steps for verdict in some]
    acts = [len(verdict.false_acts) for verdict in some]
    recovered = [verdict for verdict in some if verdict.ending == "recovered"]
    total = max(sum(steps), 1)
    return Summary(
        caught=sum(verdict.caught for verdict in bad),
        bad=len(bad),
        median_lead=statistics.median(leads) if leads else None,
        onset_right=sum(onsets),
        onset_known=len(onsets),
        healthy_steps=sum(steps),
        false_acts=sum(acts),
        false_act_rate=sum(acts) / total * 1e5,
        false_act_upper=upper(acts, steps),
        false_skip_rate=sum(verdict.false_skips for verdict in some) / total * 1e5,
        recovered=len(recovered),
        acted_on_recovered=sum(verdict.act is not None for verdict in recovered),
    )


def upper(events: Sequence[int], steps: Sequence[int]) -> float:
    """The rate per 100,000 steps below which 95% of resamplings over runs lie.

    Of no event at all no resampling tells anything: there it is three in all the steps.
    """
    if sum(steps) == 0:
        return 0.0
    if sum(events) == 0:
        return 3.0 / sum(steps) * 1e5
    rng = np.random.default_rng(0)
    rows = rng.integers(len(steps), size=(DRAWS, len(steps)))
    drawn = np.asarray(events)[rows].sum(1) / np.maximum(np.asarray(steps)[rows].sum(1), 1)
    return float(np.quantile(drawn, 0.95) * 1e5)


def by_family(verdicts: Iterable[Verdict]) -> dict[str, list[Verdict]]:
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(verdict.family, []).append(verdict)
    return groups


def table(found: dict[str, list[Verdict]]) -> str:
    """All detectors in columns: by family and in total."""
    names = list(found)
    groups = {name: by_family(verdicts) for name, verdicts in found.items()}
    families = list(dict.fromkeys(family for group in groups.values() for family in group))
    rows = [["", *names]]
    per_family = {
        name: {family: summarise(group[family]) for family in group}
        for name, group in groups.items()
    }
    rows.append(["caught / went wrong"])
    for family in families:
        if any(family in per_family[name] and per_family[name][family].bad for name in names):
            rows.append([f"  {family}", *(_caught(per_family[name].get(family)) for name in names)])
    rows.append(["false acts per 100k healthy steps"])
    for family in families:
        rows.append([f"  {family}", *(_rate(per_family[name].get(family)) for name in names)])
    rows += _totals({name: summarise(verdicts) for name, verdicts in found.items()})
    return _columns(rows)


def _totals(total: dict[str, Summary]) -> list[list[str]]:
    sums = list(total.values())
    return [
        ["all"],
        ["  caught / went wrong", *(_caught(s) for s in sums)],
        [
            "  median lead, steps",
            *("-" if s.median_lead is None else f"{s.median_lead:g}" for s in sums),
        ],
        ["  onset right / known", *(f"{s.onset_right}/{s.onset_known}" for s in sums)],
        ["  acted / got over it", *(f"{s.acted_on_recovered}/{s.recovered}" for s in sums)],
        ["  healthy steps, 1000s", *(f"{s.healthy_steps / 1000:.0f}" for s in sums)],
        ["  false acts", *(str(s.false_acts) for s in sums)],
        ["  ... per 100k", *(_rate(s) for s in sums)],
        ["  ... 95% below", *(f"{s.false_act_upper:.3g}" for s in sums)],
        ["  false skips per 100k", *(f"{s.false_skip_rate:.3g}" for s in sums)],
    ]


def _caught(summary: Summary | None) -> str:
    return "" if summary is None or not summary.bad else f"{summary.caught}/{summary.bad}"


def _rate(summary: Summary | None) -> str:
    return "" if summary is None or not summary.healthy_steps else f"{summary.false_act_rate:.3g}"


def _columns(rows: list[list[str]]) -> str:
    wide = max(len(row) for row in rows)
    rows = [row + [""] * (wide - len(row)) for row in rows]
    widths = [max(len(row[at]) for row in rows) for at in range(wide)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )

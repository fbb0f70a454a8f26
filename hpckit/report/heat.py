"""How each parameter's gradient norm grew: rows are parameters, columns are steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from hpckit.monitor.readings.columns import Columns, Floats, Ints

# What fits on a page and can be told apart.
MOST_ROWS, MOST_COLUMNS = 48, 240


@dataclass(frozen=True, kw_only=True, eq=False)
class Heat:
    """One optimizer's parameters."""

    optimizer: str
    names: tuple[str, ...]
    steps: Ints
    # By parameter and step; NaN where nothing was measured, infinite where it was not finite.
    norms: Floats
    blamed: frozenset[str]
    # Parameters that are not shown.
    hidden: int


def heats(columns: Columns, blamed: Collection[str]) -> list[Heat]:
    """One for each optimizer of which norms of parameters were kept."""
    by_optimizer: dict[str, list[tuple[int, Mapping[str, float]]]] = {}
    for row, found in columns.parameters:
        for optimizer, norms in found.items():
            by_optimizer.setdefault(optimizer, []).append((int(columns.step[row]), norms))
    return [_heat(optimizer, rows, blamed) for optimizer, rows in by_optimizer.items()]


def _heat(
    optimizer: str, rows: list[tuple[int, Mapping[str, float]]], blamed: Collection[str]
) -> Heat:
    names = list(dict.fromkeys(name for _, norms in rows for name in norms))
    place = {name: at for at, name in enumerate(names)}
    table = np.full((len(names), len(rows)), np.nan)
    for column, (_, norms) in enumerate(rows):
        for name, norm in norms.items():
            table[place[name], column] = norm if norm == norm else np.inf
    steps, table = _fewer(np.array([step for step, _ in rows], dtype=np.int64), table)
    shown = _shown(table, [name in blamed for name in names])
    return Heat(
        optimizer=optimizer,
        names=tuple(names[at] for at in shown),
        steps=steps,
        norms=table[shown],
        blamed=frozenset(blamed),
        hidden=len(names) - len(shown),
    )


def _fewer(steps: Ints, table: Floats) -> tuple[Ints, Floats]:
    """In order of step, the largest of each bucket: also of branches that were left."""
    order = np.argsort(steps, kind="stable")
    steps, table = steps[order], table[:, order]
    starts = np.unique(steps, return_index=True)[1]
    if len(starts) > MOST_COLUMNS:
        edges = np.linspace(steps[0], steps[-1] + 1, MOST_COLUMNS + 1)[:-1]
        starts = np.unique(np.searchsorted(steps, edges))
        starts = starts[starts < len(steps)]
    if not len(starts):
        return steps, table
    return steps[starts], np.fmax.reduceat(table, starts, axis=1)


def _shown(table: Floats, is_blamed: list[bool]) -> list[int]:
    """The blamed ones, and those that grew most; in the order of the model."""
    if len(table) <= MOST_ROWS:
        return list(range(len(table)))
    logs = np.log(np.clip(table, 1e-30, 1e30))
    with np.errstate(all="ignore"):
        grew = np.nan_to_num(np.nanmax(logs, axis=1) - np.nanmedian(logs, axis=1), nan=-1.0)
    grew[is_blamed] = np.inf
    return sorted(np.argsort(-grew, kind="stable")[:MOST_ROWS].tolist())

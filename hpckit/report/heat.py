"""How each layer's gradient norm grew: rows are layers, columns are steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpckit.monitor.readings.columns import Bools, Columns, Floats, Ints

# What is seen at a glance and can be told apart.
MOST_ROWS, MOST_COLUMNS = 20, 240
# What grew less than so many times is shown for contrast, a few of it.
GREW, FEWEST_ROWS = 3.0, 8
# The columns before an explosion that tell what was usual.
USUAL = 12
# Parameters in the table beneath: of more a page would be large.
MOST_LISTED = 3000


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter's norm: at first, at most, and at last; NaN where it never was measured."""

    name: str
    first: float
    largest: float
    at: int
    last: float
    is_blamed: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Heat:
    """One optimizer's layers."""

    optimizer: str
    # A layer is called by its module; the one of a blamed parameter by that.
    names: tuple[str, ...]
    blamed: tuple[bool, ...]
    steps: Ints
    # By layer and step; NaN where nothing was measured, infinite where it was not finite.
    norms: Floats
    # Layers that are not shown.
    hidden: int
    parameters: tuple[Parameter, ...]


def heats(
    columns: Columns, blamed: Collection[str], spans: Sequence[tuple[int, int]] = ()
) -> list[Heat]:
    """One for each optimizer of which norms of parameters were kept.

    `spans`: the steps in which they went wrong; who grew in them is shown first of all.
    """
    by_optimizer: dict[str, list[tuple[int, Mapping[str, float]]]] = {}
    for row, found in columns.parameters:
        for optimizer, norms in found.items():
            by_optimizer.setdefault(optimizer, []).append((int(columns.step[row]), norms))
    # An optimizer of which no parameter has a gradient has none to show.
    known = {key: rows for key, rows in by_optimizer.items() if any(norms for _, norms in rows)}
    return [_heat(optimizer, rows, blamed, spans) for optimizer, rows in known.items()]


def _heat(
    optimizer: str,
    rows: list[tuple[int, Mapping[str, float]]],
    blamed: Collection[str],
    spans: Sequence[tuple[int, int]],
) -> Heat:
    names = list(dict.fromkeys(name for _, norms in rows for name in norms))
    place = {name: at for at, name in enumerate(names)}
    table = np.full((len(names), len(rows)), np.nan)
    for column, (_, norms) in enumerate(rows):
        for name, norm in norms.items():
            table[place[name], column] = norm if norm == norm else np.inf
    steps, table = _fewer(np.array([step for step, _ in rows], dtype=np.int64), table)
    layers = _layers(names)
    labels = [_label(layer, [names[at] for at in mine], blamed) for layer, mine in layers.items()]
    norms_of_layers = np.array([_together(table[mine]) for mine in layers.values()])
    before, within = _before(steps, spans), _within(steps, spans)
    of = np.nanmedian if spans else np.nanmax
    grew = _growth(norms_of_layers, before, within, of)
    most = int(np.clip((grew > np.log(GREW)).sum(), FEWEST_ROWS, MOST_ROWS))
    shown = _most(grew, [label in blamed for label in labels], most)
    is_blamed = [name in blamed for name in names]
    return Heat(
        optimizer=optimizer,
        names=tuple(labels[at] for at in shown),
        blamed=tuple(labels[at] in blamed for at in shown),
        steps=steps,
        norms=norms_of_layers[shown],
        hidden=len(layers) - len(shown),
        parameters=tuple(
            _parameter(names[at], steps, table[at], is_blamed[at])
            for at in _most(_growth(table, before, within, of), is_blamed, MOST_LISTED)
        ),
    )


def _layers(names: Sequence[str]) -> dict[str, list[int]]:
    """The places of each module's own parameters: its weight, its bias."""
    found: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        found.setdefault(name.rpartition(".")[0] or name, []).append(at)
    return found


def _label(layer: str, parameters: Sequence[str], blamed: Collection[str]) -> str:
    named = [name for name in parameters if name in blamed]
    return named[0] if named else layer if len(parameters) > 1 else parameters[0]


def _together(table: Floats) -> Floats:
    """The norm of several parameters; NaN where none of them was measured."""
    whole = np.sqrt(np.nansum(np.square(table), axis=0))
    return np.where(np.isnan(table).all(axis=0), np.nan, whole)


def _parameter(name: str, steps: Ints, norms: Floats, is_blamed: bool) -> Parameter:
    known = np.flatnonzero(~np.isnan(norms))
    first, most, last = _ends(norms, known)
    return Parameter(
        name=name,
        first=float(norms[first]),
        largest=float(norms[most]),
        at=int(steps[most]),
        last=float(norms[last]),
        is_blamed=is_blamed,
    )


def _ends(norms: Floats, known: Ints) -> Iterator[int]:
    yield from (int(known[at]) for at in (0, int(np.argmax(norms[known])), -1))


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


def _within(steps: Ints, spans: Sequence[tuple[int, int]]) -> Bools:
    """The columns of the last of these steps, up to what was done; all where there are none."""
    within = np.zeros(len(steps), dtype=bool)
    for begin, end in spans:
        within |= (steps >= end - (end - begin) // 4) & (steps <= end)
    return within if within.any() else ~within


def _before(steps: Ints, spans: Sequence[tuple[int, int]]) -> Bools:
    """The last columns before the first of these steps; all of them where there are none."""
    end = int(np.searchsorted(steps, min((begin for begin, _ in spans), default=0)))
    before = np.zeros(len(steps), dtype=bool)
    before[max(0, end - USUAL) : end] = True
    return before if before.any() else ~before


def _growth(table: Floats, before: Bools, within: Bools, of: Callable[..., Floats]) -> Floats:
    """Of each row, how far it grew over its own usual, on a log scale."""
    logs = np.log(np.clip(table, 1e-30, 1e30))
    usual = _nan_free(np.nanmedian, logs[:, before])
    return np.nan_to_num(_nan_free(of, logs[:, within]) - usual, nan=-1.0)


def _most(grew: Floats, is_blamed: list[bool], most: int) -> list[int]:
    """The blamed ones, and those that grew most; in the model's order."""
    ranked = np.argsort(-np.where(is_blamed, np.inf, grew), kind="stable")
    return sorted(ranked[:most].tolist())


def _nan_free(of: Callable[..., Floats], table: Floats) -> Floats:
    """Of each row; of one that has nothing NaN, without numpy's warning."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return of(table, axis=1)

"""Sweeps: which parameters vary together, and the points that come of it."""

# ruff: noqa: RUF009 (setting is dataclasses.field with a help text)
from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from hpckit import yamlio
from hpckit.errors import Problem
from hpckit.model.fields import setting
from hpckit.model.kinds import (
    Anything,
    Kind,
    ListOf,
    MapOf,
    Schema,
    Text,
    Whole,
    complain,
    nearly,
    short,
)

POINTS_LIMIT = 100_000
PATH_PATTERN = r"[^.\x00]+(?:\.[^.\x00]+){0,31}"


class Seeds(Kind):
    """How many seeds, counted from 0, or the seeds themselves."""

    many = Whole(min=1, max=POINTS_LIMIT)
    listed = ListOf(item=Whole(), least=1)

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        kind = self.listed if isinstance(node, yamlio.Sequence) else self.many
        return kind.read(node, problems, path)

    def schema(self) -> Schema:
        return {"anyOf": [self.many.schema(), self.listed.schema()]}

    def write(self, value: Any) -> Any:
        return value if isinstance(value, int) else list(value)


_AXES = MapOf(
    item=ListOf(item=Anything(), least=1),
    key=Text(pattern=PATH_PATTERN, expected="a parameter such as lr or loss.weight"),
)
Axes = Annotated[dict[str, tuple[Any, ...]], _AXES]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Parameters to vary: every combination of a grid, rows of a zip, seeds."""

    grid: Axes | None = setting(default=None, help="Every combination; the last varies fastest.")
    zip: Axes | None = setting(default=None, help="Lists of one length, taken row by row.")
    seeds: Annotated[int | tuple[int, ...], Seeds()] | None = setting(
        default=None, help="How many seeds, or a list of them; varies params.seed."
    )
    at_most: Annotated[int, Whole(min=1)] | None = setting(
        default=None, help="How many runs of the sweep may run at once."
    )


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run of a sweep: the values that vary, and all parameters with them in place."""

    index: int
    values: dict[str, Any]
    params: dict[str, Any]


def points(sweep: Sweep | None, params: Mapping[str, Any]) -> list[Point]:
    """All points in their fixed order; without a sweep, the one that is there."""
    return [
        Point(index=index, values=values, params=merged(params, values))
        for index, values in enumerate(combinations(sweep))
    ]


def combinations(sweep: Sweep | None) -> Iterator[dict[str, Any]]:
    """The varied values of each point: grid slowest, then zip, then seeds."""
    axes = [[((path, value),) for value in values] for path, values in grid_of(sweep)]
    rows = list(zip_of(sweep))
    if rows:
        columns = [[(path, value) for value in values] for path, values in rows]
        axes.append(list(zip(*columns, strict=True)))
    if sweep is not None and sweep.seeds is not None:
        axes.append([(("seed", seed),) for seed in seeds_of(sweep)])
    for chosen in itertools.product(*axes):
        yield dict(itertools.chain.from_iterable(chosen))


def merged(params: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with values put in at their dotted paths; what was given is left as it is."""
    found = dict(params)
    for path, value in values.items():
        *above, last = path.split(".")
        inner = found
        for name in above:
            inner[name] = dict(inner.get(name) or {})
            inner = inner[name]
        inner[last] = value
    return found


def varied(sweep: Sweep | None) -> list[str]:
    """The paths in params that a sweep varies."""
    found = [path for path, _ in (*grid_of(sweep), *zip_of(sweep))]
    return [*found, "seed"] if sweep is not None and sweep.seeds is not None else found


def count(sweep: Sweep | None) -> int:
    """How many points there are, without making them."""
    total = math.prod(len(values) for _, values in grid_of(sweep))
    total *= min((len(values) for _, values in zip_of(sweep)), default=1)
    return total * len(seeds_of(sweep))


def grid_of(sweep: Sweep | None) -> list[tuple[str, tuple[Any, ...]]]:
    return list((sweep.grid or {}).items()) if sweep is not None else []


def zip_of(sweep: Sweep | None) -> list[tuple[str, tuple[Any, ...]]]:
    return list((sweep.zip or {}).items()) if sweep is not None else []


def seeds_of(sweep: Sweep | None) -> tuple[int, ...] | range:
    """The seeds; one nameless seed where none are asked for, so that a product still counts."""
    seeds = sweep.seeds if sweep is not None else None
    if seeds is None:
        return range(1)
    return range(seeds) if isinstance(seeds, int) else seeds


class Paths:
    """Dotted paths, asked whether another is one of them, holds one or lies inside one."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self.beginnings: dict[str, str] = {}
        self.whole: set[str] = set()
        for path in paths:
            self.add(path)

    def add(self, path: str) -> None:
        self.whole.add(path)
        for beginning in _beginnings(path):
            self.beginnings.setdefault(beginning, path)

    def overlap(self, path: str) -> str | None:
        """A path that is the same, holds the one asked for or lies inside it."""
        if path in self.beginnings:
            return self.beginnings[path]
        return next((each for each in _beginnings(path) if each in self.whole), None)


def _beginnings(path: str) -> Iterator[str]:
    end = path.find(".")
    while end >= 0:
        yield path[:end]
        end = path.find(".", end + 1)
    yield path


def check(
    sweep: Sweep,
    params: Mapping[str, Any],
    node: yamlio.Node,
    problems: list[Problem],
    used: Collection[str] = (),
) -> None:
    """Everything that can be wrong between the parts of a sweep, and with its parameters.

    `used` are the parameters that the program's command names: they need no value in `params`.
    """
    look = _Look(node, problems)
    varies = (yamlio.find(node, part) for part in ("grid", "zip", "seeds"))
    if all(each is node or yamlio.is_null(each) or _is_empty(each) for each in varies):
        look.complain("sweep", "varies nothing: give grid, zip or seeds")
    if sweep.zip and len({len(values) for values in sweep.zip.values()}) > 1:
        some = itertools.islice(sweep.zip.items(), 8)
        lengths = ", ".join(f"{path} has {len(values)}" for path, values in some)
        look.complain("sweep.zip", f"the lists must be of one length: {lengths}", "zip")
    if (total := count(sweep)) > POINTS_LIMIT:
        # A number of thousands of digits cannot even be printed.
        many = f"{total:,}" if total < 10**12 else "countless"
        look.complain("sweep", f"makes {many} runs, more than {POINTS_LIMIT:,}")
    _check_paths(sweep, params, look, used)
    _check_repeats(sweep, look)


def _is_empty(node: yamlio.Node) -> bool:
    return isinstance(node, yamlio.Mapping) and not node.pairs


@dataclass(frozen=True)
class _Look:
    """Finds the node that a problem is about."""

    node: yamlio.Node
    problems: list[Problem]

    def complain(self, path: str, message: str, *steps: str, at: int | None = None) -> None:
        node = yamlio.find(self.node, *steps)
        if at is not None and isinstance(node, yamlio.Sequence) and at < len(node.items):
            node, path = node.items[at], f"{path}[{at}]"
        complain(self.problems, node, path, message)


def _slip(path: str, params: Mapping[str, Any]) -> str:
    """What to say of a new parameter that is nearly one that is there: most often it is meant."""
    *above, last = path.split(".")
    inner: Any = params
    for name in above:
        inner = inner.get(name) if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or not inner or last in inner:
        return ""
    return nearly(last, list(inner))


def _check_paths(
    sweep: Sweep, params: Mapping[str, Any], look: _Look, used: Collection[str]
) -> None:
    seen = Paths()
    for part, axes in (("grid", sweep.grid or {}), ("zip", sweep.zip or {})):
        for path in axes:
            message = _path_complaint(path, params) or _clash(path, seen)
            message = message or ("" if path in used else _slip(path, params))
            if message:
                look.complain(f"sweep.{part}.{path}", message, part, path)
            seen.add(path)
    if sweep.seeds is not None and (clash := _clash("seed", seen)):
        look.complain("sweep.seeds", f"varies params.seed: {clash}", "seeds")


def _clash(path: str, seen: Paths) -> str:
    other = seen.overlap(path)
    return f"{path!r} and {other!r} vary the same parameter" if other is not None else ""


def _path_complaint(path: str, params: Mapping[str, Any]) -> str:
    first, *rest = path.split(".")
    if rest and first not in params and first in ("params", "resources", "slurm", "environment"):
        if first == "params":
            return f"paths begin inside params already: write {'.'.join(rest)}"
        return f"a sweep varies params only, not {first}"
    inner: Any = params
    for depth, name in enumerate((first, *rest)):
        if not isinstance(inner, Mapping):
            return f"params.{'.'.join([first, *rest][:depth])} is {short(inner)}, not a mapping"
        inner = inner.get(name, {})
        if inner is None:
            inner = {}
    return ""


def _check_repeats(sweep: Sweep, look: _Look) -> None:
    for path, values in (sweep.grid or {}).items():
        for at, first in _repeats(list(values)):
            look.complain(f"sweep.grid.{path}", f"repeats [{first}]", "grid", path, at=at)
    rows = list(zip(*(sweep.zip or {}).values(), strict=False))
    for at, first in _repeats([list(row) for row in rows]):
        path = next(iter(sweep.zip or {}))
        look.complain(f"sweep.zip.{path}", f"the row repeats row [{first}]", "zip", path, at=at)
    if isinstance(sweep.seeds, tuple):
        for at, first in _repeats(list(sweep.seeds)):
            look.complain("sweep.seeds", f"repeats [{first}]", "seeds", at=at)


def _repeats(values: list[Any]) -> Iterator[tuple[int, int]]:
    """Where a value stands again, and where it stood first; 1 and 1.0 are one value."""
    first: dict[str, int] = {}
    for at, value in enumerate(values):
        key = json.dumps(_comparable(value), sort_keys=True, default=str)
        if first.setdefault(key, at) != at:
            yield at, first[key]


def _comparable(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_comparable(each) for each in value]
    if isinstance(value, dict):
        return {key: _comparable(each) for key, each in value.items()}
    return value

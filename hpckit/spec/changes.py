"""Changes as a person types them, `clip=x0.5`, `params.lr=1e-4`, and what is wrong with one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpckit import yamlio
from hpckit.errors import Problem, SpecError, UsageError
from hpckit.model.fields import fields_of
from hpckit.model.kinds import BAD, did_you_mean, short
from hpckit.spec.parts import Change, Changes, Resources
from hpckit.spec.sweep import Paths

CHANGEABLE = ("nodes", "gpus_per_node", "cpus_per_gpu", "cpus_per_node", "memory", "time")
FACTOR = re.compile(r"x[0-9.]+")


def read_changes(given: Sequence[str]) -> dict[str, Change]:
    """Each change by its name; `x0.5` multiplies, anything else is the new value."""
    found: dict[str, Change] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise UsageError(f"--set {text}: write KEY=VALUE, or KEY=x0.5 for a factor")
        if name.strip() in found:
            raise UsageError(f"--set {name.strip()} is given twice: which is meant?")
        found[name.strip()] = _change(name.strip(), value.strip())
    return found


def _change(name: str, value: str) -> Change:
    problems: list[Problem] = []
    text = value if FACTOR.fullmatch(value) or value.startswith("=") else f"={value}"
    node = yamlio.Scalar("--set", 1, 1, text, False)
    change = Changes().read(node, problems, name)
    if problems or change is BAD:
        raise SpecError(problems)
    assert isinstance(change, Change)
    return change


def by_path(params: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every parameter by its dotted path, branches included."""
    for name, value in params.items():
        yield above + name, value
        if isinstance(value, Mapping):
            yield from by_path(value, f"{above}{name}.")


def wrong(key: str, change: Change, values: Mapping[str, Any], varied: Paths) -> str:
    """Why a change cannot be carried out, or nothing; `values` of the parameters, by path."""
    section, _, name = key.partition(".")
    bounds = [each for each in (change.min, change.max) if each is not None]
    to = [change.to] if change.times is None else []
    if section == "resources":
        return _wrong_resource(name, [*to, *bounds])
    if section == "params":
        return _wrong_param(name, change, values, varied) or _not_above_0(bounds)
    return _not_above_0([*to, *bounds])


def _wrong_param(name: str, change: Change, values: Mapping[str, Any], varied: Paths) -> str:
    if varied.overlap(name):
        return f"the sweep varies {name!r}: a run of a sweep keeps its point"
    if name not in values:
        return f"names no parameter{did_you_mean(name, list(values))}"
    value = values[name]
    if change.times is not None:
        return "" if _is_number(value) else f"is {short(value)}: only a number can be multiplied"
    if _is_number(value) and not (_is_number(change.to) and abs(change.to) < math.inf):
        return f"is {short(value)}: must stay a number, and cannot be {short(change.to)}"
    return ""


def _wrong_resource(name: str, values: Sequence[Any]) -> str:
    """What a spec could not ask for, a change cannot either."""
    if name not in CHANGEABLE:
        return f"cannot be changed{did_you_mean(name, CHANGEABLE)}"
    problems: list[Problem] = []
    for value in values:
        node = yamlio.Scalar("", 1, 1, str(value), True)
        fields_of(Resources)[name].kind.read(node, problems, name)
    return problems[0].message if problems else ""


def _not_above_0(values: Sequence[Any]) -> str:
    for value in values:
        if not (_is_number(value) and 0 < value < math.inf):
            return f"must be a number above 0, not {short(value)}"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

"""What several rollbacks changed together, in a few words: from the first value to the last."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# `clip of generator 1 -> 0.5`, `lr 0.004 -> 0.002`, `params.width 8 -> 4`.
CHANGE = re.compile(r"(?P<key>\S+)(?: of (?P<of>\S+))? (?P<old>\S+) -> (?P<new>\S+)")
NAMES = {"clip": "clip", "lr": "learning rate"}
SMALLER = {"clip": "tightened", "lr": "lowered"}
LARGER = {"clip": "widened", "lr": "raised"}
# Values of a schedule that goes on between two rollbacks are no chain.
SAME = 1e-3


@dataclass(kw_only=True)
class Sum:
    """One thing that was changed, once or more."""

    key: str
    of: str | None
    old: str
    new: str
    # How many times larger it was made, where that is a number; and whether its values meet.
    times: float | None
    is_chain: bool = True


def summed(changed: Iterable[str]) -> list[str]:
    """A clause each, of whose optimizer once: `tightened generator's clip from 1 to 0.25`."""
    sums: dict[tuple[str, str | None], Sum] = {}
    others: dict[str, None] = {}
    for each in changed:
        if (found := CHANGE.fullmatch(each)) is None:
            others[_other(each)] = None
            continue
        key, of, old, new = found.groups()
        here = Sum(key=key, of=of, old=old, new=new, times=_times(old, new))
        before = sums.setdefault((here.key, here.of), here)
        if before is not here:
            _add(before, here)
    return [*_clauses(sums.values()), *others]


def _add(before: Sum, here: Sum) -> None:
    before.is_chain = before.is_chain and _is_same(before.new, here.old)
    both = before.times is not None and here.times is not None
    before.times = (before.times or 1) * (here.times or 1) if both else None
    before.new = here.new


def _clauses(sums: Iterable[Sum]) -> Iterator[str]:
    named: str | None = None
    for each in sums:
        name = NAMES.get(each.key, each.key)
        if each.of is not None:
            name = f"{'its' if each.of == named else _whose(each.of)} {name}"
        elif each.key in NAMES:
            name = f"the {name}"
        named = each.of
        yield _clause(each, name)


def _clause(each: Sum, name: str) -> str:
    if each.times is None or each.times == 1 or each.is_chain:
        return f"{_verb(each)} {name} from {rounded(each.old)} to {rounded(each.new)}"
    factor = f"{max(each.times, 1 / each.times):.3g}"
    return f"made {name} {factor} times {'smaller' if each.times < 1 else 'larger'}"


def _verb(each: Sum) -> str:
    if each.times is None or each.times == 1:
        return "set"
    return (SMALLER if each.times < 1 else LARGER).get(each.key, "set")


def _whose(optimizer: str) -> str:
    return f"{optimizer}'" if optimizer.endswith("s") else f"{optimizer}'s"


def _other(change: str) -> str:
    node = re.fullmatch(r"(\S+) (excluded|left out)", change)
    return f"left out {node[1]}" if node else f"changed {change}"


def rounded(value: str) -> str:
    """A number with as many digits as a person reads."""
    number = _number(value)
    return value if number is None else f"{number:.3g}"


def _times(old: str, new: str) -> float | None:
    before, after = _number(old), _number(new)
    return after / before if before and after and before * after > 0 else None


def _is_same(one: str, other: str) -> bool:
    first, second = _number(one), _number(other)
    if first is None or second is None:
        return one == other
    return math.isclose(first, second, rel_tol=SAME)


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

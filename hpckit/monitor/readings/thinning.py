"""Which half of many rows is worth keeping: extremes, and what is out of the ordinary.

Of every four consecutive rows the two stay that have the smallest and the largest gradient norm,
so that a spike survives however often its surroundings are halved.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

from hpckit.monitor.readings.background import breathing
from hpckit.monitor.readings.rows import INCIDENT, step_of

GATED = re.compile(rb'"grad/gated/[^"]*":(?!0[,}])')
NORM = re.compile(rb'"(grad/norm/[^"]*)":("?[^,}]*)')
LOSS = re.compile(rb'"(train/loss[^"]*)":("?[^,}]*)')

Values = list[tuple[bytes, float]]


def thinned(lines: Sequence[bytes], *, most_odd: int) -> list[bytes]:
    """Half of the lines, in their order, and up to `most_odd` that are out of the ordinary."""
    kept = set(_odd(lines, most_odd))
    rest = [number for number in range(len(lines)) if number not in kept]
    deviations = _deviations([_values(line) for line in breathing(lines[n] for n in rest)])
    for begin in breathing(range(0, len(rest), 4)):
        four = range(begin, min(begin + 4, len(rest)))
        largest = max(four, key=lambda number: max(deviations[number]))
        others = [number for number in four if number != largest]
        kept.add(rest[largest])
        if others:
            kept.add(rest[min(others, key=lambda number: min(deviations[number]))])
    return [lines[number] for number in sorted(kept)]


def _odd(lines: Sequence[bytes], most: int) -> list[int]:
    """The rows that stay anyway; every second one of them when they are too many."""
    found, last = [], -1
    for number, line in enumerate(breathing(lines)):
        step = step_of(line)
        # Where the run went back; of the first line nobody here knows.
        is_back = step is not None and (step < last or last < 0)
        if is_back or step is None or _is_odd(line):
            found.append(number)
            # The reading that an incident is about comes just before it.
            about = number - 1
            if step is None and number and about not in found[-2:]:
                found.insert(-1, about)
        last = last if step is None else step
    while len(found) > most:
        # What went wrong was told to a person: it goes last.
        minor = [number for number in found if not lines[number].startswith(INCIDENT)]
        dropped = set((minor or found)[1::2] or found[-1:])
        found = [number for number in found if number not in dropped]
    return found


def _is_odd(line: bytes) -> bool:
    # Only what is not finite is a string. A validation is rare.
    return b':"' in line or b'"val/' in line or GATED.search(line) is not None


def _values(line: bytes) -> Values:
    """The logarithms of a row's gradient norms, or its losses where it has none."""
    norms = NORM.findall(line)
    if norms:
        return [(name, _log(_number(text))) for name, text in norms]
    return [(name, _number(text)) for name, text in LOSS.findall(line)]


def _number(text: bytes) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.inf
    return value if value - value == 0 else math.inf


def _log(norm: float) -> float:
    return math.log(max(norm, 1e-45))


def _deviations(rows: list[Values]) -> list[list[float]]:
    """How far each row's values are from their means, so that optimizers can be compared."""
    sums: dict[bytes, list[float]] = {}
    for name, value in itertools.chain.from_iterable(rows):
        if value != math.inf:
            total = sums.setdefault(name, [0.0, 0])
            total[0] += value
            total[1] += 1
    means = {name: total / count for name, (total, count) in sums.items()}
    return [[value - means.get(name, 0.0) for name, value in row] or [0.0] for row in rows]

"""A reading as a line of JSON, and back.

    {"step":12,"time":1763712000.123,"train/loss":2.31,"grad/norm/main":6.9,"lr/main":0.0002}
    {"incident":{"kind":"explosion","step":12,...}}

JSON has no NaN and no infinity: they are the strings "nan", "inf" and "-inf", and nothing else in
the line of a reading is a string. Numbers have 7 significant digits. The parameters' own norms,
where a reading has them, are under "parameters", by optimizer.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading

PARAMETERS = "parameters"
RESERVED = ("step", "time", PARAMETERS, "incident")
INCIDENT = b'{"incident":'
STEP = re.compile(rb'\{"step":(\d+)[,}]')


def encode(item: Reading | Incident) -> bytes:
    """The line of a reading or an incident, with its end."""
    if isinstance(item, Incident):
        text = json.dumps({"incident": item.to_json()}, separators=(",", ":"))
    else:
        text = _reading(item)
    return f"{text}\n".encode()


def _reading(reading: Reading) -> str:
    parts = [f'"step":{int(reading.step)}']
    if reading.time is not None:
        parts.append(f'"time":{reading.time:.3f}')
    if reading.values:
        parts.append(_numbers(reading.values, RESERVED))
    if reading.parameters:
        each = reading.parameters.items()
        inner = ",".join(f"{json.dumps(o)}:{{{_numbers(norms)}}}" for o, norms in each)
        parts.append(f'"{PARAMETERS}":{{{inner}}}')
    return "{" + ",".join(parts) + "}"


def _numbers(values: Mapping[str, float], reserved: tuple[str, ...] = ()) -> str:
    """Names and numbers, all in one go: meanwhile the training waits for the interpreter."""
    numbers = tuple(values.values())
    total = sum(numbers)
    # False where an infinity or a NaN is among them, or the sum alone is too large.
    if total - total == 0:
        return _form(tuple(values), reserved) % numbers
    return ",".join(
        f"{_key(name, reserved)}:" + (f"{value:.7g}" if value - value == 0 else f'"{value:.7g}"')
        for name, value in values.items()
    )


# Few: of a training whose parameters have no gradient by turns, each is long and of no use again.
@functools.lru_cache(maxsize=32)
def _form(names: tuple[str, ...], reserved: tuple[str, ...]) -> str:
    return ",".join(_key(name, reserved).replace("%", "%%") + ":%.7g" for name in names)


@functools.lru_cache(maxsize=100_000)
def _key(name: str, reserved: tuple[str, ...]) -> str:
    return json.dumps(f"train/{name}" if name in reserved else name)


def whole_lines(data: bytes) -> list[bytes]:
    """The lines that are there to their end; the last one's rest may be still to come."""
    return data.split(b"\n")[:-1]


def step_of(line: bytes) -> int | None:
    """The step of a reading's line; None of an incident, or of what is no line of ours."""
    found = STEP.match(line)
    return int(found[1]) if found else None


def decode(line: bytes) -> Reading | None:
    """The reading of a line, None where it is none or is damaged."""
    try:
        row = json.loads(line)
        parameters = row.pop(PARAMETERS, {})
        return Reading(
            step=row.pop("step"),
            time=row.pop("time", None),
            values=_floats(row),
            parameters={name: _floats(norms) for name, norms in parameters.items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def _floats(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items()}


def decode_incident(line: bytes) -> Incident | None:
    """The incident of a line, None where it is none or is damaged."""
    if not line.startswith(INCIDENT):
        return None
    try:
        return Incident.from_json(json.loads(line)["incident"])
    except (ValueError, KeyError, TypeError):
        return None

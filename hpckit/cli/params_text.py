"""A run's parameters in a line: what says something at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hpckit.paint import short

Told = dict[str, Any]


def params_text(told: Told) -> str:
    """The plain ones, and of nested ones what is varied or was changed; how many more there are."""
    return "  ".join(_params(told))


def _params(told: Told) -> Iterator[str]:
    before, now = dict(_leaves(told["params"])), dict(_leaves(told["params_now"]))
    hidden = 0
    for key, value in before.items():
        path = ".".join(key)
        is_varied = any(f"{path}.".startswith(f"{each}.") for each in told["varied"])
        is_plain = len(key) == 1 and not isinstance(value, (dict, list))
        is_changed = now.get(key, value) != value
        if is_plain or is_varied or is_changed:
            changed = f" (now {short(now[key])})" if is_changed else ""
            yield f"{short(path)}={short(value)}{changed}"
        else:
            hidden += 1
    if hidden:
        yield f"and {hidden} more: hpckit show --json"


def _leaves(params: Told, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each value with where it stands."""
    for name, value in params.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*above, str(name)))
        else:
            yield (*above, str(name)), value

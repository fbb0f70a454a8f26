"""Carrying out a change: of a clip, of a learning rate's factor, of a parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from hpckit.errors import UsageError
from hpckit.model.kinds import did_you_mean, short
from hpckit.monitor.reading import MAIN
from hpckit.spec.parts import Change

if TYPE_CHECKING:
    from hpckit.heal.plan import Plan

# The changes that an optimizer has for itself.
OF_OPTIMIZERS = {"clip", "lr"}


def apply(change: Change, value: Any) -> Any:
    """The value after the change. What is not there (None) cannot be multiplied and stays so.

    No factor crosses a bound, and a value that is already beyond it stays where it is. Where `lr`
    is multiplied, the value is the factor on top of the schedule, which begins at 1.
    """
    if change.times is None:
        return _bounded(change, change.to)
    if value is None:
        return None
    if not _is_number(value):
        raise UsageError(
            f"{short(value)} cannot be multiplied by {change.times:g}: it is not a number",
            "write =VALUE in heal to set it",
        )
    new = _bounded(change, value * change.times, value)
    # A whole number stays one where it can: a batch of 16.0 is refused by most programs.
    return int(new) if isinstance(value, int) and new == int(new) else new


def _bounded(change: Change, new: Any, old: float | None = None) -> Any:
    if not _is_number(new):
        return new
    if change.min is not None:
        new = max(new, change.min if old is None else min(old, change.min))
    if change.max is not None:
        new = min(new, change.max if old is None else max(old, change.max))
    return new


def set_path(params: MutableMapping[str, Any], path: str, change: Change) -> tuple[Any, Any]:
    """Change the parameter at a dotted path, in place; what it was, and what it is."""
    *above, last = path.split(".")
    place: Any = params
    for name in above:
        place = place.get(name) if isinstance(place, MutableMapping) else None
    if not isinstance(place, MutableMapping) or last not in place:
        known = sorted(_paths(params))
        raise UsageError(
            f"params.{path}: there is no such parameter{did_you_mean(path, known)}",
            "name one of the spec's params in heal",
        )
    old = place[last]
    try:
        new = place[last] = apply(change, old)
    except UsageError as error:
        raise UsageError(f"params.{path}: {error.message}", error.hint) from None
    return old, new


def get_path(params: Mapping[str, Any], path: str) -> Any:
    """The parameter at a dotted path; None where there is none."""
    found: Any = params
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _paths(params: Mapping[str, Any], above: str = "") -> Iterable[str]:
    for name, value in params.items():
        yield above + name
        if isinstance(value, Mapping):
            yield from _paths(value, f"{above}{name}.")


def asked(plan: Plan) -> str:
    """What a plan changes, and whose: `clip x0.5, lr x0.5 of generator`."""
    said = ", ".join(f"{name} {written(change)}" for name, change in plan.changes.items())
    # Of several optimizers one must know which.
    if plan.of in (None, (MAIN,)) or not OF_OPTIMIZERS & set(plan.changes):
        return said
    return f"{said} of {' and '.join(plan.of or ())}"


def written(change: Change) -> str:
    """A change as a person writes it: `x0.5`, `=0.1`, `x0.5 (not below 0.05)`."""
    said = f"={change.to}" if change.times is None else f"x{change.times:g}"
    bounds = [(change.min, "not below"), (change.max, "not above")]
    limits = " and ".join(f"{words} {bound}" for bound, words in bounds if bound is not None)
    return f"{said} ({limits})" if limits else said


def told(name: str, old: Any, new: Any) -> str:
    """A change that was carried out: `clip 1 -> 0.5`."""
    return f"{name} {shown(old)} -> {shown(new)}"


def shown(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

"""Whose clip is which: the spec's word stands above the script's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hpckit.errors import UsageError
from hpckit.monitor.reading import MAIN
from hpckit.train.clip import Clip

# What a script calls an optimizer that is the only one.
ALONE = "optimizer"
# The clip of all optimizers that have none of their own.
ALL = ""


def given_by_name(clip: Any) -> dict[str, Any]:
    """What `register(clip=...)` was given: one for all, or by optimizer."""
    given = dict(clip) if isinstance(clip, Mapping) else {ALL: clip}
    for each in given.values():
        is_number = isinstance(each, (int, float)) and not isinstance(each, bool)
        if each is not None and not is_number and not isinstance(each, Clip):
            raise UsageError(f"clip must be a norm or a Clip, or these by optimizer, not {each!r}")
    return given


def clips_of(
    asked: Mapping[str, Any], given: Mapping[str, Any], optimizers: Iterable[str]
) -> dict[str, Clip | float]:
    """The clip of each optimizer that has one; `asked` is the spec's monitor.optimizers."""
    names = list(optimizers)
    unknown = set(asked) - {alias for name in names for alias in _aliases(name)}
    if unknown:
        raise UsageError(
            f"monitor.optimizers: no optimizer is registered as {', '.join(sorted(unknown))}",
            f"registered are: {', '.join(names)}",
        )
    for name in given:
        if name != ALL and not any(name in _aliases(each) for each in names):
            known = ", ".join(names)
            hint = f"registered are: {known}"
            raise UsageError(f"clip: no optimizer is registered as {name!r}", hint)
    found: dict[str, Clip | float] = {}
    for name in names:
        specs = [asked[alias].clip for alias in _aliases(name) if alias in asked]
        spec = next((each for each in specs if each is not None), None)
        own = next((given[alias] for alias in (*_aliases(name), ALL) if alias in given), None)
        clip = own if spec is None else of_spec(spec)
        if clip is not None:
            found[name] = clip
    return found


def _aliases(name: str) -> tuple[str, ...]:
    return (name, ALONE) if name == MAIN else (name,)


def of_spec(clip: Any) -> Clip | None:
    """The clip that a spec asks for."""
    if clip is None:
        return None
    groups: Mapping[str, Any] = getattr(clip, "groups", {})
    return Clip(
        clip.norm,
        value=clip.value,
        percentile=clip.percentile,
        of=clip.of,
        at_most=clip.at_most,
        groups={name: made for name, each in groups.items() if (made := of_spec(each))},
    )

"""What a run asks for by now: its spec's parameters and resources, with all that was changed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

from hpckit.heal.changes import apply, set_path, told
from hpckit.heal.history import history_of
from hpckit.heal.pending import pending
from hpckit.heal.plan import Plan
from hpckit.ledger import Event
from hpckit.spec.parts import Resources
from hpckit.units import format_duration, format_size, parse_duration, parse_size

# What is written as a number with a unit.
PARSE = {"memory": parse_size, "time": parse_duration}
FORMAT = {"memory": format_size, "time": format_duration}


def plans_in_force(events: Sequence[Event]) -> list[Plan]:
    """Those that were carried out, and the one that is to be; `events` are believed."""
    plans = [past.plan for past in history_of(events) if past.plan.restarts]
    waiting = pending(events)
    if waiting is not None and not waiting.is_by_hand:
        plans.append(waiting.plan)
    return plans


def params_in_force(params: Mapping[str, Any], plans: Iterable[Plan]) -> dict[str, Any]:
    """A run's parameters by now."""
    found: dict[str, Any] = copy.deepcopy(dict(params))
    for plan in plans:
        change_params(found, plan)
    return found


def applied_params(params: Mapping[str, Any], events: Sequence[Event], *told_of: str) -> list[str]:
    """What the plans whose changes were not told yet have made of the parameters."""
    earlier, plans = parted(events, *told_of)
    before = params_in_force(params, earlier)
    return [said for plan in plans for said in change_params(before, plan).values()]


def change_params(params: MutableMapping[str, Any], plan: Plan) -> dict[str, str]:
    """Carry out a plan's changes of parameters, in place; by path, what was changed."""
    said = {}
    for name, change in plan.changes.items():
        section, _, path = name.partition(".")
        if section == "params":
            old, new = set_path(params, path, change)
            said[path] = told(name, old, new)
    return said


def parted(events: Sequence[Event], *told_of: str) -> tuple[list[Plan], list[Plan]]:
    """The plans in force: those whose changes were told, and those since."""
    places = [place for place, each in enumerate(events) if each.kind in told_of]
    since = events[places[-1] + 1 :] if places else events
    plans = [
        Plan.from_json(each.data["plan"])
        for each in since
        if each.kind in ("restart", "incident") and each.data.get("plan")
    ]
    plans = [plan for plan in plans if plan.restarts]
    return plans_in_force(events)[: -len(plans) or None], plans


def resources_in_force(
    resources: Resources, plans: Iterable[Plan], had: Mapping[str, Any]
) -> tuple[Resources, tuple[str, ...]]:
    """What the next attempt asks for, and the nodes that it must not get.

    `had`: what the cluster gave, before anything was changed, where the spec says nothing.
    """
    excluded: list[str] = []
    for plan in plans:
        excluded += plan.exclude
        for name, change in plan.changes.items():
            section, _, key = name.partition(".")
            if section != "resources":
                continue
            value = getattr(resources, key)
            value = had.get(key) if value is None else value
            new = apply(_in_units(key, change), value)
            if new is not None:
                whole: Any = new if isinstance(new, str) else round(new)
                resources = dataclasses.replace(resources, **{key: whole})
    return resources, tuple(dict.fromkeys(excluded))


def applied_resources(
    resources: Resources,
    events: Sequence[Event],
    *,
    had: Mapping[str, Any],
    has: Mapping[str, Any],
    nodes: Sequence[str] = (),
) -> list[str]:
    """What the plans since the newest attempt began change of resources, and what came of it.

    `has`: what the job that asks was given, where that is known, and its `nodes`: one that could
    not be spared is among them.
    """
    earlier, plans = parted(events, "resumed", "applied")
    before, excluded = resources_in_force(resources, earlier, had)
    after, excludes = resources_in_force(before, plans, had)
    said = []
    for name, value in vars(after).items():
        old, given = getattr(before, name), has.get(name)
        if value != old:
            is_less = isinstance(given, int) and given < value
            less = f", not given: {_with_unit(name, given)}" if is_less else ""
            said.append(told(name, _with_unit(name, old), _with_unit(name, value)) + less)
    return said + [f"{node} excluded" for node in excludes if node not in (*excluded, *nodes)]


def _with_unit(key: str, value: Any) -> Any:
    """A number that has a unit as a person writes it."""
    return FORMAT[key](value) if key in FORMAT and value is not None else value


def _in_units(key: str, change: Any) -> Any:
    """A change whose `96G` is a number, as what it changes is."""
    parse = PARSE.get(key)
    if parse is None:
        return change
    given = {"to": change.to, "min": change.min, "max": change.max}
    return dataclasses.replace(
        change, **{name: parse(str(value)) for name, value in given.items() if value is not None}
    )

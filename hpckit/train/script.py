"""What a script gives otherwise than when a state was saved: it is followed, and told.

The saved state would bring back what was given then, unseen.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch.optim import Optimizer

from hpckit.train.rates import all_schedules, set_rates, times
from hpckit.train.tree import PLAIN

# What a schedule keeps in an optimizer's groups, in units of the rate.
RATES = ("lr", "initial_lr", "max_lr", "min_lr")
# How a step is computed, and not what.
MEANS = ("params", "foreach", "fused", "capturable", "differentiable")
# How long a schedule is, and what it derives from that.
LENGTHS = ("total_steps", "T_max", "total_iters", "_schedule_phases")
Tell = Callable[[str], None]


def given(thing: Any, kind: str) -> Any:
    """What a script gave a thing, when it was registered; None where nothing is followed."""
    if kind == "optimizer":
        return [
            {"lr": _rate(group), **{k: v for k, v in group.items() if _is_option(k, v)}}
            for group in thing.param_groups
        ]
    if kind == "schedule":
        return {key: vars(thing)[key] for key in LENGTHS if key in vars(thing)}
    return None


def _rate(group: Mapping[str, Any]) -> float | None:
    # A schedule that warms up has made the rate itself something else, zero maybe.
    rate = group.get("initial_lr", group.get("lr"))
    return None if rate is None else float(rate)


def _is_option(name: str, value: Any) -> bool:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return name not in (*RATES, *MEANS) and all(type(each) in PLAIN for each in values)


def follow_optimizer(
    name: str, optimizer: Optimizer, before: Any, now: Any, schedules: Iterable[Any], tell: Tell
) -> None:
    """Give an optimizer what the script says now, where it says something else."""
    if before is None or before == now or len(before) != len(now):
        return
    options = {}
    for group, old, new in zip(optimizer.param_groups, before, now, strict=True):
        for key in set(old) & set(new) - {"lr"}:
            # As a list it comes back where it was a tuple.
            if list(_many(old[key])) != list(_many(new[key])):
                group[key] = new[key]
                options[key] = (old[key], new[key])
    for key, (old, new) in sorted(options.items()):
        tell(f"{key} of {name}: the script says {new} now, {old} when it was saved: changed")
    pairs = [(old["lr"], new["lr"]) for old, new in zip(before, now, strict=True)]
    if all(old == new for old, new in pairs):
        return
    factors = [new / old if old and new is not None else 1.0 for old, new in pairs]
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        for key in set(RATES) & set(group):
            group[key] = times(group[key], factor)
    for schedule in schedules:
        for each in all_schedules(schedule):
            if each.optimizer is optimizer:
                _scale(each, factors)
    old, new = next((old, new) for old, new in pairs if old != new)
    told = f"learning rate of {name}: the script says {_said(new)} now"
    done = "scaled by it" if set(factors) != {1.0} else "it stays as it was saved"
    tell(f"{told}, {_said(old)} when it was saved: {done}")


def _many(value: Any) -> Any:
    return value if isinstance(value, (tuple, list)) else (value,)


def _scale(schedule: Any, factors: list[float]) -> None:
    for key in ("base_lrs", "max_lrs", "_last_lr"):
        values = getattr(schedule, key, None)
        if isinstance(values, list) and len(values) == len(factors):
            scaled = [times(value, factor) for value, factor in zip(values, factors, strict=True)]
            setattr(schedule, key, scaled)


def _said(rate: float | None) -> str:
    return "none" if rate is None else f"{rate:.3g}"


def follow_schedule(name: str, schedule: Any, before: Any, now: Any, tell: Tell) -> None:
    """Make a schedule as long as the script says now: its rate is that of such a one, here."""
    changed = [key for key in LENGTHS if key in (before or {}) and key in now]
    changed = [key for key in changed if before[key] != now[key]]
    if not changed:
        return
    for key in changed:
        setattr(schedule, key, now[key])
    closed = getattr(schedule, "_get_closed_form_lr", None)
    if closed is None and hasattr(schedule, "_schedule_phases"):
        closed = schedule.get_lr
    if closed is not None:
        with warnings.catch_warnings():
            # Outside of a step torch wants to be asked for the last rate, which is another's.
            warnings.simplefilter("ignore")
            set_rates(schedule.optimizer, closed())
        schedule._last_lr = [group["lr"] for group in schedule.optimizer.param_groups]
    key = changed[0]
    told = f"{key} of {name}: the script says {now[key]} now, {before[key]} when it was saved"
    rate = _said(schedule.optimizer.param_groups[0].get("lr"))
    tell(f"{told}: followed, the learning rate is {rate} here")

"""What of a training is state: every registered thing, taken at once and put back in place.

Weights and moments are put back by copying into the tensors that are there: whatever refers to
them, a compiled graph or DDP's buckets for one, goes on working, and what was saved is never the
very tensor that the next step changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hpckit.errors import UsageError
from hpckit.train.parameters import plain_name
from hpckit.train.tree import mapped, unpacked

# What a schedule keeps in an optimizer's groups, in units of the rate.
RATES = ("lr", "initial_lr", "max_lr", "min_lr")
KINDS: tuple[tuple[str, type], ...] = (
    ("module", nn.Module),
    ("optimizer", Optimizer),
    ("schedule", LRScheduler),
)


class DoesNotFit(UsageError):
    """A checkpoint of another model, or of other optimizers."""

    exit_code = 1


def refuse_unnamed(things: tuple[Any, ...]) -> None:
    """What is saved has a name: by it a restart finds it again."""
    if things:
        raise UsageError(
            "register: everything needs a name",
            "run.register(model=model, optimizer=optimizer)",
        )


def kind_of(thing: Any) -> str:
    """How a thing's state is taken and put back."""
    for kind, of in KINDS:
        if isinstance(thing, of):
            return kind
    if callable(getattr(thing, "state_dict", None)) and hasattr(thing, "load_state_dict"):
        return "other"
    raise UsageError(
        f"register: {type(thing).__name__} has no state_dict and load_state_dict",
        "plain values go into run.values",
    )


class Registry:
    """The things of a training by name."""

    def __init__(self) -> None:
        self.things: dict[str, Any] = {}
        # What optimizers' rates were when they were registered, group by group.
        self.given: dict[str, list[float]] = {}
        # Of a checkpoint, what nobody has registered yet.
        self.unclaimed: dict[str, Any] = {}
        self.tell: Callable[[str], None] = lambda text: None

    def add(self, name: str, thing: Any) -> None:
        """Register a thing; a checkpoint that was loaded before may have state for it."""
        if name in self.things:
            if self.things[name] is thing:
                return
            raise UsageError(f"register: there is a {name!r} already", "give it another name")
        kind = kind_of(thing)
        self.things[name] = thing
        if kind == "optimizer":
            # A schedule that warms up has made the rate itself something else, zero maybe.
            self.given[name] = [
                float(group.get("initial_lr", group["lr"])) for group in thing.param_groups
            ]
        if name in self.unclaimed:
            self.load({name: self.unclaimed.pop(name)})

    def of_kind(self, kind: str) -> dict[str, Any]:
        return {name: each for name, each in self.things.items() if kind_of(each) == kind}

    def take(self, kinds: tuple[str, ...] | None = None) -> dict[str, Any]:
        """The state of everything, its tensors the live ones."""
        found = {}
        for name, thing in self.things.items():
            kind = kind_of(thing)
            if kinds is None or kind in kinds:
                found[name] = {"kind": kind, "state": _state_of(thing, kind)}
                if kind == "optimizer":
                    found[name]["given"] = self.given[name]
        return found

    def gradients(self) -> dict[str, dict[str, Tensor]]:
        """What passes have gathered whose step is still to come, by model and parameter."""
        return {
            name: {
                plain_name(key): each.grad
                for key, each in module.named_parameters()
                if each.grad is not None
            }
            for name, module in self.of_kind("module").items()
        }

    @torch.no_grad()
    def put_gradients(self, gradients: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put them back; where there were none, those that are there are left as they are."""
        for name, found in gradients.items():
            for key, each in self.of_kind("module").get(name, nn.Module()).named_parameters():
                if plain_name(key) in found:
                    each.grad = torch.zeros_like(each)
                    local_part(each.grad).copy_(found[plain_name(key)])

    def load(self, items: Mapping[str, Any], *, again: bool = False) -> None:
        """Put state back; `again`: it is this very process's own, taken earlier."""
        for name, item in items.items():
            thing = self.things.get(name)
            if thing is None:
                self.unclaimed[name] = item
                continue
            kind, state = kind_of(thing), item["state"]
            if kind != item["kind"]:
                raise DoesNotFit(f"{name} was a {item['kind']} when it was saved, now a {kind}")
            if kind == "module":
                _load_module(name, thing, unpacked(state))
            elif kind == "optimizer":
                _load_optimizer(name, thing, state, in_place=again)
            else:
                # Whatever it is, it may keep what it is given.
                thing.load_state_dict(unpacked(mapped(state, lambda each: each.clone())))
        if not again:
            self._follow_the_script(items)

    def _follow_the_script(self, items: Mapping[str, Any]) -> None:
        """A rate that the script gives otherwise than when it was saved is what a person wants.

        The saved state would bring the old one back, unseen.
        """
        for name in set(items) & set(self.given):
            before, now = items[name].get("given"), self.given[name]
            if before is None or before == now or len(before) != len(now):
                continue
            factors = [new / old if old else 1.0 for old, new in zip(before, now, strict=True)]
            for group, factor in zip(self.things[name].param_groups, factors, strict=True):
                for key in set(RATES) & set(group):
                    group[key] = group[key] * factor
            for schedule in self.of_kind("schedule").values():
                for each in all_schedules(schedule):
                    if each.optimizer is self.things[name]:
                        _scale_schedule(each, factors)
            told = f"learning rate of {name}: the script says {now[0]:.3g} now"
            self.tell(f"{told}, {before[0]:.3g} when it was saved: scaled by it")


def _state_of(thing: Any, kind: str) -> Any:
    if kind == "module":
        state = thing.state_dict()
        own = _plain_keys(state)
        return {plain: state[key] for plain, key in own.items()}
    return thing.state_dict()


def _plain_keys(state: Mapping[str, Any]) -> dict[str, str]:
    """The keys of a model's state by their plain names; as they are where two would be one."""
    plain = {plain_name(key): key for key in state}
    return plain if len(plain) == len(state) else {key: key for key in state}


def _load_module(name: str, module: nn.Module, state: Mapping[str, Any]) -> None:
    there = module.state_dict()
    own = _plain_keys(there)
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or unknown:
        parts = [f"it lacks {_few(missing)}"] if missing else []
        parts += [f"the model has no {_few(unknown)}"] if unknown else []
        raise DoesNotFit(
            f"the checkpoint does not fit {name}: {', and '.join(parts)}",
            "train the model that was saved, or fork nothing from this run",
        )
    for plain, key in own.items():
        old, new = there[key], state[plain]
        if isinstance(old, Tensor) and isinstance(new, Tensor) and old.shape != new.shape:
            raise DoesNotFit(
                f"the checkpoint does not fit {name}: {plain} has shape {tuple(old.shape)}, "
                f"it was saved with {tuple(new.shape)}",
                "train the model that was saved, or fork nothing from this run",
            )
    module.load_state_dict({own[plain]: value for plain, value in state.items()})


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _load_optimizer(
    name: str, optimizer: Optimizer, state: dict[str, Any], *, in_place: bool
) -> None:
    params = [each for group in optimizer.param_groups for each in group["params"]]
    groups = state["param_groups"]
    sizes = [len(group["params"]) for group in groups]
    here = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != here:
        raise DoesNotFit(
            f"the checkpoint does not fit optimizer {name}: its groups have {here} parameters, "
            f"they had {sizes} when it was saved"
        )
    if in_place and _copied_in_place(optimizer, params, state):
        for group, saved in zip(optimizer.param_groups, groups, strict=True):
            for key, value in saved.items():
                if key == "params":
                    continue
                if isinstance(group.get(key), Tensor):
                    group[key].copy_(value)
                else:
                    group[key] = value
        return
    # A copy of its own: torch keeps the very tensors that it is given, and steps on them.
    optimizer.load_state_dict(mapped(state, lambda each: each.clone()))


@torch.no_grad()
def _copied_in_place(optimizer: Optimizer, params: list[Tensor], state: dict[str, Any]) -> bool:
    """Copy moments into those that are there; not where there are others."""
    olds: list[Tensor] = []
    news: list[Tensor] = []
    plain: list[tuple[dict[str, Any], str, Any]] = []
    for index, parameter in enumerate(params):
        old, new = optimizer.state.get(parameter, {}), state["state"].get(index, {})
        if old.keys() != new.keys():
            return False
        for key, value in new.items():
            if not isinstance(value, Tensor):
                plain.append((old, key, value))
            elif not isinstance(old[key], Tensor) or old[key].shape != value.shape:
                return False
            else:
                olds.append(local_part(old[key]))
                news.append(local_part(value))
    if olds:
        torch._foreach_copy_(olds, news)
    for into, key, value in plain:
        into[key] = value
    return True


def local_part(tensor: Tensor) -> Tensor:
    """What of a sharded tensor is on this rank."""
    local = getattr(tensor, "to_local", None)
    found: Tensor = local() if local is not None else tensor
    return found


def all_schedules(schedule: Any) -> Iterator[Any]:
    """A schedule, and those that it is made of."""
    yield schedule
    for each in getattr(schedule, "_schedulers", ()):
        yield from all_schedules(each)


def _scale_schedule(schedule: Any, factors: list[float]) -> None:
    for key in ("base_lrs", "max_lrs", "_last_lr"):
        values = getattr(schedule, key, None)
        if isinstance(values, list) and len(values) == len(factors):
            scaled = [value * factor for value, factor in zip(values, factors, strict=True)]
            setattr(schedule, key, scaled)


@contextlib.contextmanager
def rate_times(optimizer: Optimizer, factor: float) -> Iterator[None]:
    """Step with another rate, and leave the schedule's own as it is."""
    if factor == 1.0:
        yield
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

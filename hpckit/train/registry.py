"""What of a training is state: every registered thing, taken at once and put back in place.

Weights and moments are put back by copying into the tensors that are there: whatever refers to
them, a compiled graph or DDP's buckets for one, goes on working, and what was saved is never the
very tensor that the next step changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hpckit.errors import UsageError
from hpckit.train import script
from hpckit.train.parameters import plain_name
from hpckit.train.tree import mapped, unpacked

# How torch names what a module says beside its tensors.
EXTRA = "_extra_state"
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
        # What the script gave optimizers and schedules.
        self.given: dict[str, Any] = {}
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
        if (given := script.given(thing, kind)) is not None:
            self.given[name] = given
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
                made_by = type(thing).__name__
                found[name] = {"kind": kind, "type": made_by, "state": _state_of(thing, kind)}
                if name in self.given:
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

    def misfit(self, items: Mapping[str, Any]) -> str | None:
        """Why a state cannot be put back into what is registered now; None where it can."""
        for name in [name for name in items if name in self.things]:
            thing, item = self.things[name], items[name]
            kind, state = kind_of(thing), item["state"]
            wrong = None
            if kind != item["kind"]:
                wrong = f"{name} was a {item['kind']} when it was saved, now a {kind}"
            elif kind == "module":
                wrong = _misfit_of_module(name, thing, state)
            elif kind == "optimizer":
                wrong = _misfit_of_optimizer(name, thing, state)
                before, now = item.get("type"), type(thing).__name__
                if before is not None and before != now:
                    # Another one's moments are none of this one's.
                    wrong = f"the checkpoint does not fit {name}: it was {before}, now it is {now}"
            if wrong is not None:
                return wrong
        return None

    def load(self, items: Mapping[str, Any], *, again: bool = False) -> None:
        """Put state back; `again`: it is this very process's own, taken earlier."""
        wrong = self.misfit(items)
        if wrong is not None:
            raise DoesNotFit(wrong, "train what was saved, or fork nothing from this run")
        for name, item in items.items():
            thing = self.things.get(name)
            if thing is None:
                self.unclaimed[name] = item
                continue
            kind, state = kind_of(thing), item["state"]
            if kind == "module":
                _load_module(thing, state)
            elif kind == "optimizer":
                _load_optimizer(thing, state, in_place=again)
            else:
                thing.load_state_dict(_copy(state))
        if not again:
            self._follow_the_script(items)

    def _follow_the_script(self, items: Mapping[str, Any]) -> None:
        for name in [name for name in items if name in self.given]:
            thing, now, before = self.things[name], self.given[name], items[name].get("given")
            if kind_of(thing) == "optimizer":
                schedules = self.of_kind("schedule").values()
                script.follow_optimizer(name, thing, before, now, schedules, self.tell)
        for name in [name for name in items if name in self.given]:
            thing, now, before = self.things[name], self.given[name], items[name].get("given")
            if kind_of(thing) == "schedule":
                script.follow_schedule(name, thing, before, now, self.tell)


def _copy(state: Any, device: torch.device | None = None) -> Any:
    """State for somebody who may keep what he is given, and change it."""
    return unpacked(mapped(state, lambda each: each.to(device or each.device, copy=True)))


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


def _misfit_of_module(name: str, module: nn.Module, state: Mapping[str, Any]) -> str | None:
    there = module.state_dict()
    own = _plain_keys(there)
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or unknown:
        parts = [f"it lacks {_few(missing)}"] if missing else []
        parts += [f"the model has no {_few(unknown)}"] if unknown else []
        return f"the checkpoint does not fit {name}: {', and '.join(parts)}"
    for plain, key in own.items():
        old, new = there[key], state[plain]
        if key.endswith(EXTRA):
            # It may be longer each time.
            continue
        if isinstance(old, Tensor) and isinstance(new, Tensor) and old.shape != new.shape:
            return (
                f"the checkpoint does not fit {name}: {plain} has shape {tuple(old.shape)}, "
                f"it was saved with {tuple(new.shape)}"
            )
    return None


def _load_module(module: nn.Module, state: Mapping[str, Any]) -> None:
    own = _plain_keys(module.state_dict())
    # Into these it copies; whatever else it is given it may keep.
    weights = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    weights |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    module.load_state_dict(
        {
            own[plain]: value if own[plain] in weights else _copy(value)
            for plain, value in state.items()
        }
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _misfit_of_optimizer(name: str, optimizer: Optimizer, state: Mapping[str, Any]) -> str | None:
    sizes = [len(group["params"]) for group in state["param_groups"]]
    here = [len(group["params"]) for group in optimizer.param_groups]
    if sizes == here:
        return None
    return (
        f"the checkpoint does not fit optimizer {name}: its groups have {here} parameters, "
        f"they had {sizes} when it was saved"
    )


def _load_optimizer(optimizer: Optimizer, state: dict[str, Any], *, in_place: bool) -> None:
    params = [each for group in optimizer.param_groups for each in group["params"]]
    if in_place and _copied_in_place(optimizer, params, state):
        for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
            for key in saved.keys() - {"params"}:
                if _can_copy(group.get(key), saved[key]):
                    group[key].copy_(saved[key])
                else:
                    group[key] = _copy(saved[key])
        return
    # A copy of its own: torch keeps the very tensors that it is given, and steps on them.
    optimizer.load_state_dict(_copy(state))


@torch.no_grad()
def _copied_in_place(optimizer: Optimizer, params: list[Tensor], state: dict[str, Any]) -> bool:
    """Copy moments into those that are there; not where there are others."""
    olds: list[Tensor] = []
    news: list[Tensor] = []
    plain: list[tuple[dict[str, Any], str, Any]] = []
    if state["state"].keys() - set(range(len(params))) or optimizer.state.keys() - set(params):
        # Something of no parameter's.
        return False
    for index, parameter in enumerate(params):
        old, new = optimizer.state.get(parameter, {}), state["state"].get(index, {})
        if old.keys() != new.keys():
            return False
        for key, value in new.items():
            if not isinstance(value, Tensor):
                plain.append((old, key, _copy(value, parameter.device)))
            elif not _can_copy(old[key], value):
                return False
            else:
                olds.append(local_part(old[key]))
                news.append(local_part(value))
    if olds:
        torch._foreach_copy_(olds, news)
    for into, key, value in plain:
        into[key] = value
    return True


def _can_copy(old: Any, new: Any) -> bool:
    return isinstance(old, Tensor) and isinstance(new, Tensor) and old.shape == new.shape


def local_part(tensor: Tensor) -> Tensor:
    """What of a sharded tensor is on this rank."""
    local = getattr(tensor, "to_local", None)
    found: Tensor = local() if local is not None else tensor
    return found

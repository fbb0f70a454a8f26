"""What there is around an optimizer that nobody registered: its models, by what the process holds.

Hooks on every module's forward would cost each call, and would be compiled into the program. So
the garbage collector is asked, once for each optimizer.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from hpckit.monitor.gradients import is_sharded
from hpckit.train.parameters import plain_name


@dataclass(frozen=True, kw_only=True)
class Found:
    """What an optimizer steps."""

    # The outermost modules that hold any of its parameters, the smallest first.
    models: Sequence[nn.Module]
    # Its parameters' names by their identity.
    names: dict[int, str]
    # What a person may call it by, if its model has a name of its own.
    label: str | None
    # Other optimizers that are there.
    others: int
    # Gradients of all its parameters are the same on all ranks, or are measured over all.
    is_shared: bool


def find(optimizer: Optimizer) -> Found:
    """Look at everything that the process holds."""
    # What nobody holds any more would be taken for a second model, or a second optimizer.
    gc.collect()
    modules, optimizers = _held(nn.Module), _held(Optimizer)
    mine = {id(each) for each in parameters_of(optimizer)}
    models = _outermost(modules, mine)
    names = _names(models, mine)
    return Found(
        models=models,
        names=names,
        label=_label(models, names),
        others=sum(_is_another(each, mine) for each in optimizers),
        is_shared=_is_shared(modules, parameters_of(optimizer)),
    )


def _held(kind: type) -> list[Any]:
    """All objects of a kind, by their type: isinstance would wake proxies that wait to be asked."""
    everything = gc.get_objects()
    kinds = {each for each in map(type, everything) if issubclass(each, kind)}
    return [each for each in everything if type(each) in kinds]


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    return [each for group in optimizer.param_groups for each in group["params"]]


def _is_another(optimizer: Any, mine: set[int]) -> bool:
    """Whether it steps other parameters; wrappers have no groups of their own, or the same."""
    if "param_groups" not in vars(optimizer):
        return False
    its = {id(each) for each in parameters_of(optimizer)}
    return bool(its) and its.isdisjoint(mine)


def _outermost(modules: Sequence[nn.Module], mine: set[int]) -> list[nn.Module]:
    children = {id(child) for module in modules for child in _children(module)}
    found = []
    for module in modules:
        # One that is half made has none of this yet.
        if id(module) in children or "_parameters" not in vars(module):
            continue
        all_of_it = {id(each) for each in module.parameters()}
        if all_of_it & mine:
            found.append((len(all_of_it), module))
    return [module for _, module in sorted(found, key=lambda each: each[0])]


def _children(module: nn.Module) -> Iterable[Any]:
    found = vars(module).get("_modules")
    return () if found is None else found.values()


def _names(models: Sequence[nn.Module], mine: set[int]) -> dict[int, str]:
    """As `model.named_parameters()` has them; where two models have one name, with their kinds."""
    plain: dict[int, tuple[int, str]] = {}
    for number, model in enumerate(models):
        for name, parameter in model.named_parameters():
            if id(parameter) in mine:
                plain.setdefault(id(parameter), (number, plain_name(name)))
    names = {identity: name for identity, (_, name) in plain.items()}
    if len(set(names.values())) == len(names):
        return names
    kinds = [type(inner(model)).__name__ for model in models]
    before = [
        kind if kinds.count(kind) == 1 else f"{kind}_{number}"
        for number, kind in enumerate(kinds, start=1)
    ]
    return {identity: f"{before[number]}.{name}" for identity, (number, name) in plain.items()}


def inner(model: Any) -> Any:
    """The author's own module, in what compiles or distributes it."""
    while True:
        inside = list(vars(model).get("_modules", {}).items())
        if len(inside) != 1 or inside[0][0] not in ("module", "_orig_mod"):
            return model
        model = inside[0][1]


def _label(models: Sequence[nn.Module], names: dict[int, str]) -> str | None:
    """The name of the part of a model that all of these are in, or the model's own kind."""
    if len(models) != 1 or not names:
        return None
    model = inner(models[0])
    every = {plain_name(name): id(each) for name, each in models[0].named_parameters()}
    if len(names) < len(every):
        part = _part(every, set(names))
        return None if part.isdigit() else part or None
    return None if type(model).__module__.startswith("torch.") else type(model).__name__


def _part(every: Mapping[str, int], mine: set[int]) -> str:
    """The largest part of a model whose parameters are all among these, by its own name."""
    paths = [name.split(".")[:-1] for name, identity in every.items() if identity in mine]
    part = ""
    for depth, levels in enumerate(zip(*paths, strict=False), start=1):
        if len(set(levels)) > 1:
            break
        part, start = levels[0], ".".join([*paths[0][:depth], ""])
        if all(each in mine for name, each in every.items() if name.startswith(start)):
            break
    return part


def _is_shared(modules: Sequence[nn.Module], parameters: Sequence[Tensor]) -> bool:
    if parameters and all(is_sharded(each) for each in parameters):
        return True
    distributed_ones = [each for each in modules if issubclass(type(each), DistributedDataParallel)]
    held = {id(each) for model in distributed_ones for each in model.parameters()}
    return all(id(each) in held for each in parameters)


def unfit(found: Found, started: int) -> str | None:
    """Why what one rank sees of an optimizer is not the whole of it, if it is not."""
    is_there = distributed.is_available() and distributed.is_initialized()
    world = distributed.get_world_size() if is_there else 1
    if world != started:
        return f"{started} ranks were started, and {world} train together"
    if world > 1 and not found.is_shared:
        return "several ranks train, and its parameters are not in DistributedDataParallel"
    return None


def steps_taken(optimizer: Optimizer) -> int:
    """How many steps an optimizer that was loaded had taken, as far as it says so."""
    states = [each for each in optimizer.state.values() if isinstance(each, dict)]
    said = [each["step"] for each in states if "step" in each]
    return max((int(each) for each in said), default=0)

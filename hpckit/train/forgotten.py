"""What matters and was not registered: told once, for a restart would lose it unseen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from hpckit.train.rates import all_schedules
from hpckit.train.registry import Registry

# So many steps without any step of a schedule, and an epoch's end among them.
STEPS = 100


class Forgotten:
    """Looks once after the first step, and once when a schedule should have moved."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._stepped: dict[int, Optimizer] = {}
        self._hook = register_optimizer_step_post_hook(self._note)
        self._began = {name: _count(each) for name, each in registry.of_kind("schedule").items()}

    @property
    def has_stepped(self) -> bool:
        """Whether any optimizer has stepped by now, by whomever."""
        return bool(self._stepped)

    def _note(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._stepped[id(optimizer)] = optimizer

    def close(self) -> None:
        self._hook.remove()

    def after_a_step(self) -> Iterator[str]:
        """By now every optimizer has had its turn."""
        self.close()
        registry = self._registry
        optimizers = registry.of_kind("optimizer")
        known = {id(each) for each in optimizers.values()}
        for each in self._stepped.values():
            if id(each) not in known:
                kind = type(each).__name__
                yield f"an optimizer ({kind}) steps that was never registered: it is not saved"
        models: list[nn.Module] = list(registry.of_kind("module").values())
        owned = {id(parameter) for model in models for parameter in model.parameters()}
        scheduled = {id(each.optimizer) for each in registry.of_kind("schedule").values()}
        for name, optimizer in optimizers.items():
            groups = optimizer.param_groups
            lost = sum(id(each) not in owned for group in groups for each in group["params"])
            if lost:
                yield f"{lost} parameters of {name} are in no registered model: not saved"
            if "initial_lr" in groups[0] and id(optimizer) not in scheduled:
                yield f"{name} has a schedule that was never registered: it is not saved"
        for name in registry.unclaimed:
            yield f"the checkpoint has {name!r}, which is not registered: it is left out"

    def schedules(self) -> Iterator[str]:
        """Schedules that have not moved by now."""
        for name, each in self._registry.of_kind("schedule").items():
            if name in self._began and _count(each) == self._began[name]:
                yield f"{name} was never stepped: the learning rate stays as it is"


def _count(schedule: Any) -> list[tuple[int, int]]:
    """Changes with every step: some kinds leave one of the two as it is, or both to their parts."""
    parts = all_schedules(schedule)
    return [(getattr(each, "_step_count", 0), getattr(each, "last_epoch", 0)) for each in parts]

"""Sharded state (FSDP2): saved and loaded by torch.distributed.checkpoint, by all ranks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

from torch import distributed, nn
from torch.optim import Optimizer

from hpckit.train.registry import Registry, local_part
from hpckit.train.snapshots import first_bad
from hpckit.train.tree import tensors_of


class Sharded:
    """Models whose parameters are spread over the ranks, and their optimizers."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        # Saving goes on beside the training: its messages need a group of their own.
        self._group: Any = None
        self._saving: Any = None

    @property
    def any(self) -> bool:
        from hpckit.monitor.gradients import is_sharded

        models = self._registry.of_kind("module").values()
        return any(is_sharded(each) for model in models for each in model.parameters())

    def _state(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import (
            get_model_state_dict,
            get_optimizer_state_dict,
        )

        found: dict[str, Any] = {}
        for name, model in self._registry.of_kind("module").items():
            found[name] = get_model_state_dict(model)
        for name, optimizer in self._registry.of_kind("optimizer").items():
            found[name] = get_optimizer_state_dict(self._model_of(optimizer), optimizer)
        return found

    def _model_of(self, optimizer: Optimizer) -> nn.Module:
        first = optimizer.param_groups[0]["params"][0]
        for model in self._registry.of_kind("module").values():
            if any(each is first for each in model.parameters()):
                found: nn.Module = model
                return found
        raise ValueError("an optimizer of sharded parameters needs its model registered, too")

    def save(self, folder: Path) -> Callable[[], str | None]:
        """Begin to save; what is returned waits until it is done, and names what is not finite."""
        from torch.distributed.checkpoint.state_dict_saver import async_save

        if self._group is None:
            self._group = distributed.new_group(backend="gloo")
        state = self._state()
        local = {name: local_part(each) for name, each in tensors_of(state).items()}
        bad = first_bad(local)
        if self._saving is not None:
            # Two at a time would take each other's messages, and wait for ever.
            futures.wait([self._saving])
        future: Any = async_save(state, checkpoint_id=folder, process_group=self._group)
        self._saving = future

        def wait() -> str | None:
            future.result()
            return bad

        return wait

    def load(self, folder: Path) -> None:
        """Put a saved state back, in place."""
        from torch.distributed.checkpoint.state_dict import (
            set_model_state_dict,
            set_optimizer_state_dict,
        )
        from torch.distributed.checkpoint.state_dict_loader import load

        state = self._state()
        load(state, checkpoint_id=folder)
        for name, model in self._registry.of_kind("module").items():
            set_model_state_dict(model, state[name])
        for name, optimizer in self._registry.of_kind("optimizer").items():
            set_optimizer_state_dict(self._model_of(optimizer), optimizer, state[name])

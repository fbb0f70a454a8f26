"""float16's scaler: gradients brought back to their size once, its scale moved once a pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class Scalers:
    """Those that serve the present pass, and whom they have served in it."""

    def __init__(self) -> None:
        # By identity: a pass may have several.
        self._served: dict[int, tuple[Any, set[str]]] = {}

    def take(self, optimizer: str, scaler: Any) -> None:
        """A scaler serves an optimizer: until its update it does so once."""
        if not scaler.is_enabled():
            return
        served = self._served.setdefault(id(scaler), (scaler, set()))[1]
        if optimizer in served:
            raise RuntimeError(
                f"optimizer {optimizer} has stepped with this scaler in this pass: call end() first"
            )
        served.add(optimizer)

    def update(self) -> None:
        """Let them find their next scale, after every optimizer: all need the one they had."""
        for scaler, _ in self._served.values():
            states = scaler._per_optimizer_states
            if any(state["found_inf_per_device"] for state in states.values()):
                scaler.update()
            else:
                # It saw no gradient, and refuses to update.
                states.clear()
        self._served.clear()


def unscale(scaler: Any, optimizer: Optimizer) -> float | Tensor | None:
    """Bring gradients back to their true size, unless the user has done so; the scale they had."""
    if scaler is None or not scaler.is_enabled():
        return None
    from torch.amp.grad_scaler import OptState

    if scaler._per_optimizer_states[id(optimizer)]["stage"] is OptState.READY:
        scaler.unscale_(optimizer)
    scale = scaler._scale
    if scale is None:
        return float(scaler.get_scale())
    # update() changes it in place.
    return scale.detach().clone() if scale.is_cuda else float(scale)

"""The fused form of an optimizer, where torch has one: it takes gate and clip in its own kernel.

Fused Adam, AdamW, SGD and Adagrad read `optimizer.found_inf` and `optimizer.grad_scale` as device
tensors: with the first the weights and moments stay as they are, by the second gradients are
divided. That is a contract in torch's source, not in its documents; tests pin it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

# Fused Adagrad exists on a CPU alone.
ON_GPU = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


def is_fused(optimizer: Optimizer) -> bool:
    """Whether its step takes `found_inf` and `grad_scale`."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False)) and all(
        group.get("fused") for group in optimizer.param_groups
    )


def can_fuse(optimizer: Optimizer) -> bool:
    """Whether torch has a fused form that does the same, and nobody asked for another."""
    return (
        type(optimizer) in ON_GPU
        and all(_allows(group) for group in optimizer.param_groups)
        and all(
            parameter.is_cuda and parameter.is_floating_point()
            for group in optimizer.param_groups
            for parameter in group["params"]
        )
    )


def _allows(group: dict[str, Any]) -> bool:
    # None is torch's own choice; True or False is a person's, and stays.
    return (
        group.get("fused") is None
        and not group.get("foreach")
        and not group.get("differentiable")
        and not group.get("capturable")
    )


def fuse(optimizer: Optimizer) -> None:
    """Make an optimizer step by its fused kernel from now on; its state stays."""
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False
        for parameter in group["params"]:
            step = optimizer.state.get(parameter, {}).get("step")
            if step is not None:
                # The fused kernel counts steps on the device.
                optimizer.state[parameter]["step"] = torch.as_tensor(
                    step, dtype=torch.float32, device=parameter.device
                )
    optimizer.defaults["fused"], optimizer.defaults["foreach"] = True, False
    optimizer._step_supports_amp_scaling = True  # type: ignore[attr-defined]

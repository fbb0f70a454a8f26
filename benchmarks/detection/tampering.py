"""What goes wrong: with the weights, with the optimizer's memory, with the data."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.detection.recipe import Fault, Recipe


def tamper_weights(
    fault: Fault | None,
    step: int,
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Damage what is learned, where the fault is of that sort and its time has come."""
    if fault is None or step < fault.at:
        return
    with torch.no_grad():
        if fault.kind == "shrink":
            # The last matrix fades a little each step, as a decay that is too strong makes it.
            _last_matrix(parameters).mul_(fault.size)
        elif step > fault.at:
            return
        elif fault.kind == "fade":
            _last_matrix(parameters).mul_(fault.size)
        elif fault.kind == "weight_scale":
            _largest(parameters).mul_(fault.size)
        elif fault.kind == "weight_noise":
            for parameter in parameters:
                parameter.add_(torch.randn_like(parameter) * fault.size * parameter.abs().mean())
        elif fault.kind == "bit_flip":
            _flip(_largest(parameters), bit=int(fault.size))
        elif fault.kind == "moments_lost":
            _lose_moments(optimizer, fault.size)


def _largest(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    return max(parameters, key=lambda parameter: parameter.numel())


def _last_matrix(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    return [parameter for parameter in parameters if parameter.dim() > 1][-1]


def _flip(tensor: torch.Tensor, *, bit: int) -> None:
    """Turn over one bit of one number: 30 is the exponent's highest."""
    flat = tensor.view(-1)
    number = flat[:1].clone()
    flat[:1] = (number.view(torch.int32) ^ (1 << bit)).view(torch.float32)


def _lose_moments(optimizer: torch.optim.Optimizer, keep: float) -> None:
    """Shrink the second moments, as a resume that brings back half of the state does."""
    for state in optimizer.state.values():
        if "exp_avg_sq" in state:
            state["exp_avg_sq"].mul_(keep)


def tamper_data(
    recipe: Recipe, step: int, batch: list[torch.Tensor], odd: np.random.Generator
) -> list[torch.Tensor]:
    """Outliers and bad batches: the first tensor of a batch that holds numbers is hit."""
    if recipe.outliers and odd.random() < recipe.outliers:
        batch = _scaled(batch, float(odd.lognormal(1.2, 0.5)))
    if step in recipe.nan_batches:
        batch = _scaled(batch, float("nan"))
    fault = recipe.fault
    if fault is None or step < fault.at:
        return batch
    if fault.kind == "data_nan":
        return _scaled(batch, float("nan"))
    if fault.kind == "data_huge":
        return _scaled(batch, fault.size)
    if fault.kind == "label_noise":
        return [*batch[:-1], batch[-1][torch.randperm(len(batch[-1]))] * fault.size]
    return batch


def _scaled(batch: list[torch.Tensor], factor: float) -> list[torch.Tensor]:
    at = next(i for i, tensor in enumerate(batch) if tensor.is_floating_point())
    return [*batch[:at], batch[at] * factor, *batch[at + 1 :]]

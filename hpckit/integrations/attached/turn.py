"""One step of an optimizer that the program takes: looked at before it, tidied up after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from hpckit.train.closure import Backup, all_finite
from hpckit.train.fuse import is_fused
from hpckit.train.rates import scale_rates, set_rates
from hpckit.train.updates import Sample
from hpckit.train.watched import MOST, NOTHING_DONE, Done, Measured, Watched


class Turn:
    """What was measured, and what is to be put back when the step is over."""

    def __init__(self, optimizer: Optimizer, watched: Watched, *, limit: float) -> None:
        self.optimizer = optimizer
        self.watched = watched
        self.measured: Measured | None = None
        # Steps of the same optimizer within this one.
        self.inner = 0
        self._limit = min(limit, MOST)
        self._after, self._inside = ExitStack(), ExitStack()
        self._sample: Sample | None = None
        self._backup: Backup | None = None
        if watched.rate != 1.0:
            rates = scale_rates(optimizer, watched.rate)
            self._after.callback(set_rates, optimizer, rates)
        if isinstance(optimizer, LBFGS):
            # It evaluates many times, and moves the weights between.
            self._backup = Backup(optimizer, watched.parameters.all)

    def look(self, clipped: float | Tensor) -> None:
        """Measure, clip and gate what the optimizer is about to step with."""
        with torch.no_grad():
            found = self._looked(self._done(clipped))
        before = self.measured
        if before is not None:
            found = found.worse(before.norm, before.factor, before.gated)
        self.measured = found

    def _looked(self, done: Done) -> Measured:
        watched = self.watched
        gradients = watched.parameters.gradients()
        self._sample = self._sample or watched.updates.before(watched.parameters.of(gradients))
        on_device = watched.gates_on_device and is_fused(self.optimizer)
        if on_device and watched.parameters.are_born(gradients):
            told, found = watched.judged_on_device(gradients, limit=self._limit, done=done)
            self._tell(told)
            return found
        found = watched.look(gradients, limit=self._limit, done=done, hold_back=self._hold_back)
        if not found.gated:
            watched.parameters.note_born(gradients)
        return found

    def _done(self, clipped: float | Tensor) -> Done:
        """What was done to gradients; clips that look at single values want them unscaled."""
        scale: Tensor | None = vars(self.optimizer).get("grad_scale")
        clip = self.watched.clip
        if scale is not None and (clip.groups or clip.value is not None):
            torch._foreach_div_(self.watched.parameters.gradients().values, scale)
            self._set("grad_scale", None)
            scale = None
        is_nothing = scale is None and isinstance(clipped, float) and clipped == 1.0
        return NOTHING_DONE if is_nothing else Done(scale, clipped)

    def _tell(self, told: dict[str, Tensor]) -> None:
        """Tell the fused kernel, besides what the program's scaler has told it."""
        already = vars(self.optimizer)
        bad, scale = already.get("found_inf"), already.get("grad_scale")
        told = dict(told)
        if bad is not None:
            told["found_inf"] = torch.maximum(bad, told["found_inf"])
        if scale is not None and "grad_scale" in told:
            told["grad_scale"] = told["grad_scale"] * scale
        for name, value in told.items():
            self._set(name, value)

    def _set(self, name: str, value: Tensor | None) -> None:
        """Give the optimizer an attribute for the length of this step."""
        attributes = vars(self.optimizer)
        if name in attributes:
            self._after.callback(attributes.__setitem__, name, attributes[name])
        else:
            self._after.callback(attributes.pop, name, None)
        attributes[name] = value

    def _hold_back(self, parameters: Sequence[Tensor]) -> None:
        """See to it that nothing of this step stays."""
        if self._backup is not None:
            return
        if not _passes_over_none(self.optimizer) and self.measured is None:
            # Somebody else's may need a gradient of each: so it steps, and all is put back. Not
            # after a second look at the loss: by then the weights may have been moved for that.
            self._backup = Backup(self.optimizer, self.watched.parameters.all)
            return
        _hide(parameters, self._after)

    def begin_inner(self, optimizer: Optimizer) -> None:
        """An optimizer that this one is made of steps: what is held back is not for it, either."""
        gated = self.measured is not None and self.measured.gated
        if isinstance(gated, float) and gated and _passes_over_none(optimizer):
            _hide(self.watched.parameters.all, self._inside)

    def end_inner(self) -> None:
        self._inside.close()

    def end(self) -> Measured | None:
        """The step is over."""
        self._after.close()
        found = self.measured
        if found is None:
            return None
        if self._backup is not None and (
            found.gated or not all_finite(self.watched.parameters.all)
        ):
            self._backup.put_back()
            return found._replace(gated=1.0)
        if self._sample is None or (isinstance(found.gated, float) and found.gated):
            return found
        return found._replace(sample=self._sample.taken())

    def undo(self) -> None:
        """The step was never taken, or we are not to be there any more."""
        self._inside.close()
        self._after.close()


def looked_at(closure: Callable[..., Any], look: Callable[[], None]) -> Callable[..., Any]:
    """A closure whose every evaluation is looked at."""

    def evaluated(*args: Any, **kwargs: Any) -> Any:
        value = closure(*args, **kwargs)
        look()
        return value

    return evaluated


def _hide(parameters: Sequence[Tensor], until: ExitStack) -> None:
    """Let them have no gradient for a while; the program may look at it after the step."""
    for parameter in parameters:
        until.callback(_put_gradient, parameter, parameter.grad)
        parameter.grad = None


def _put_gradient(parameter: Tensor, gradient: Tensor | None) -> None:
    parameter.grad = gradient


def _passes_over_none(optimizer: Optimizer) -> bool:
    """Torch's own leave what has no gradient as it is."""
    return type(optimizer).step.__module__.startswith("torch.")

"""One optimizer's step: measured, clipped, gated and applied in one call."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hpckit.monitor.gradients import Norms, measure, scaled
from hpckit.train.clip import Clip, Clips
from hpckit.train.clipping import EPSILON, clip_in_place
from hpckit.train.closure import Evaluations, step_or_put_back
from hpckit.train.fuse import can_fuse, fuse, is_fused
from hpckit.train.parameters import Gradients, Parameters, names_of
from hpckit.train.rates import rate_times
from hpckit.train.scaling import unscale
from hpckit.train.updates import Sample, Updates

# The largest total that is applied while there is no usual yet: above every norm, below infinity.
MOST = 1e300
# More numbers than this are not in a CPU's cache from one pass to the next.
LARGE = 4_000_000


class Measured(NamedTuple):
    """What one call found: numbers, or tensors that hold them."""

    norm: float | Tensor
    factor: float | Tensor
    gated: float | Tensor
    each: Tensor
    gradients: Gradients
    sample: Sample | None = None
    # The norms of groups that are clipped apart.
    groups: dict[str, Tensor] | None = None
    scale: float | Tensor | None = None

    def worse(
        self, norm: float | Tensor, factor: float | Tensor, gated: float | Tensor
    ) -> Measured:
        """With an earlier step of the same pass, whichever was worst: a gate, a NaN, the norm."""
        device = self.each.device

        def both(one: float | Tensor, other: float | Tensor) -> tuple[Tensor, Tensor]:
            kind: dict[str, Any] = {"dtype": torch.float64, "device": device}
            return torch.as_tensor(one, **kind), torch.as_tensor(other, **kind)

        # maximum keeps a NaN, whichever of the two it is.
        largest, shut = (
            torch.maximum(*both(norm, self.norm)),
            torch.maximum(*both(gated, self.gated)),
        )
        smallest = torch.minimum(*both(factor, self.factor))
        if device.type == "cpu":
            return self._replace(norm=float(largest), factor=float(smallest), gated=float(shut))
        return self._replace(norm=largest, factor=smallest, gated=shut)


class Done(NamedTuple):
    """What was done to gradients by others, before they are looked at."""

    # Their loss was scaled by it, and the optimizer's own kernel is to divide them by it.
    scale: Tensor | None = None
    # The program has clipped them by this factor.
    clipped: float | Tensor = 1.0

    def unscaled(self, norms: Norms) -> Norms:
        """As they are applied."""
        if self.scale is None:
            return norms
        return Norms(norms.each / self.scale, norms.total / self.scale)

    def whole(self, norm: Tensor) -> Tensor:
        """As it was before it was clipped."""
        return (
            norm if isinstance(self.clipped, float) and self.clipped == 1.0 else norm / self.clipped
        )


NOTHING_DONE = Done()


def let_go(parameters: Sequence[Tensor]) -> None:
    """Leave no gradient to step by."""
    for parameter in parameters:
        parameter.grad = None


class Watched:
    """An optimizer whose every step is looked at before it happens."""

    def __init__(self, name: str, optimizer: Optimizer, known: dict[int, str], clip: Clip) -> None:
        self.name = name
        self.optimizer = optimizer
        self.clip = clip
        # What healing multiplies the rate by, on top of whatever a schedule makes it.
        self.rate = 1.0
        self.updates = Updates()
        self.parameters = Parameters(optimizer=optimizer, known=known)
        groups = self.parameters.group_names()
        unknown = ", ".join(sorted(set(clip.groups) - set(groups)))
        if unknown:
            there = ", ".join(groups)
            raise ValueError(
                f"clip: optimizer {name} has no parameter group {unknown}; it has {there}"
            )
        every = self.parameters.all
        on_gpu = bool(every) and all(each.is_cuda for each in every)
        # Holds what gradients are multiplied by: made once.
        self._by: Tensor | None = None
        self.gates_on_device = on_gpu

    def step(self, *, limit: float, scaler: Any = None) -> Measured:
        """Measure, clip, gate and step; nothing that is above `limit` is applied."""
        scale = unscale(scaler, self.optimizer)
        gradients = self.parameters.gradients()
        limit = min(limit, MOST)
        # At each step: whoever loads an older checkpoint gets its groups' `fused` with it.
        if self.gates_on_device and gradients.plain and can_fuse(self.optimizer):
            fuse(self.optimizer)
        on_device = self.gates_on_device and is_fused(self.optimizer)
        if on_device and self.parameters.are_born(gradients):
            found = self._on_device(gradients, limit)
        else:
            found = self._on_host(gradients, limit)
        return found if scale is None else found._replace(scale=scale)

    # The host decides: free on a CPU, one wait on a GPU.

    def _on_host(self, gradients: Gradients, limit: float) -> Measured:
        norms = measure(gradients.values, plain=gradients.plain)
        total = float(norms.total)
        if not math.isfinite(total):
            # Squares of finite elements may overflow float32.
            norms = measure(gradients.values, wide=True)
            total = float(norms.total)
        if not total <= limit:
            self._hold_back()
            return Measured(total, 1.0, 1.0, norms.each, gradients)
        sample = self.updates.before(self.parameters.of(gradients))
        factor, groups = self._clip(gradients, norms, total)
        if factor < 1.0 and groups is None and self._in_kernel(gradients):
            device = norms.total.device
            told = {
                "found_inf": torch.zeros((), device=device),
                "grad_scale": torch.tensor(1 / factor, device=device),
            }
            self._step_told(told)
        else:
            with rate_times(self.optimizer, self.rate):
                self.optimizer.step()
        self.parameters.note_born(gradients)
        return Measured(
            total, factor, 0.0, norms.each, gradients, sample and sample.taken(), groups
        )

    def _hold_back(self) -> None:
        # A schedule that steps next must not think that its optimizer was forgotten.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]

    def _clip(
        self, gradients: Gradients, norms: Norms, total: float, *, in_kernel: bool = True
    ) -> tuple[float, dict[str, Tensor] | None]:
        """Clip gradients, but for what the kernel does better; the factor, and groups' norms."""
        explicit = clip_in_place(self.clip, self.parameters, gradients, norms)
        if explicit is not None:
            return float(explicit.factor), explicit.groups
        most = self.clip.limit()
        factor = 1.0 if most is None else min(1.0, most / (total + EPSILON))
        if factor < 1.0 and not (in_kernel and self._in_kernel(gradients)):
            device = norms.total.device
            if self._by is None or self._by.device != device:
                self._by = torch.empty((), device=device)
            scaled(gradients.values, self._by.fill_(factor), plain=gradients.plain)
        return factor, None

    def _in_kernel(self, gradients: Gradients) -> bool:
        """Whether the optimizer's own kernel is the cheapest place to multiply gradients.

        It spares a pass over memory and costs arithmetic: what fits into a CPU's cache is faster
        multiplied apart (measured: 20 tensors of 5,000 by 34 us, 100 of 100,000 slower by 660).
        """
        return self.parameters.numbers > LARGE and gradients.plain and is_fused(self.optimizer)

    # The device decides: nobody waits.

    def _on_device(self, gradients: Gradients, limit: float) -> Measured:
        told, found = self.judged_on_device(gradients, limit=limit)
        sample = self.updates.before(self.parameters.of(gradients))
        self._step_told(told)
        return found._replace(sample=sample and sample.taken())

    def judged_on_device(
        self, gradients: Gradients, *, limit: float, done: Done = NOTHING_DONE
    ) -> tuple[dict[str, Tensor], Measured]:
        """What the fused kernel is to be told, and what was found."""
        norms = done.unscaled(measure(gradients.values, plain=gradients.plain, wide=True))
        total = done.whole(norms.total)
        # One comparison: NaN is not at most anything.
        bad = (~(total <= limit)).to(torch.float32)
        told = {"found_inf": bad}
        factor: float | Tensor = 1.0
        explicit = clip_in_place(self.clip, self.parameters, gradients, norms)
        most = self.clip.limit()
        if explicit is not None:
            factor = explicit.factor
        elif most is not None:
            factor = (most / (norms.total + EPSILON)).clamp(max=1.0)
            told["grad_scale"] = factor.reciprocal().to(torch.float32)
        groups = explicit.groups if explicit is not None else None
        each = done.whole(norms.each)
        found = Measured(total, factor * done.clipped, bad, each, gradients, None, groups)
        return told, found

    def _step_told(self, told: dict[str, Tensor]) -> None:
        """Step with attributes that a fused kernel reads, for the length of that step."""
        vars(self.optimizer).update(told)
        try:
            with rate_times(self.optimizer, self.rate):
                self.optimizer.step()
        finally:
            for name in told:
                vars(self.optimizer).pop(name, None)

    # Somebody else steps: a framework's own loop.

    def look(
        self,
        gradients: Gradients | None = None,
        *,
        limit: float,
        done: Done = NOTHING_DONE,
        hold_back: Callable[[Sequence[Tensor]], None] = let_go,
    ) -> Measured:
        """Measure and clip before somebody else steps; what is bad has no gradient left to step by.

        Torch's optimizers pass over what has none: weights, decay and moments stay as they are.
        """
        gradients = gradients or self.parameters.gradients()
        norms = done.unscaled(measure(gradients.values, plain=gradients.plain))
        total = float(done.whole(norms.total))
        if not math.isfinite(total):
            norms = done.unscaled(measure(gradients.values, wide=True))
            total = float(done.whole(norms.total))
        each = done.whole(norms.each)
        if not total <= min(limit, MOST):
            hold_back(self.parameters.of(gradients))
            return Measured(total, 1.0, 1.0, each, gradients)
        applied = total if done is NOTHING_DONE else float(norms.total)
        factor, groups = self._clip(gradients, norms, applied, in_kernel=False)
        return Measured(total, factor * done.clipped, 0.0, each, gradients, None, groups)

    # An optimizer that evaluates the loss itself.

    def step_with(self, closure: Callable[[], Any], *, limit: float) -> tuple[Measured, Any]:
        """Measure and clip in each evaluation; should one be bad, put all back as it was."""
        factors: list[float] = []
        evaluations = Evaluations(closure, lambda: self._evaluated(factors), self.parameters.all)
        gradients = self.parameters.gradients()
        with rate_times(self.optimizer, self.rate):
            applied = evaluations.worst <= min(limit, MOST) and step_or_put_back(
                self.optimizer, self.parameters.all, evaluations
            )
        if not applied:
            self._hold_back()
        each = measure(gradients.values).each
        factor = min(factors, default=1.0)
        found = Measured(evaluations.worst, factor, float(not applied), each, gradients)
        return found, evaluations.loss

    def _evaluated(self, factors: list[float]) -> float:
        """The norm of an evaluation's gradients, which are clipped after that."""
        gradients = self.parameters.gradients()
        norms = measure(gradients.values, plain=gradients.plain)
        total = float(norms.total)
        if math.isfinite(total):
            factor, groups = self._clip(gradients, norms, total)
            if factor < 1.0 and groups is None and self._in_kernel(gradients):
                scaled(gradients.values, torch.tensor(factor), plain=gradients.plain)
            factors.append(factor)
        return total


def watch(
    optimizers: Mapping[str, Optimizer],
    models: Iterable[nn.Module],
    clip: Clips | None,
) -> dict[str, Watched]:
    """Each optimizer by its name, with a clip of its own."""
    if isinstance(clip, Mapping):
        unknown = set(clip) - set(optimizers)
        if unknown:
            wrong, right = ", ".join(sorted(unknown)), ", ".join(optimizers)
            raise ValueError(f"clip: no optimizer {wrong}; known are {right}")
    known = names_of(models)
    found = {}
    for name, optimizer in optimizers.items():
        own = clip.get(name) if isinstance(clip, Mapping) else clip
        # A copy each: one that was given for several must not mix their norms.
        is_shared = not isinstance(clip, Mapping) and len(optimizers) > 1
        settings = own if isinstance(own, Clip) else Clip(own)
        settings = copy.deepcopy(settings) if is_shared else settings
        found[name] = Watched(name, optimizer, known, settings)
    return found

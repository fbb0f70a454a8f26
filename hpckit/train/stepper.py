"""One training loop's steps: each optimizer measured, clipped, gated and stepped in one call.

    stepper = Stepper(model=model, optimizers=optimizer, clip=1.0)
    for batch in loader:
        optimizer.zero_grad()
        loss = compute_loss(model, batch)
        loss.backward()
        stepper.step(loss=loss)
        for incident in stepper.end():
            print(incident)

A *step* is one pass of the loop's body, however many optimizers it moves; `end` closes it.
Readings of step t are used after step t + lag - 1, by every rank and by every resumed run.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hpckit.monitor import reading as names
from hpckit.monitor.epoch import Epoch
from hpckit.monitor.incident import Incident
from hpckit.monitor.lookout import Lookout
from hpckit.monitor.reading import Reading
from hpckit.train.buffers import Buffers
from hpckit.train.clip import Clip
from hpckit.train.lag import Lag, Pending, Ring
from hpckit.train.parameters import names_of
from hpckit.train.shared import mean_over_ranks
from hpckit.train.watched import Measured, Watched

if TYPE_CHECKING:
    from hpckit.monitor.readings.sink import Sink

# On a GPU the host runs ahead by a few steps; on a CPU every number is there at once.
LAG_ON_GPU = 4
# How many steps' parameter norms are kept for an incident that is noticed late.
DETAILS = 8

Models = nn.Module | Mapping[str, nn.Module] | Iterable[nn.Module]
Optimizers = Optimizer | Mapping[str, Optimizer]
Clips = Clip | float | None | Mapping[str, Clip | float]


class Keys:
    """The names of an optimizer's numbers in a reading."""

    def __init__(self, name: str, *, alone: bool) -> None:
        self.norm = f"{names.NORM}/{name}"
        self.clip = f"{names.CLIP}/{name}"
        self.gated = f"{names.GATED}/{name}"
        self.rate = f"{names.RATE}/{name}"
        self.scale = f"{names.SCALE}/{name}"
        self.update = f"{names.UPDATE}/{name}"
        self.loss = names.LOSS if alone else f"{names.LOSS}/{name}"
        # What the ratio is made of; these two stay out of the reading.
        self.moved, self.weight = f"moved/{name}", f"weight/{name}"


class Stepper:
    """Owns the step of every optimizer of a training, and its float16 scaler's update."""

    def __init__(
        self,
        *,
        model: Models,
        optimizers: Optimizers,
        clip: Clips = None,
        lag: int | None = None,
        lookout: Lookout | None = None,
        sinks: Iterable[Sink] = (),
        detail_every: int = 100,
        step: int = 0,
    ) -> None:
        """`detail_every`: how often each parameter's norm is written; an incident always has it."""
        models = _models(model)
        self.buffers = Buffers(models)
        self.watched = _watch(optimizers, models, clip)
        devices = [each.device for one in self.watched.values() for each in one.parameters.all]
        self._device = devices[0] if devices else torch.device("cpu")
        on_gpu = any(device.type == "cuda" for device in devices)
        self.lag = Lag(lag if lag is not None else LAG_ON_GPU if on_gpu else 1)
        self.lookout = lookout if lookout is not None else Lookout()
        self.lookout.by_percentile |= {
            name for name, each in self.watched.items() if each.clip.percentile is not None
        }
        self.sinks = list(sinks)
        self.detail_every = detail_every
        self.step_number = step
        self.epochs = {name: Epoch() for name in self.watched}
        # Details of parameters that were not here in time.
        self.dropped = 0
        self._heads: dict[torch.device, Ring] = {}
        self._vectors = {name: Ring(self.lag.steps + DETAILS) for name in self.watched}
        self._late: deque[Pending] = deque(maxlen=DETAILS)
        # Scalers of this pass, by identity, and the optimizers that they have served.
        self._scalers: dict[int, tuple[Any, set[str]]] = {}
        self._gates: list[float | Tensor] = []
        alone = len(self.watched) == 1
        self._keys = {name: Keys(name, alone=alone) for name in self.watched}
        self._slots = [keys.loss for keys in self._keys.values()]
        self._began = time.perf_counter()
        self._new_pass()

    def _new_pass(self) -> None:
        self._values: dict[str, float | Tensor] = {}
        self._losses: dict[str, float | Tensor] = {}
        self._details: dict[str, tuple[list[str], Tensor]] = {}
        self._updates: dict[str, float] = {}

    def step(
        self,
        optimizer: Optimizer | str | None = None,
        *,
        loss: float | Tensor | None = None,
        scaler: Any = None,
        closure: Callable[[], Any] | None = None,
    ) -> None:
        """Measure, clip, gate and step an optimizer; the only one where there is one."""
        name, watched = self._find(optimizer)
        limit = self.lookout.limit(name)
        if loss is not None:
            # First: what is no number must not be found out when the weights have moved.
            self._losses[self._keys[name].loss] = _plain(loss, "the loss")
        if closure is not None:
            if scaler is not None:
                raise ValueError("step(closure=...) takes no scaler: torch has none for it either")
            measured, value = watched.step_with(closure, limit=limit)
            if loss is None and value is not None:
                self._losses[self._keys[name].loss] = _plain(value, "the closure's loss")
        else:
            if scaler is not None:
                self._take_scaler(name, scaler)
            measured = watched.step(limit=limit, scaler=scaler)
        self._gates.append(measured.gated)
        self._note(name, watched, measured)

    def _take_scaler(self, name: str, scaler: Any) -> None:
        """Remember whom a scaler has served: until its update it does so once."""
        if not scaler.is_enabled():
            return
        served = self._scalers.setdefault(id(scaler), (scaler, set()))[1]
        if name in served:
            raise RuntimeError(
                f"optimizer {name} has stepped with this scaler in this pass: call end() first"
            )
        served.add(name)

    def _settle_buffers(self) -> None:
        """The pass is over: its buffers count, unless anything of it was held back.

        Not before: in a GAN's pass the generator's graph is alive while the discriminator steps,
        and its backward refuses buffers that were written meanwhile.
        """
        gates, self._gates = self._gates, []
        if not self.buffers.has_any:
            return
        flags = [gated for gated in gates if isinstance(gated, Tensor)]
        if any(gated for gated in gates if not isinstance(gated, Tensor)):
            self.buffers.restore()
        elif flags:
            first = flags[0]
            # Optimizers may be on several devices.
            same = [flag.to(first.device, non_blocking=True) for flag in flags]
            self.buffers.settle(first if len(flags) == 1 else torch.stack(same).amax())
        else:
            self.buffers.commit()

    def _find(self, optimizer: Optimizer | str | None) -> tuple[str, Watched]:
        for name, watched in self.watched.items():
            if optimizer is watched.optimizer or optimizer == name:
                return name, watched
        if optimizer is None and len(self.watched) == 1:
            return next(iter(self.watched.items()))
        known = ", ".join(self.watched)
        what = "which optimizer?" if optimizer is None else "this optimizer is not registered"
        raise ValueError(f"{what} Known are: {known}")

    def _note(self, name: str, watched: Watched, measured: Measured) -> None:
        values, keys = self._values, self._keys[name]
        if keys.norm in values:
            measured = _worse(measured, values[keys.norm], values[keys.clip], values[keys.gated])
        values[keys.norm] = measured.norm
        values[keys.clip] = measured.factor
        values[keys.gated] = measured.gated
        rate = watched.optimizer.param_groups[0].get("lr")
        # A rate that lives on the GPU would have to be waited for; some optimizers have none.
        if rate is not None and not (isinstance(rate, Tensor) and rate.is_cuda):
            values[keys.rate] = float(rate)
        for group, norm in (measured.groups or {}).items():
            values[f"{names.GROUP}/{name}/{group}"] = _plain(norm, group)
        if measured.scale is not None:
            values[keys.scale] = measured.scale
        if measured.sample is not None:
            values[keys.moved], values[keys.weight], self._updates[name] = measured.sample
        if len(measured.each):
            listed = watched.parameters.names_of(measured.gradients)
            self._details[name] = (listed, measured.each)

    def log(self, **values: float | Tensor) -> None:
        """Add numbers to this step's reading: `log(mel=loss_mel)` is train/mel."""
        for name, value in values.items():
            key = name if "/" in name or name == "epoch" else f"train/{name}"
            self._values[key] = _plain(value, name)

    def end(self) -> list[Incident]:
        """Close this step; what is wrong, by the readings that are due."""
        if self._scalers:
            for scaler, _ in self._scalers.values():
                # Once a pass, after every optimizer: the others still need the scale they had.
                _update(scaler)
            self._scalers.clear()
        self._settle_buffers()
        now = time.perf_counter()
        self._values["time/step"] = now - self._began
        self._began = now
        pending = self._send()
        self.step_number += 1
        self._new_pass()
        return self._use(self.lag.push(pending))

    def _send(self) -> Pending:
        """This step's numbers, on their way."""
        self._values.update(mean_over_ranks(self._losses, self._slots, self._device))
        known: dict[str, Any] = self._values
        far: dict[torch.device, list[str]] = {}
        for name, value in known.items():
            if isinstance(value, Tensor):
                far.setdefault(value.device, []).append(name)
        flights = []
        for device, listed in far.items():
            values = [known.pop(name).reshape(()).to(torch.float64) for name in listed]
            ring = self._heads.setdefault(device, Ring(self.lag.steps + 1))
            flights.append((tuple(listed), ring.send(torch.stack(values))))
        details = {
            name: (listed, self._vectors[name].send(each))
            for name, (listed, each) in self._details.items()
        }
        return Pending(
            step=self.step_number,
            known=known,
            flights=tuple(flights),
            details=details,
            stands_for=self._updates,
            time=time.time(),
        )

    def _use(self, due: Iterable[Pending]) -> list[Incident]:
        found = []
        for pending in due:
            self._late.append(pending)
            found += self._judge(pending)
        return found

    def _judge(self, pending: Pending) -> list[Incident]:
        values = pending.values()
        for name, watched in self.watched.items():
            self._note_update(name, values, pending)
            keys = self._keys[name]
            gated = values.get(keys.gated)
            if gated is not None:
                self.epochs[name].add(pending.step, values[keys.norm], gated=gated > 0)
                if not gated:
                    watched.clip.accept(values[keys.norm])
                    for group, clip in watched.clip.groups.items():
                        clip.accept(values.get(f"{names.GROUP}/{name}/{group}", math.nan))
        reading = Reading(step=pending.step, values=values, time=pending.time)
        incidents = self.lookout.observe(reading, self._detail)
        if self.sinks:
            self._write(reading, pending, incidents)
        return incidents

    def _note_update(self, name: str, values: dict[str, float], pending: Pending) -> None:
        updates = self.watched[name].updates
        stands_for = pending.stands_for.get(name)
        if stands_for is not None:
            keys = self._keys[name]
            updates.add(values.pop(keys.moved), values.pop(keys.weight), stands_for)
        if updates.ratio is not None:
            values[self._keys[name].update] = updates.ratio

    def _write(self, reading: Reading, pending: Pending, incidents: list[Incident]) -> None:
        if incidents or (self.detail_every and pending.step % self.detail_every == 0):
            details = {name: self._landed(pending, name) for name in pending.details}
            reading = Reading(
                step=reading.step,
                values=reading.values,
                time=reading.time,
                parameters={name: norms for name, norms in details.items() if norms},
            )
        for sink in list(self.sinks):
            try:
                sink.write(reading)
                for incident in incidents:
                    sink.incident(incident)
            except Exception as error:
                # A picture is not worth a training.
                self.sinks.remove(sink)
                what = f"{type(sink).__name__}: {type(error).__name__}: {error}"
                print(f"hpckit: {what}; the training goes on without it", file=sys.stderr)

    def _detail(self, optimizer: str) -> Iterator[Mapping[str, float]]:
        """An optimizer's parameter norms, newest first; what is not here yet is dropped."""
        for pending in reversed(self._late):
            norms = self._landed(pending, optimizer)
            if norms:
                yield norms

    def _landed(self, pending: Pending, optimizer: str) -> Mapping[str, float]:
        listed, flight = pending.details.get(optimizer, ((), None))
        if flight is None:
            return {}
        if not flight.is_here():
            self.dropped += 1
            return {}
        return dict(zip(listed, flight.land(), strict=True))

    def end_epoch(self) -> dict[str, Epoch]:
        """What each optimizer's gradients were since the last epoch's end; written, too.

        With a lag the last steps of an epoch count for the next one.
        """
        ended, self.epochs = self.epochs, {name: Epoch() for name in self.watched}
        for name, epoch in ended.items():
            for what, value in epoch.values().items():
                self._values[f"epoch/{what}/{name}"] = value
        return ended

    def finish(self) -> list[Incident]:
        """The training is over: use what is still in flight, and write it."""
        due = self.lag.push(self._send()) if self._values else []
        # An epoch may have ended after the last step.
        self._new_pass()
        found = self._use([*due, *self.lag.drain()])
        for sink in self.sinks:
            sink.flush()
        return found

    def went_back(self, step: int) -> None:
        """Weights and state were put back to how they were before `step`, in place."""
        self.step_number = step
        self.lag.drain()
        self._late.clear()
        self._new_pass()
        self.buffers.renew()
        self.lookout.went_back()

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes: readings in flight are waited for."""
        return {
            "step": self.step_number,
            "pending": self.lag.state_dict(),
            "lookout": self.lookout.state_dict(),
            "clips": {name: each.clip.state_dict() for name, each in self.watched.items()},
            "epochs": {name: each.state_dict() for name, each in self.epochs.items()},
            "updates": {name: each.updates.state_dict() for name, each in self.watched.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step_number = state["step"]
        self.lag.load_state_dict(state["pending"])
        self.lookout.load_state_dict(state["lookout"])
        for name, each in self.watched.items():
            if name in state["clips"]:
                each.clip.load_state_dict(state["clips"][name])
                each.updates.load_state_dict(state["updates"][name])
                self.epochs[name].load_state_dict(state["epochs"][name])
        self._late.clear()
        self._new_pass()
        # Whichever is loaded first: what the model holds now is what a gate goes back to.
        self.buffers.renew()


def _plain(value: float | Tensor, what: str) -> float | Tensor:
    """A number that is here, or a tensor on a device that is not waited for."""
    if not isinstance(value, Tensor):
        return float(value)
    if value.numel() != 1:
        raise ValueError(f"{what} must be one number, not {tuple(value.shape)}: take its mean")
    return value.detach() if value.is_cuda else float(value.item())


def _worse(
    measured: Measured, norm: float | Tensor, factor: float | Tensor, gated: float | Tensor
) -> Measured:
    """Of two steps of an optimizer in one pass what was worst: a gate, a NaN, the larger norm."""
    device = measured.each.device
    before = [torch.as_tensor(each, dtype=torch.float64).to(device) for each in (norm, gated)]
    now = [
        torch.as_tensor(each, dtype=torch.float64).to(device)
        for each in (measured.norm, measured.gated)
    ]
    # maximum keeps a NaN, whichever of the two it is.
    largest, shut = torch.maximum(before[0], now[0]), torch.maximum(before[1], now[1])
    both = torch.as_tensor(factor).to(device), torch.as_tensor(measured.factor).to(device)
    smallest = torch.minimum(both[0], both[1])
    if device.type == "cpu":
        return measured._replace(norm=float(largest), factor=float(smallest), gated=float(shut))
    return measured._replace(norm=largest, factor=smallest, gated=shut)


def _update(scaler: Any) -> None:
    """Let a scaler find its next scale, if it saw any gradient."""
    states = scaler._per_optimizer_states
    if any(state["found_inf_per_device"] for state in states.values()):
        scaler.update()
    else:
        states.clear()


def _models(given: Models) -> list[nn.Module]:
    if isinstance(given, nn.Module):
        return [given]
    return list(given.values() if isinstance(given, Mapping) else given)


def _watch(given: Optimizers, models: list[nn.Module], clip: Clips) -> dict[str, Watched]:
    optimizers = dict(given) if isinstance(given, Mapping) else {names.MAIN: given}
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

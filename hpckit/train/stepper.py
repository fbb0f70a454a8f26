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

import math
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hpckit.monitor import reading as names
from hpckit.monitor.epoch import Epoch
from hpckit.monitor.incident import Incident
from hpckit.monitor.lookout import Lookout
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.background import tell
from hpckit.train.buffers import Buffers
from hpckit.train.clip import Clips
from hpckit.train.lag import Lag, Pending
from hpckit.train.memory_readings import MemoryReadings
from hpckit.train.scaling import Scalers
from hpckit.train.sending import Sender
from hpckit.train.shared import over_ranks, settle
from hpckit.train.watched import Measured, Watched, watch

if TYPE_CHECKING:
    from hpckit.monitor.readings.sink import Sink

# On a GPU the host runs ahead by a few steps; on a CPU every number is there at once.
LAG_ON_GPU = 4
# The first steps of a training tell each parameter's norm so often, if it has few of them: a row of
# three thousand takes the writer's thread some ten milliseconds.
DENSE, DENSE_STEPS, DENSE_PARAMETERS = 10, 1000, 500
# What a rank may ask of all: it is obeyed by all after the same step.
WISHES = ("wish/save", "wish/end", "wish/back")

Models = nn.Module | Mapping[str, nn.Module] | Iterable[nn.Module]
Optimizers = Optimizer | Mapping[str, Optimizer]


class Keys:
    """The names of an optimizer's numbers in a reading."""

    def __init__(self, name: str, *, alone: bool) -> None:
        self.norm = f"{names.NORM}/{name}"
        self.clip = f"{names.CLIP}/{name}"
        self.gated = f"{names.GATED}/{name}"
        self.rate = f"{names.RATE}/{name}"
        self.scale = f"{names.SCALE}/{name}"
        self.update = f"{names.UPDATE}/{name}"
        self.usual = f"{names.USUAL}/{name}"
        self.limit = f"{names.LIMIT}/{name}"
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
        clip: Clips | None = None,
        lag: int | None = None,
        lookout: Lookout | None = None,
        sinks: Iterable[Sink] = (),
        detail_every: int = 100,
        step: int = 0,
    ) -> None:
        """`detail_every`: how often each parameter's norm is written; an incident always has it.

        Also while norms are on their way to one, and more often at first.
        """
        models = _models(model)
        self.buffers = Buffers(models)
        self.watched: MutableMapping[str, Watched] = watch(
            optimizers if isinstance(optimizers, Mapping) else {names.MAIN: optimizers},
            models,
            clip,
        )
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
        # Updates that were applied; told where there are several optimizers to compare.
        self.updated = dict.fromkeys(self.watched, 0.0)
        self._sender = Sender(self.watched, lag=self.lag.steps)
        self._scalers = Scalers()
        self._memory = MemoryReadings(self._device)
        self._gates: list[float | Tensor] = []
        alone = len(self.watched) == 1
        self._keys = {name: Keys(name, alone=alone) for name in self.watched}
        self._slots = [keys.loss for keys in self._keys.values()]
        self._began = time.perf_counter()
        # This rank's own, sent with the present pass; and what any rank asked for in a due one.
        self.wishes = dict.fromkeys(WISHES, 0.0)
        self.agreed: set[str] = set()
        # The steps that the last end() judged, and whether each was applied whole.
        self.judged: list[tuple[int, bool]] = []
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
                self._scalers.take(name, scaler)
            measured = watched.step(limit=limit, scaler=scaler)
        self._gates.append(measured.gated)
        self._note(name, watched, measured)

    def name_of(self, optimizer: Optimizer | str | None) -> str:
        return self._find(optimizer)[0]

    @property
    def stepped(self) -> set[str]:
        """The optimizers that have stepped in the present pass."""
        return {name for name, keys in self._keys.items() if keys.norm in self._values}

    @property
    def has_all_stepped(self) -> bool:
        return len(self.stepped) == len(self.watched)

    def _find(self, optimizer: Optimizer | str | None) -> tuple[str, Watched]:
        for name, watched in self.watched.items():
            if optimizer is watched.optimizer or optimizer == name:
                return name, watched
        if optimizer is None and len(self.watched) == 1:
            return next(iter(self.watched.items()))
        known = ", ".join(self.watched)
        what = "which optimizer?" if optimizer is None else "this optimizer is not registered;"
        raise ValueError(f"{what} known are: {known}")

    def _note(self, name: str, watched: Watched, measured: Measured) -> None:
        values, keys = self._values, self._keys[name]
        if keys.norm in values:
            measured = measured.worse(values[keys.norm], values[keys.clip], values[keys.gated])
        values[keys.norm] = measured.norm
        values[keys.clip] = measured.factor
        values[keys.gated] = measured.gated
        usual, limit = self.lookout.bounds(name)
        if usual < limit < math.inf:
            values[keys.usual], values[keys.limit] = usual, limit
        rate = watched.optimizer.param_groups[0].get("lr")
        # A rate that lives on the GPU would have to be waited for; some optimizers have none.
        if rate is not None and not (isinstance(rate, Tensor) and rate.is_cuda):
            values[keys.rate] = float(rate) * watched.rate
        for group, norm in (measured.groups or {}).items():
            values[f"{names.GROUP}/{name}/{group}"] = _plain(norm, group)
        if measured.scale is not None:
            values[keys.scale] = measured.scale
        if measured.sample is not None:
            values[keys.moved], values[keys.weight], self._updates[name] = measured.sample
        if len(measured.each):
            listed = watched.parameters.names_of(measured.gradients)
            self._details[name] = (listed, measured.each)

    def look(
        self,
        optimizer: Optimizer | str | None = None,
        *,
        loss: float | Tensor | None = None,
        scale: float | None = None,
    ) -> Measured:
        """Measure, clip and gate what somebody else steps with: a framework's own loop."""
        name, watched = self._find(optimizer)
        if loss is not None:
            self._losses[self._keys[name].loss] = _plain(loss, "the loss")
        measured = watched.look(limit=self.lookout.limit(name))
        self._gates.append(measured.gated)
        self._note(name, watched, measured if scale is None else measured._replace(scale=scale))
        return measured

    @property
    def has_stepped(self) -> bool:
        """Whether an optimizer has stepped in the present pass."""
        return bool(self._gates)

    def log(self, **values: float | Tensor) -> None:
        """Add numbers to this step's reading: `log(mel=loss_mel)` is train/mel."""
        for name, value in values.items():
            key = name if "/" in name or name == "epoch" else f"train/{name}"
            self._values[key] = _plain(value, name)

    def end(self) -> list[Incident]:
        """Close this step; what is wrong, by the readings that are due."""
        self._scalers.update()
        gates, self._gates = self._gates, []
        self._close_buffers(gates)
        now = time.perf_counter()
        self._values["time/step"] = now - self._began
        self._began = now
        if self.sinks:
            self._values.update(self._memory.take(now))
        pending = self._send(self.step_number)
        self.step_number += 1
        self._new_pass()
        return self._use(self.lag.push(pending))

    def _close_buffers(self, gates: Sequence[float | Tensor]) -> None:
        self.buffers.close_pass(gates)

    def _send(self, step: int) -> Pending:
        """A step's numbers, on their way."""
        shared = over_ranks(self._losses, self._slots, self.wishes, self._device)
        self._values.update(shared)
        self.wishes = dict.fromkeys(WISHES, 0.0)
        return self._sender.send(step, self._values, self._details, self._updates)

    def _use(self, due: Iterable[Pending]) -> list[Incident]:
        found = []
        self.judged = []
        for pending in due:
            self._sender.used.append(pending)
            found += self._judge(pending)
        return found

    def _judge(self, pending: Pending) -> list[Incident]:
        values = pending.values()
        settle(values, self._slots)
        # A wish of the last submission, in flight when it was saved, is not one any more.
        self.agreed.update(wish for wish in WISHES if values.pop(wish, 0.0))
        held = any(values.get(keys.gated, 0.0) for keys in self._keys.values())
        self.judged.append((pending.step, not held))
        for name, watched in self.watched.items():
            self._note_update(name, values, pending)
            keys = self._keys[name]
            gated = values.get(keys.gated)
            if gated is not None:
                self.epochs[name].add(pending.step, values[keys.norm], gated=gated > 0)
                if not gated:
                    self.updated[name] += 1
                    watched.clip.accept(values[keys.norm])
                    for group, clip in watched.clip.groups.items():
                        clip.accept(values.get(f"{names.GROUP}/{name}/{group}", math.nan))
        if len(self.updated) > 1:
            for name, count in self.updated.items():
                values[f"updates/{name}"] = count
        reading = Reading(step=pending.step, values=values, time=pending.time)
        incidents = self.lookout.observe(reading, self._sender.detail)
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
        if incidents or self._is_detailed(pending.step, reading.values):
            details = {name: self._sender.landed(pending, name) for name in pending.details}
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
                tell(f"{what}; the training goes on without it")

    def _is_detailed(self, step: int, values: Mapping[str, float]) -> bool:
        """Whether a reading of no incident tells each parameter's norm."""
        if not self.detail_every:
            return False
        every = self.detail_every
        if step < DENSE_STEPS and step % DENSE == 0:
            number = sum(len(each.parameters.all) for each in self.watched.values())
            every = min(every, DENSE) if number <= DENSE_PARAMETERS else every
        return step % every == 0 or any(_is_rising(values, keys) for keys in self._keys.values())

    @property
    def latest(self) -> Pending:
        """The newest step that was decided by."""
        return self._sender.used[-1]

    @property
    def dropped(self) -> int:
        """Details of parameters that were not here in time."""
        return self._sender.dropped

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
        due = self.lag.drain()
        # What was said after the last step belongs to it; not where an earlier launch wrote that
        # step's reading: a second one of a later launch would take its place.
        is_ours = bool(self._sender.used or due)
        if self._values:
            due.append(self._send(self.step_number - (is_ours and not self.has_stepped)))
        # An epoch may have ended after the last step.
        self._new_pass()
        found = self._use(due)
        for sink in self.sinks:
            sink.flush()
        return found

    def went_back(self, step: int) -> None:
        """Weights and state were put back to how they were before `step`, in place."""
        self.step_number = step
        self.lag.drain()
        self._sender.used.clear()
        self._new_pass()
        self.buffers.renew()
        self.lookout.went_back(step)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes: readings in flight are waited for."""
        pending = self.lag.state_dict()
        for each in pending:
            # What was wished before the run is saved is granted by that.
            each["values"] = {k: v for k, v in each["values"].items() if k not in WISHES}
        return {
            "step": self.step_number,
            "pending": pending,
            # Said since the last step: what a validation found after an epoch.
            "values": {name: float(value) for name, value in self._values.items()},
            "lookout": self.lookout.state_dict(),
            "clips": {name: each.clip.state_dict() for name, each in self.watched.items()},
            "rates": {name: each.rate for name, each in self.watched.items()},
            "epochs": {name: each.state_dict() for name, each in self.epochs.items()},
            "updated": dict(self.updated),
            "updates": {name: each.updates.state_dict() for name, each in self.watched.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step_number = state["step"]
        self.lag.load_state_dict(state["pending"])
        self.lookout.load_state_dict(state["lookout"])
        for name, each in self.watched.items():
            if name in state["clips"]:
                each.clip.load_state_dict(state["clips"][name])
                each.rate = state.get("rates", {}).get(name, 1.0)
                each.updates.load_state_dict(state["updates"][name])
                self.epochs[name].load_state_dict(state["epochs"][name])
        self._sender.used.clear()
        self._new_pass()
        self.updated |= {k: v for k, v in state.get("updated", {}).items() if k in self.updated}
        self._values.update(state.get("values", {}))
        # Whichever is loaded first: what the model holds now is what a gate goes back to.
        self.buffers.renew()


def _is_rising(values: Mapping[str, float], keys: Keys) -> bool:
    """Whether a norm is more than half the way from what is usual to what is held back."""
    usual, limit = values.get(keys.usual), values.get(keys.limit)
    if usual is None or limit is None:
        return False
    return bool(values[keys.norm] ** 2 > usual * limit)


def _plain(value: float | Tensor, what: str) -> float | Tensor:
    """A number that is here, or a tensor on a device that is not waited for."""
    if not isinstance(value, Tensor):
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{what} must be a number, not {value!r}") from None
    if value.numel() != 1:
        raise ValueError(f"{what} must be one number, not {tuple(value.shape)}: take its mean")
    return value.detach() if value.is_cuda else float(value.item())


def _models(given: Models) -> list[nn.Module]:
    if isinstance(given, nn.Module):
        return [given]
    return list(given.values() if isinstance(given, Mapping) else given)

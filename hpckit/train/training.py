"""What a training is made of, and its state: taken whole, and put back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hpckit.errors import UsageError
from hpckit.monitor import reading as names
from hpckit.train import random_states
from hpckit.train.best import Best
from hpckit.train.clips import clips_of, given_by_name
from hpckit.train.data_readings import DataReadings
from hpckit.train.fault import Fault
from hpckit.train.feed import Feed
from hpckit.train.healing import Healer
from hpckit.train.keeper import Keeper
from hpckit.train.place import Place
from hpckit.train.pulse import FIRST_STEPS, START, Pulse
from hpckit.train.ranks import Ranks
from hpckit.train.registry import Registry, refuse_unnamed
from hpckit.train.stepper import Stepper
from hpckit.train.surroundings import Surroundings
from hpckit.train.telling import Teller
from hpckit.train.tree import as_they_are, mapped, unpacked


class Training:
    """The things of a training, its place in the data, and what it has seen."""

    def __init__(self, surroundings: Surroundings, params: Mapping[str, Any]) -> None:
        self.around = surroundings
        # Of several processes: their group may be made after we were.
        self.ranks = Ranks()
        self.teller: Teller = surroundings.teller(self.ranks)
        self.registry = Registry()
        self.registry.tell = self.teller.say
        self.healer: Healer = surroundings.healer(params)
        self.params = self.healer.params
        # A person's own plain values; saved with the rest.
        self.values: dict[str, Any] = {}
        self.best_values = Best()
        self.place = Place()
        self._clips: dict[str, Any] = {}
        self._stepper: Stepper | None = None
        self._keeper: Keeper | None = None
        self._data = DataReadings()
        self._feed: Feed | None = None
        # What the process is busy with, for whoever watches that it does not hang.
        self.phase = START
        self._pulse: Pulse | None = None
        # One on purpose, in a rehearsal.
        self.fault = Fault.of(surroundings.run_dir)
        # Steps that were done before this process took up.
        self._stepped_at = 0
        # Whether the present epoch has begun.
        self._is_open = False
        # Whether there are gradients and readings of passes whose step is still to come.
        self._has_parts = False
        # What a checkpoint is to be taken for at the next boundary.
        self._why: str | None = None
        # Whether a value was the best one since the last checkpoint.
        self.is_best = False
        # Where random numbers go on once the epoch is open again.
        self._random: dict[str, Any] | None = None

    def live(self, environ: Mapping[str, str]) -> None:
        """Give signs of life from now on, where somebody waits for them."""
        path = environ.get("HPCKIT_PULSE")
        if path:
            self._pulse = Pulse(Path(path), self._sign)
            self._pulse.start(environ)

    def _sign(self) -> tuple[int, str]:
        """Where the training stands: asked from another thread, at any moment."""
        step = self._stepper.step_number if self._stepper is not None else 0
        return step, self.phase if step - self._stepped_at >= FIRST_STEPS else START

    # What a person says at first.

    def register(self, *unnamed: Any, clip: Any = None, **things: Any) -> None:
        """Name what is state: models, optimizers, schedules, a scaler, whatever has state_dict.

        `clip` is a norm, a `Clip`, or these by optimizer; the spec's `monitor.optimizers` stands
        above it.
        """
        refuse_unnamed(unnamed)
        if clip is not None:
            self._clips = given_by_name(clip)
        for name, thing in things.items():
            if thing is None:
                continue
            self.registry.add(self._named(name), thing)
            if self._stepper is not None and isinstance(thing, torch.optim.Optimizer):
                raise UsageError(
                    "register: an optimizer came after the loop began",
                    "register all of them before run.batches",
                )

    def _named(self, name: str) -> str:
        # The name that logs and readings have for an optimizer that nobody named.
        return names.MAIN if name == "optimizer" else name

    @property
    def stepper(self) -> Stepper:
        """All that measures, clips, gates and steps."""
        if self._stepper is None:
            self._stepper = self._new_stepper()
        return self._stepper

    def _new_stepper(self) -> Stepper:
        optimizers = self.registry.of_kind("optimizer")
        if not optimizers:
            raise UsageError(
                "no optimizer was registered",
                "run.register(model=model, optimizer=optimizer) before run.batches",
            )
        models = self.registry.of_kind("module")
        clips = clips_of(self.around.spec.monitor.optimizers, self._clips, optimizers)
        self.healer.know(list(optimizers))
        return Stepper(
            model=models,
            optimizers=optimizers,
            clip=clips or None,
            lookout=self.around.lookout(),
            sinks=self.around.sinks(self.ranks),
        )

    # What a person reads.

    @property
    def epoch(self) -> int:
        """Epochs that are behind us."""
        return self.place.epoch

    @property
    def step_number(self) -> int:
        """Steps that are behind us."""
        return self.stepper.step_number

    @property
    def rank(self) -> int:
        return self.ranks.rank

    @property
    def world_size(self) -> int:
        return self.ranks.size

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which speaks for all."""
        return self.ranks.rank == 0

    @property
    def _kept(self) -> Keeper:
        assert self._keeper is not None
        return self._keeper

    # State.

    def shared_state(self, *, sharded: bool) -> dict[str, Any]:
        """What is the same on all ranks, and saved by rank 0."""
        kinds = ("schedule",) if sharded else ("module", "optimizer", "schedule")
        return {
            "items": self.registry.take(kinds),
            "changes": len(self.healer.in_force),
            "step": self.step_number,
        }

    def own_state(self) -> dict[str, Any]:
        """What is this rank's own."""
        place = self.place.state_dict()
        if self._feed is not None:
            place["begun"] = self._feed.state_dict() if self._is_open else None
            place["between"] = None if self._is_open else self._feed.between()
        state = {
            "random": random_states.capture(),
            "place": place,
            "items": self.registry.take(("other",)),
            "values": as_they_are(self.values),
            "best": self.best_values.state_dict(),
        }
        if self._has_parts:
            state["parts"] = {
                "gradients": self.registry.gradients(),
                "data": self._data.state_dict(),
            }
        return state

    def plain_state(self) -> dict[str, Any]:
        """What watches, and remembers: who goes back in this process has it still."""
        return {
            "stepper": self.stepper.state_dict(),
            "bad_steps": list(self._kept.bad_steps),
        }

    def load(self, shared: dict[str, Any], own: dict[str, Any], *, again: bool) -> None:
        """Put state back; `again`: into the process that it was taken in."""
        self.registry.load(shared["items"], again=again)
        self.registry.load(own["items"], again=again)
        # Copies: the program may change these in place, and a snapshot may be gone back to twice.
        values, place = (
            mapped(own[name], lambda each: each.clone()) for name in ("values", "place")
        )
        there = dict(self.values)
        self.values.clear()
        for name, value in unpacked(values).items():
            self.values[name] = beside(value, there.get(name))
        self.best_values.load_state_dict(own["best"])
        self.place = Place.of(place)
        random_states.restore(own["random"])
        parts = own.get("parts", {})
        self._has_parts = bool(parts)
        self.registry.put_gradients(parts.get("gradients", {}))
        self._data.load_state_dict(parts.get("data", {}))
        # Opening an epoch in its midst draws: then they are put back once more.
        self._random = own["random"] if self.place.begun is not None else None
        if again:
            # What was the best has not happened.
            self._why = None if self._why == "best" else self._why
            self.is_best = False
            self.stepper.went_back(shared["step"])
        else:
            self.stepper.load_state_dict(own["stepper"])
            self._kept.bad_steps = list(own["bad_steps"])


def beside(value: Any, there: Any) -> Any:
    """A tensor that comes back, on the device where the program has its own."""
    if isinstance(value, torch.Tensor) and isinstance(there, torch.Tensor):
        return value.to(there.device)
    return value

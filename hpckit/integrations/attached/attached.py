"""A process that is watched from within: what is done before and after each optimizer's step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hpckit.integrations.attached.answers import Answers
from hpckit.integrations.attached.ending import Ending
from hpckit.integrations.attached.found import parameters_of
from hpckit.integrations.attached.heard import Heard
from hpckit.integrations.attached.meeting import Meeting
from hpckit.integrations.attached.onlooker import Onlooker, Seat
from hpckit.integrations.attached.turn import Turn, looked_at
from hpckit.monitor.gradients import measure
from hpckit.monitor.readings.background import tell
from hpckit.train.surroundings import Surroundings
from hpckit.train.watched import Measured

# What torch puts around every step, and calls its hooks from.
STEPPING = Optimizer.profile_hook_step(lambda: None).__code__
Arguments = tuple[Any, ...]
Guarded = Callable[[Callable[[], None]], Any]


class Attached:
    """All that is known of this process's training."""

    def __init__(self, around: Surroundings) -> None:
        self.ending = Ending()
        self.heard = Heard()
        self.meeting = Meeting(around, self.ending)
        self._turn: Turn | None = None
        # A scaler that is stepping an optimizer, and whether that has stepped.
        self._scaling: tuple[Any, Optimizer] | None = None
        self._has_stepped = False
        self._is_first = True

    @property
    def _answers(self) -> Answers:
        assert self.meeting.answers is not None
        return self.meeting.answers

    @property
    def _onlooker(self) -> Onlooker:
        return self._answers.onlooker

    # An optimizer's step.

    def before(
        self, optimizer: Optimizer, args: Arguments, kwargs: dict[str, Any], guarded: Guarded
    ) -> tuple[Arguments, dict[str, Any]] | None:
        """An optimizer is about to step; other arguments, if it is to be called with these."""
        if self.ending.code is not None:
            self.ending.insist()
        if self._is_within_a_turn(optimizer):
            return None
        self.undo()
        seat = self.meeting.seat(optimizer)
        if seat is None or _is_captured(seat):
            return None
        self._open(seat)
        limit = self._onlooker.lookout.limit(seat.name)
        turn = self._turn = Turn(optimizer, seat.watched, limit=limit)

        def look() -> None:
            turn.look(self.heard.take_clip(seat.watched.parameters.all))

        if len(args) > 1 and callable(args[1]):
            closure = looked_at(args[1], lambda: guarded(look))
            return (args[0], closure, *args[2:]), kwargs
        if callable(kwargs.get("closure")):
            closure = looked_at(kwargs["closure"], lambda: guarded(look))
            return args, {**kwargs, "closure": closure}
        look()
        return None

    def _is_within_a_turn(self, optimizer: Optimizer) -> bool:
        """Whether a step is under way that this one is a part of; one that failed is not."""
        turn = self._turn
        if turn is None:
            return False
        depth = _depth(turn.optimizer)
        if turn.optimizer is optimizer:
            # Its own step, overridden, calls the one above it.
            turn.inner += depth > 1
            return depth > 1
        # One that wraps another.
        outer = {id(each) for each in turn.watched.parameters.all}
        if not depth or outer.isdisjoint(map(id, parameters_of(optimizer))):
            return False
        turn.begin_inner(optimizer)
        return True

    def after(self, optimizer: Optimizer) -> None:
        """It has stepped."""
        turn = self._turn
        if turn is None:
            return
        if turn.optimizer is not optimizer:
            turn.end_inner()
            return
        if turn.inner:
            turn.inner -= 1
            return
        self._turn, self._has_stepped = None, True
        seat, measured = Seat.of(optimizer), turn.end()
        if seat is not None and measured is not None:
            self._took_turn(optimizer, seat, measured)

    def undo(self) -> None:
        """We are not to be there any more."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.undo()

    # A scaler that steps an optimizer, or does not.

    def scaling(self, scaler: Any, optimizer: Optimizer) -> None:
        self._scaling, self._has_stepped = (scaler, optimizer), False

    def scaled(self) -> None:
        """The scaler is done; where gradients overflow, it has left the step out."""
        if self._scaling is not None and not self._has_stepped:
            optimizer = self._scaling[1]
            seat = self.meeting.seat(optimizer)
            if seat is not None:
                self._open(seat)
                self._took_turn(optimizer, seat, _left_out(seat))
        self._scaling = None

    def _scale_of(self, optimizer: Optimizer) -> float | Tensor | None:
        if self._scaling is None or self._scaling[1] is not optimizer:
            return None
        scale = self._scaling[0]._scale
        if scale is None:
            return None
        # update() changes it in place.
        return scale.detach().clone() if scale.is_cuda else float(scale)

    # A step of the training.

    def _open(self, seat: Seat) -> None:
        """An optimizer whose turn it is again begins the next step."""
        if seat.name in self._onlooker.stepped:
            self._end_step(late=True)

    def _took_turn(self, optimizer: Optimizer, seat: Seat, measured: Measured) -> None:
        scale, onlooker = self._scale_of(optimizer), self._onlooker
        onlooker.took_turn(seat, measured._replace(scale=scale), self.heard.take_loss(scale))
        if onlooker.is_complete:
            self._end_step(late=False)
        else:
            onlooker.between_turns()

    def _end_step(self, *, late: bool) -> None:
        """Called once for every step, when it is over."""
        if self._is_first:
            self._is_first = False
            self.meeting.compare()
        self._answers.of(self._onlooker.close(late=late))

    def finish(self) -> None:
        """The interpreter ends."""
        if self.meeting.answers is not None:
            self._answers.finish()
        elif not self.meeting.met:
            tell("attach: no optimizer was seen to step in this process: nothing was watched")


def _depth(optimizer: Optimizer) -> int:
    """How many steps of an optimizer are under way, one in the other, by who calls whom."""
    found, frame = 0, sys._getframe(1)
    while frame is not None:
        if frame.f_code is STEPPING and frame.f_locals.get("self") is optimizer:
            found += 1
        frame = frame.f_back  # type: ignore[assignment]
    return found


def _left_out(seat: Seat) -> Measured:
    """A step that was not taken, by the gradients that it was not taken for."""
    gradients = seat.watched.parameters.gradients()
    norms = measure(gradients.values, plain=gradients.plain)
    total = norms.total if norms.total.is_cuda else float(norms.total)
    return Measured(total, 1.0, 1.0, norms.each, gradients)


def _is_captured(seat: Seat) -> bool:
    """Into a CUDA graph: what waits for the device would break it, and a replay calls nobody."""
    return seat.watched.gates_on_device and torch.cuda.is_current_stream_capturing()

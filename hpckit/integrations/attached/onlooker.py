"""A stepper whose optimizers the program steps: it meets them one by one, and owns none of them.

Whatever is known of an optimizer hangs on the optimizer itself, and goes with it: a program that
trains one model after the other must find its memory free.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer

from hpckit.monitor.detector import Detector
from hpckit.monitor.epoch import Epoch
from hpckit.monitor.incident import Incident
from hpckit.monitor.lookout import Lookout
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.sink import Sink
from hpckit.train.buffers import Buffers
from hpckit.train.lag import Pending, Ring
from hpckit.train.sending import DETAILS
from hpckit.train.stepper import Keys, Stepper
from hpckit.train.watched import Measured, Watched

# The attribute of an optimizer under which its seat is found; torch pickles none of these.
MARK = "_hpckit_seat"


@dataclass(kw_only=True, eq=False)
class Seat:
    """What is known of one optimizer."""

    name: str
    watched: Watched
    buffers: Buffers

    @staticmethod
    def of(optimizer: Optimizer) -> Seat | None:
        found: Seat | None = vars(optimizer).get(MARK)
        return found


class ByNorms(Lookout):
    """Judges by what is the same on all ranks; a rank's own loss is written, and no more."""

    def _new_plan(self, reading: Reading) -> list[tuple[Detector, tuple[str, ...]]]:
        return [(detector, ("", *names[1:])) for detector, names in super()._new_plan(reading)]


class Onlooker(Stepper):
    """Takes note of steps; a pass is over when every optimizer there is has stepped."""

    def __init__(self, *, lag: int, lookout: Lookout, sinks: Iterable[Sink], step: int) -> None:
        super().__init__(model=[], optimizers={}, lag=lag, lookout=lookout, sinks=sinks, step=step)
        self.watched = weakref.WeakValueDictionary()
        self._seats: weakref.WeakValueDictionary[str, Seat] = weakref.WeakValueDictionary()
        # Optimizers that are there; those without a seat have not stepped yet.
        self._expected = 1
        self._is_late = False

    def meet(self, optimizer: Optimizer, seat: Seat, *, others: int) -> None:
        """An optimizer has its first turn; so many others are there."""
        name = seat.name
        self._expected = 1 + others
        vars(optimizer)[MARK] = seat
        self._seats[name] = seat
        self.watched[name] = seat.watched
        self._keys[name] = Keys(name, alone=not others)
        self._sender.vectors[name] = Ring(self.lag.steps + DETAILS)
        self.epochs[name] = Epoch()
        self.updated[name] = 0.0
        if seat.watched.clip.percentile is not None:
            self.lookout.by_percentile.add(name)
        # Of that name there may have been another one, whose norms say nothing of this one's.
        self.lookout.forget(name)

    @property
    def is_complete(self) -> bool:
        """Whether everyone who is there has had a turn in this pass."""
        return len(self._seats) >= self._expected and self.stepped.issuperset(self._seats)

    def took_turn(self, seat: Seat, measured: Measured, loss: float | Tensor | None) -> None:
        self._gates.append(measured.gated)
        if loss is not None:
            self._losses[self._keys[seat.name].loss] = loss
        self._note(seat.name, seat.watched, measured)

    def between_turns(self) -> None:
        """What the buffers hold now counts, if nothing of this pass was held back.

        To copy them breaks no graph that is alive. When the pass is closed late, the next one's
        forward has changed them already.
        """
        if not any(isinstance(gate, Tensor) or gate for gate in self._gates):
            for seat in self._seats.values():
                seat.buffers.commit()

    def close(self, *, late: bool) -> list[Incident]:
        """The pass is over; `late`: the next one has begun, and this is seen only now."""
        self._is_late = late
        return self.end()

    def _close_buffers(self, gates: Sequence[float | Tensor]) -> None:
        is_bad = any(bool(gate) for gate in gates if self._is_late or isinstance(gate, float))
        for seat in list(self._seats.values()):
            if is_bad:
                seat.buffers.restore_unnoticed()
            elif not self._is_late:
                seat.buffers.close_pass(gates)

    def _send(self, step: int) -> Pending:
        """Nothing is asked of other ranks: one that skips a step would leave all waiting."""
        self._values.update(self._losses)
        return self._sender.send(step, self._values, self._details, self._updates)

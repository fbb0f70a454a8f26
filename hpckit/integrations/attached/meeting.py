"""The first step of each optimizer: who it is, what a spec calls it, whether it is watched."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence

from torch.optim import Optimizer

from hpckit.errors import UsageError
from hpckit.integrations.attached.answers import Answers
from hpckit.integrations.attached.ending import Ending
from hpckit.integrations.attached.found import (
    Found,
    find,
    inner,
    parameters_of,
    steps_taken,
    unfit,
)
from hpckit.integrations.attached.onlooker import MARK, ByNorms, Onlooker, Seat
from hpckit.monitor.lookout import Lookout
from hpckit.monitor.reading import MAIN
from hpckit.monitor.readings.background import tell
from hpckit.train.buffers import Buffers
from hpckit.train.clip import Clip
from hpckit.train.clips import ALONE, of_spec
from hpckit.train.ranks import Ranks
from hpckit.train.stepper import LAG_ON_GPU
from hpckit.train.surroundings import Surroundings
from hpckit.train.watched import Watched

# To look around costs a tenth of a second: not for every optimizer of those that make thousands.
MOST_OPTIMIZERS = 16
# It is there in whatever calls hpckit by itself: a session, a trainer, a callback.
ITS_OWN = "hpckit.train.training"


class Meeting:
    """Knows every optimizer that has stepped."""

    def __init__(self, around: Surroundings, ending: Ending) -> None:
        self.around = around
        self.ending = ending
        # Now: a framework may say otherwise later, of processes that it starts itself.
        self.ranks = Ranks()
        self.teller = around.teller(self.ranks)
        # From the first optimizer on that is watched.
        self.answers: Answers | None = None
        self.when_begun: Callable[[], None] = lambda: None
        self.met = 0
        # What a spec may call those that have a seat.
        self._names: list[Sequence[str]] = []

    def seat(self, optimizer: Optimizer) -> Seat | None:
        """What is known of an optimizer; None where it is let be."""
        if MARK not in vars(optimizer):
            vars(optimizer)[MARK] = None
            self._meet(optimizer)
        return Seat.of(optimizer)

    def _meet(self, optimizer: Optimizer) -> None:
        self.met += 1
        if self.met > MOST_OPTIMIZERS:
            self.teller.once(f"attach: more than {MOST_OPTIMIZERS} optimizers: the rest is let be")
            return
        if ITS_OWN in sys.modules:
            self.teller.once("attach: the program calls hpckit by itself: nothing is attached")
            return
        found = find(optimizer)
        why = unfit(found, self.ranks.started)
        if why is not None:
            # Rank 0 may not be the one that sees it.
            tell(f"attach: {type(optimizer).__name__} is let be: {why}")
            return
        if self.answers is None:
            self.answers = self._begun(optimizer)
            self.when_begun()
        self._take_seat(optimizer, found, self.answers)

    def _begun(self, optimizer: Optimizer) -> Answers:
        """Once, at the first step of all."""
        self.ranks.join()
        monitor, folder = self.around.spec.monitor, self.around.run_dir / "work"
        kind = Lookout if self.ranks.size == 1 else ByNorms
        on_gpu = any(each.is_cuda for each in parameters_of(optimizer))
        onlooker = Onlooker(
            lag=LAG_ON_GPU if on_gpu else 1,
            lookout=kind.of(monitor, folder),
            sinks=self.around.sinks(self.ranks),
            step=steps_taken(optimizer),
        )
        return Answers(self.around, self.ranks, self.teller, onlooker, self.ending)

    def _take_seat(self, optimizer: Optimizer, found: Found, answers: Answers) -> None:
        names = self._names_of(found, answers.onlooker)
        # Not the optimizer itself: what hangs on it must not hold it.
        itself = weakref.proxy(optimizer)
        watched = Watched(names[0], itself, found.names, self._clip(names) or Clip())
        buffers = Buffers(found.models, follows_loads=False)
        seat = Seat(name=names[0], watched=watched, buffers=buffers)
        answers.onlooker.meet(optimizer, seat, others=found.others)
        answers.change(seat)
        self._names.append(names)
        of = " and ".join(type(inner(each)).__name__ for each in found.models) or "no module"
        number, kind = len(watched.parameters.all), type(optimizer).__name__
        self.teller.say(f"attached to {names[0]}: {kind}, {number} parameters of {of}")

    def _names_of(self, found: Found, onlooker: Onlooker) -> Sequence[str]:
        """An optimizer's name, and what else a spec may call it."""
        if not found.others and MAIN not in onlooker.watched:
            return MAIN, ALONE
        numbered = f"optimizer_{len(self._names) + 1}"
        if found.label is None or found.label in onlooker.watched:
            return (numbered,)
        return found.label, numbered

    def _clip(self, names: Sequence[str]) -> Clip | None:
        asked = self.around.spec.monitor.optimizers
        return next((of_spec(asked[each].clip) for each in names if each in asked), None)

    def compare(self) -> None:
        """After the first step: what the spec says of optimizers that nobody is."""
        known = [name for names in self._names for name in names]
        unknown = [each for each in self.around.spec.monitor.optimizers if each not in known]
        there = ", ".join(" or ".join(names) for names in self._names)
        if unknown:
            names = ", ".join(unknown)
            self.teller.say(f"warning: monitor.optimizers: {names} is none of these: {there}")
        assert self.answers is not None
        try:
            self.answers.healer.know([names[0] for names in self._names])
        except UsageError as error:
            self.teller.say(f"warning: {error}")

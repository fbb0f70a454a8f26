"""A session whose loop a framework runs: the framework says when a step comes, and what is over.

State is put back in place, between two batches, and the data goes on forward: what the framework
counts its batches by cannot be turned back from a callback. All batches since the state that is
gone back to are behind the run by that, those that were bad among them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor
from torch.optim import Optimizer

from hpckit.checkpoint.lineage import believed
from hpckit.errors import UsageError
from hpckit.train import random_states
from hpckit.train.feed import Feed
from hpckit.train.keeper import loaded
from hpckit.train.outside import Outside
from hpckit.train.place import Trail, Window
from hpckit.train.pulse import BETWEEN, STEP
from hpckit.train.rates import scale_rates, set_rates
from hpckit.train.returning import Returning
from hpckit.train.session import Session
from hpckit.train.surroundings import Surroundings
from hpckit.train.taking import Taking


class Where(Protocol):
    """Where in its data the framework stands."""

    @property
    def taken(self) -> int:
        """Batches of this epoch that were trained on."""

    @property
    def length(self) -> int | None:
        """Batches in an epoch, where that is known."""

    def between(self) -> dict[str, Any] | None: ...

    def state_dict(self) -> dict[str, Any]:
        """What makes this epoch's order once more."""


class Onward(Trail):
    """What a rollback leaves out: every batch since the state that it goes back to."""

    def windows(self, first: int, last: int, number: int) -> list[Window]:
        return super().windows(first, last, 1 << 62)


class Hosted(Session):
    """One process's part in a run, called by a framework."""

    # A run has one loop: a second one would write over what the first one says.
    begun: ClassVar[bool] = False

    def __init__(self, surroundings: Surroundings, params: Mapping[str, Any]) -> None:
        super().__init__(surroundings, params)
        self.trail = Onward()
        self.resumed = False
        # As the framework counts them.
        self.total_steps: int | None = None
        # The random states to go on with, until they are put back.
        self.random: dict[str, Any] | None = None
        self.rates = Rates(self)
        self._where: Where | None = None
        self._loss: Tensor | None = None
        self._first = 0
        self._may_save = True
        self._waits = False
        self._has_room = False

    # Beginning.

    def choose(self) -> dict[str, Any] | None:
        """This rank's own part of the state that the run will go on from, ahead of `begin`."""
        self.ranks.join()
        found = None
        if self.ranks.rank == 0:
            keeper = self.around.keeper(self.ranks, self.teller)
            returning = Returning(self, keeper, self.around, Taking(self, keeper))
            found = returning.newest(believed(self.around.events()))
        self.chosen = self.ranks.told(found)
        return loaded(self.chosen, self.ranks.rank)[1] if self.chosen is not None else None

    def begin(self, where: Where) -> bool:
        """Everything is registered: go on where the run stood; whether it had begun."""
        if Hosted.begun:
            raise UsageError(
                "a run trains once: another trainer has been through its training in this process",
                "make each training a run of its own, or train with hpckit.attach()",
            )
        Hosted.begun = True
        self._where = where
        self._begin()
        # All that a framework has was registered from it.
        if self._forgotten is not None:
            self._forgotten.close()
            self._forgotten = None
        self._feed = where  # type: ignore[assignment]
        self._first = self.place.taken
        self._is_open = self.place.begun is not None
        if self.step_number == 0:
            # Put back already, and at the right point: what draws from now on did so then, too.
            self.random = None
        for name in self.stepper.watched:
            self.rates.watch(name)
        return self.resumed

    def load(self, shared: dict[str, Any], own: dict[str, Any], *, again: bool) -> None:
        super().load(shared, own, again=again)
        if not again:
            self.resumed, self.random = True, own["random"]

    def put_random(self) -> None:
        """Go on drawing where the run stood, once."""
        random, self.random = self.random, None
        if random is not None:
            random_states.restore(random)

    def listen(self, before: Any = None) -> None:
        """From now on SIGTERM saves and ends; `before` is what it did before the framework came."""
        if threading.current_thread() is threading.main_thread():
            if before is not None:
                signal.signal(signal.SIGTERM, before)
            self._ends.install()

    # A pass.

    def opened(self) -> None:
        """An epoch's order was made."""
        self._is_open = True

    def note_batch(self, batch: Any, waited_s: float, expected: int | None) -> None:
        """A batch was handed out."""
        self.phase = STEP
        self._data.note(batch, waited_s, expected)

    def add_loss(self, loss: Tensor) -> None:
        """A part of the next step's loss; not waited for."""
        loss = loss.detach()
        self._loss = loss if self._loss is None else self._loss + loss

    def look(self, optimizer: Optimizer | str, *, scale: float | None = None) -> float:
        """Measure, clip and gate what the framework is about to step with; the gradient's norm."""
        loss, self._loss = self._loss, None
        with self.rates.untouched():
            return float(self.stepper.look(optimizer, loss=loss, scale=scale).norm)

    def pass_done(self, *, may_save: bool = True) -> bool:
        """A batch is behind us; whether state was put back.

        `may_save`: a run that came back here would miss nothing that is yet to come, such as a
        validation. A save waits for such a boundary, but not for long.
        """
        assert self._where is not None
        # What comes until the next batch may be a validation.
        self.phase = BETWEEN
        if not self.stepper.has_stepped:
            return False
        here = dataclasses.replace(self.place, taken=self._where.taken, skip=[])
        self._may_save = may_save or self._waits
        went_back = self._between(self._where, self._first)  # type: ignore[arg-type]
        self._first = self._where.taken
        # By now the framework has moved the schedules that move with steps.
        self._planned.look()
        if went_back:
            self.place = here
            self.stepper.agreed.clear()
        return went_back

    def _steps_in_all(self, feed: Feed, first: int) -> int | None:
        return self.total_steps

    def _obey(self) -> None:
        agreed = self.stepper.agreed
        self._waits = not self._may_save and "wish/end" not in agreed
        if not self._waits:
            super()._obey()
            return
        # A save waits; whatever else was agreed on has been done.
        agreed &= {"wish/save"}
        if self._kept.is_due_in_memory(self.step_number):
            self._keep(None)

    def _look_once(self) -> None:
        """Nothing can be forgotten here."""
        if not self._has_room:
            self._has_room = True
            self._taking.make_room()

    def epoch_over(self) -> None:
        """The epoch and all that the framework does after it are over."""
        self._first = 0
        self.stepper.agreed.discard("wish/save")
        self._end_epoch()

    def finish(self) -> None:
        """The framework's loop is over."""
        assert self._where is not None
        if self.place.taken and self._where.length in (None, self._where.taken):
            self.epoch_over()
        elif self.place.taken:
            # Ended in an epoch's midst: no epoch's numbers, and a framework does not come back.
            self.place.next_epoch()
            self._is_open = False
        self._end_loop()


class Rates:
    """Healing's factors on the learning rates, for the length of each optimizer's step."""

    def __init__(self, session: Hosted) -> None:
        self._session = session
        self._own: dict[str, list[Any]] = {}

    def watch(self, name: str) -> None:
        optimizer = self._session.stepper.watched[name].optimizer
        # accelerate wraps it, and hooks are called by the one inside.
        inner = getattr(optimizer, "optimizer", optimizer)
        inner.register_step_pre_hook(lambda *_: self._begin(name))
        inner.register_step_post_hook(lambda *_: self._end(name))

    def _begin(self, name: str) -> None:
        watched = self._session.stepper.watched[name]
        if watched.rate == 1.0 or name in self._own:
            return
        self._own[name] = scale_rates(watched.optimizer, watched.rate)

    def _end(self, name: str) -> None:
        if name in self._own:
            set_rates(self._session.stepper.watched[name].optimizer, self._own.pop(name))

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """Within a step whose closure looks: what is told is the schedule's rate."""
        within = list(self._own)
        for name in within:
            self._end(name)
        try:
            yield
        finally:
            for name in within:
                self._begin(name)


def host(params: Mapping[str, Any] | None) -> Hosted | Outside:
    """This process's part in its run; outside one, something that does nothing."""
    around = Surroundings.of()
    if around is None:
        return Outside(params or {})
    hosted = Hosted(around, params or {})
    hosted.live(os.environ)
    return hosted

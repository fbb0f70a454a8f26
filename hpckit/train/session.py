"""A training inside a run: it goes on where it stood, is saved, healed, and told about.

    run = hpckit.attach()
    run.register(model=model, optimizer=optimizer, schedule=schedule)
    for batch in run.batches(loader, epochs=run.params["epochs"]):
        loss = compute_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        run.step(optimizer, loss=loss)
        schedule.step()

All that changes state from outside happens between two passes of the loop's body: there no graph
is alive, and both optimizers of a GAN have stepped.
"""

from __future__ import annotations

import dis
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import islice
from types import FrameType
from typing import Any

from torch import Tensor

from hpckit.errors import UsageError
from hpckit.train import random_states
from hpckit.train.best import Mode, as_number
from hpckit.train.between import Between
from hpckit.train.feed import Feed
from hpckit.train.place import Place, Trail
from hpckit.train.pulse import AFTER, BETWEEN, STEP
from hpckit.train.surroundings import Surroundings


class Session(Between):
    """One process's part in a run: what `hpckit.attach()` gives inside one."""

    inside = True

    def __init__(self, surroundings: Surroundings, params: Mapping[str, Any]) -> None:
        super().__init__(surroundings, params)
        self._loops = 0
        self._epochs_running = False
        self._feeds: list[Feed] = []
        # Whether this epoch has had its loop; and whether that is going on.
        self._has_had = False
        self._is_inside = False
        # Loops of the program that are behind us are being passed over.
        self._is_behind = False

    @property
    def epoch_ends(self) -> bool:
        """Whether this pass is the last of its epoch: validate here, step epoch schedules here."""
        if self._feed is None or self._feed.length is None:
            raise UsageError(
                "run.epoch_ends: the loader does not know how many batches it has",
                "write `for epoch in run.epochs(n): for batch in run.batches(loader): ...`",
            )
        return self._feed.is_last

    # The loop.

    def epochs(self, number: int) -> Iterator[int]:
        """The epochs that are left; what comes after the inner loop belongs to the epoch."""
        if not self._enter(_whole(number, "epochs", least=0)):
            return
        self._epochs_running = True
        try:
            while self.place.epoch < number and not self.place.stopped:
                self._has_had = False
                yield self.place.epoch
                if not self._close_broken():
                    self._end_epoch()
        finally:
            self._epochs_running = False
        self._end_loop()

    def batches(
        self,
        loader: Iterable[Any],
        *,
        epochs: int | None = None,
        accumulate: int = 1,
        progress: bool | None = None,
    ) -> Iterator[Any]:
        """The batches that are left, from where the run stands.

        With `accumulate` each is a list of so many: the body is then one step of all of them.
        """
        _whole(accumulate, "accumulate", least=1)
        if not isinstance(loader, Iterable):
            kind = type(loader).__name__
            raise UsageError(f"run.batches needs a loader to go through, not {kind}")
        if self._is_inside:
            raise UsageError(
                "run.batches: another loop over run.batches is going on",
                "of two loaders at once take run.batches(zip(one, other)), or a list of both",
            )
        if progress is not None:
            self.teller.progress.wanted = progress and self.is_main
        feed = self._feed_of(loader)
        if self._epochs_running:
            if epochs is not None:
                raise UsageError("run.batches: inside run.epochs it takes no epochs")
            if self._has_had:
                raise UsageError(
                    "run.batches: this epoch has had its loop",
                    "an epoch has one; go through a validation's loader without run.batches",
                )
            self._has_had = True
            yield from self._one_epoch(feed, accumulate)
            return
        if epochs is None and self._loops:
            self.teller.once(
                "run.batches is called once more: in a loop over epochs of your own, what comes "
                "after it is done again at a restart; write `for epoch in run.epochs(n):`"
            )
        if not self._enter(1 if epochs is None else _whole(epochs, "epochs", least=0)):
            return
        assert self._epochs_wanted is not None
        while self.place.epoch < self._epochs_wanted and not self.place.stopped:
            yield from self._one_epoch(feed, accumulate)
            if not self.place.stopped:
                self._end_epoch()
        self._end_loop()

    def _feed_of(self, loader: Any) -> Feed:
        for feed in self._feeds:
            if feed.loader is loader:
                return feed
        self._feeds.append(Feed(loader))
        return self._feeds[-1]

    def _take_turn(self, feed: Feed) -> None:
        """Go through this one's loader; others rest, and go where nobody has their loader."""
        self._feed = feed
        feed.wake()
        self._feeds = [each for each in self._feeds if each is feed or each.rest()]

    def _close_feeds(self) -> None:
        for feed in self._feeds:
            feed.close()

    def _enter(self, epochs: int) -> bool:
        """Begin or go on with the program's next loop; not with one that is behind us."""
        self._begin()
        self._close_broken()
        loop, self._loops = self._loops, self._loops + 1
        self._is_behind = loop < self.place.loop
        if self._is_behind:
            return False
        if loop and loop == self.place.loop:
            # What the program does between its loops it has done to the state that was loaded.
            self._returning.once_more()
        if loop > self.place.loop:
            self.place, self._feed = Place(loop=loop, since=self.step_number), None
            self._is_open = False
            self.trail = Trail()
            self._keep("epoch", is_good=self._kept.is_calm(self.step_number))
        self._epochs_wanted = epochs
        self._ends.install()
        return True

    def _one_epoch(self, feed: Feed, accumulate: int) -> Generator[Any, None, None]:
        """The batches of the present epoch, and of one before it that a rollback leads to."""
        self._take_turn(feed)
        self._is_inside, self.phase = True, STEP
        try:
            while True:
                went_back = yield from self._passes(feed, self._open(feed), accumulate)
                if not went_back:
                    return
        except BaseException:
            feed.close()
            raise
        finally:
            self._is_inside, self.phase = False, BETWEEN

    def _open(self, feed: Feed) -> Iterator[Any]:
        place = self.place
        feed.skip = list(place.skip)
        if place.between is not None:
            feed.put(place.between)
            place.between = None
        batches = feed.epoch(place.epoch, start=place.taken, begun=place.begun)
        if self._random is not None:
            random_states.restore(self._random)
            self._random = None
        self._is_open = True
        return batches

    def _passes(
        self, feed: Feed, batches: Iterator[Any], accumulate: int
    ) -> Generator[Any, None, bool]:
        """Hand out batches, and do what is to be done after each pass; whether it went back."""
        # Of several passes that make one step, the first one's.
        first = feed.taken
        while True:
            began = time.perf_counter()
            taken = list(islice(batches, accumulate))
            if not taken:
                self.place.taken = feed.taken
                return False
            waited = time.perf_counter() - began
            for batch in taken:
                self._data.note(batch, waited / len(taken), feed.length)
            # Not at the end of the pass before: a schedule may have moved after that epoch.
            self._planned.look()
            # An epoch's last pass may have a validation in it, and no step.
            self.phase = BETWEEN if feed.is_last else STEP
            self._look_within()
            try:
                yield taken if accumulate > 1 else taken[0]
            except GeneratorExit:
                if _left_by_break():
                    self._broken = (feed, first)
                raise
            finally:
                self._look_away()
            self.phase = STEP
            is_step = self.stepper.has_stepped
            if self._between(feed, first):
                return True
            if self.place.stopped:
                return False
            first = feed.taken if is_step else first

    # The body.

    def step(
        self,
        optimizer: Any = None,
        *,
        loss: float | Tensor | None = None,
        scaler: Any = None,
        closure: Callable[[], Any] | None = None,
    ) -> None:
        """Measure, gate, clip, step: no gradient is zeroed here, and no schedule moved."""
        if self._keeper is None:
            self._without_batches(optimizer)
        if scaler is not None and all(each is not scaler for each in self._scalers()):
            if not hasattr(scaler, "is_enabled"):
                raise UsageError(f"run.step: scaler must be a GradScaler, not {scaler!r}")
            # Not yet: what a checkpoint has for it is another scale than this loss's.
            self._late_scaler = scaler
            self.teller.once(
                "warning: the scaler is not registered: after a restart its first step has "
                "another scale; run.register(..., scaler=scaler)"
            )
        if self.fault is not None:
            self._strike()
        self.stepper.step(optimizer, loss=loss, scaler=scaler, closure=closure)
        if self.stepper.has_all_stepped:
            # What comes after it, a validation maybe, and whoever leaves the loop is left alone.
            self._look_away()
        self.phase = AFTER

    def _strike(self) -> None:
        assert self.fault is not None
        optimizers = [each.optimizer for each in self.stepper.watched.values()]
        went_back = bool(self.healer.in_force)
        self.fault.strike(self.step_number, self.rank, went_back, optimizers)

    def _scalers(self) -> Iterable[Any]:
        return self.registry.of_kind("other").values()

    def _without_batches(self, optimizer: Any) -> None:
        """A loop of one's own: a pass is over when an optimizer's turn comes again."""
        self.teller.once(
            "this loop does not use run.batches: steps are watched and gated, but nothing is "
            "saved, and no rollback is possible; a relaunch begins where the program itself does"
        )
        stepper = self.stepper
        name = stepper.name_of(optimizer)
        if name in stepper.stepped:
            for incident in stepper.end():
                self.teller.incident(incident, self.around.segment)
            stepper.agreed.clear()

    def log(self, **values: float | Tensor) -> None:
        """Add numbers to this step's reading: `log(mel=loss_mel)` is train/mel."""
        if not self._is_behind:
            self.stepper.log(**values)

    def best(self, value: float | Tensor, *, mode: Mode = "min", name: str = "metric") -> bool:
        """Take in a validation's value; whether it is the best so far: then the state is kept."""
        if self._is_behind:
            return False
        try:
            number = as_number(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"run.best: {name} must be one number, not {value!r}") from error
        better = self.best_values.better(name, number, mode, self.step_number)
        self.stepper.log(**{f"val/{name}": number})
        if better:
            self.is_best = True
            self._why = "best" if self.is_main else self._why
        return better

    def save(self) -> None:
        """Ask for a checkpoint at the end of this pass."""
        if self.is_main:
            self._why = "request"

    def stop(self) -> None:
        """End the loop after this pass, as if all epochs were done; it stays so at a restart."""
        self.place.stopped = True


def _left_by_break() -> bool:
    """Whether the program has left its loop on purpose, and not by an error in its body.

    Both close the generator in the same way. A `break` or a `return` takes it off the program's
    stack by an instruction of its own; an error does so at the instruction that failed.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    if frame is None or frame.f_lasti < 0:
        return False
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] in ("POP_TOP", "POP_ITER")


def _whole(value: Any, name: str, *, least: int) -> int:
    """A count that a person gave."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} must be a whole number from {least} on, not {value!r}")
    return value

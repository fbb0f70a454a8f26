"""What Lightning itself has to go on with: its counters, its callbacks' state, the module's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from hpckit.train.tree import CannotSave, mapped

# Of a module's own additions to a checkpoint, what hpckit saves by itself.
OURS = ("state_dict", "epoch", "global_step")


class LightningState:
    """Registered with the session: taken with each snapshot, and put back with it."""

    def __init__(self, trainer: Any, callback: Any) -> None:
        self._trainer = trainer
        self._callback = callback
        # Before that, state is put back for good; afterwards, by a rollback.
        self.began = False
        self._is_between = True

    @contextlib.contextmanager
    def between_epochs(self) -> Iterator[None]:
        """One epoch is over with all that comes after it, and the next has not begun."""
        self._is_between = True
        yield
        self._is_between = False

    def state_dict(self) -> dict[str, Any]:
        trainer = self._trainer
        loops = trainer.fit_loop.state_dict()
        if self._is_between:
            # It may have been announced.
            for part in loops["epoch_progress"].values():
                part.update(dict.fromkeys(part, part["completed"]))
        return {
            "loops": loops,
            "between": self._is_between,
            "callbacks": self._callbacks(),
            "module": self._module(),
            "data": self._datamodule(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        trainer = self._trainer
        for callback in trainer.callbacks:
            if callback.state_key in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.state_key])
        module = trainer.lightning_module
        module.on_load_checkpoint({**state["module"], "state_dict": module.state_dict()})
        if trainer.datamodule is not None:
            trainer.datamodule.load_state_dict(state["data"])
        if self.began:
            self._count_again(state)
        else:
            self._go_on(state)

    def _go_on(self, state: dict[str, Any]) -> None:
        """Lightning goes on in an epoch's midst by itself; between two it would repeat things."""
        loop = self._trainer.fit_loop
        loop.load_state_dict(state["loops"])
        self._is_between = state["between"]
        if self._is_between:
            for each in _loops(loop):
                each._restarting = False
                each._loaded_from_state_dict = False
                each._resuming_from_checkpoint = False
            # No sanity check: what it needs was checked when the run began.
            loop.epoch_loop.val_loop._restarting = (
                state["loops"]["epoch_progress"]["total"]["completed"] > 0
            )

    def _count_again(self, state: dict[str, Any]) -> None:
        """Steps are counted as the schedules count them; batches are behind us."""
        epoch, saved = self._trainer.fit_loop.epoch_loop, state["loops"]
        automatic = epoch.automatic_optimization.optim_progress.optimizer
        was = saved["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
        for progress, kept in (
            (automatic.step, was["step"]),
            (automatic.zero_grad, was["zero_grad"]),
            (
                epoch.manual_optimization.optim_step_progress,
                saved["epoch_loop.manual_optimization.optim_step_progress"],
            ),
            (epoch.scheduler_progress, saved["epoch_loop.scheduler_progress"]),
        ):
            progress.total.load_state_dict(kept["total"])
        stepped = saved["epoch_loop.state_dict"]["_batches_that_stepped"]
        # Lightning adds this batch after its hooks.
        epoch._batches_that_stepped = stepped - state["between"]

    # What others add.

    def _callbacks(self) -> dict[str, Any]:
        found = {}
        for callback in self._trainer.callbacks:
            if callback is not self._callback and (state := callback.state_dict()):
                found[callback.state_key] = self._plain(state, type(callback).__name__)
        return {key: state for key, state in found.items() if state is not None}

    def _module(self) -> dict[str, Any]:
        trainer = self._trainer
        module = trainer.lightning_module
        about = {
            "state_dict": module.state_dict(),
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
        }
        module.on_save_checkpoint(about)
        added = {key: value for key, value in about.items() if key not in OURS}
        return self._plain(added, f"{type(module).__name__}.on_save_checkpoint") or {}

    def _datamodule(self) -> dict[str, Any]:
        data = self._trainer.datamodule
        if data is None:
            return {}
        return self._plain(data.state_dict(), f"{type(data).__name__}.state_dict") or {}

    def _plain(self, state: Any, whose: str) -> Any:
        try:
            return mapped(state, lambda each: each)
        except CannotSave as error:
            self._callback.run.teller.once(f"warning: the state of {whose} is not saved: {error}")
            return None


def _loops(loop: Any) -> Iterator[Any]:
    yield loop
    for each in vars(loop).values():
        if hasattr(each, "_restarting"):
            yield from _loops(each)

"""Lightning: `Trainer(callbacks=[HpckitCallback()])`, and the rest of the script as it is.

Inside a run every optimizer step is measured, clipped and gated, the state is saved and put back
after an explosion, and the next attempt goes on where this one stood. Outside nothing happens.
"""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpckit.errors import UsageError
from hpckit.integrations.hosted import Hosted, host
from hpckit.integrations.lightning_data import Loaders
from hpckit.integrations.lightning_state import LightningState

if TYPE_CHECKING or ("lightning.pytorch" not in sys.modules and "pytorch_lightning" in sys.modules):
    # Two packages, each with a Trainer of its own: the one that the script has imported.
    from pytorch_lightning import Callback
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        from pytorch_lightning import Callback

# These shard or step in ways of their own.
UNSUPPORTED = ("DeepSpeedStrategy", "FSDPStrategy", "XLAStrategy", "XLAFSDPStrategy")


class HpckitCallback(Callback):
    """Gives a run's training to hpckit.

    `params` are defaults that the run's own go over: read them in `callback.run.params`. `clip` is
    a norm, a `Clip`, or these by optimizer. `optimizers` names them, in configure_optimizers'
    order.
    """

    def __init__(
        self,
        *,
        params: Mapping[str, Any] | None = None,
        clip: Any = None,
        optimizers: Sequence[str] = (),
    ) -> None:
        self.run = host(params)
        self._clip = clip
        self._names = tuple(optimizers)

    @property
    def _session(self) -> Hosted | None:
        return self.run if isinstance(self.run, Hosted) else None

    # Beginning: all is there, and no loop has begun.

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        session = self._session
        if session is None:
            return
        strategy = type(trainer.strategy).__name__
        if strategy in UNSUPPORTED:
            raise UsageError(
                f"hpckit does not work with Lightning's {strategy}",
                "use one device, DDPStrategy or ModelParallelStrategy",
            )
        state = LightningState(trainer, self)
        session.register(clip=self._clip, model=pl_module, **_optimizers(trainer, self._names))
        for name, schedule in _numbered("schedule", _schedules(trainer)).items():
            session.register(**{name: schedule})
        session.register(scaler=_scaler(trainer), lightning=state)
        self._state, self._loaders = state, Loaders(trainer, session)
        if session.begin(self._loaders):
            # Whatever the script's ckpt_path says: the run has come further.
            trainer._checkpoint_connector._loaded_checkpoint = {}
        state.began = True

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self._session is not None:
            # Lightning's own handler, set by now, would end the loop unsaved.
            self._session.listen(trainer._signal_connector._original_handlers.get(signal.SIGTERM))
            self._loaders.is_training = True
            self._session.total_steps = _total_steps(trainer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        session = self._session
        if session is None:
            return
        session.put_random()
        with self._state.between_epochs():
            if session.place.taken:
                session.epoch_over()
            session.place.epoch = trainer.current_epoch

    # A step.

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        if self._session is not None:
            scaler = _scaler(trainer)
            scale = scaler._scale if scaler is not None and scaler.is_enabled() else None
            self._session.add_loss(loss.detach() if scale is None else loss.detach() / scale)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self._session is not None:
            scaler = _scaler(trainer)
            self._session.look(optimizer, scale=scaler.get_scale() if scaler is not None else None)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._session is not None:
            loop = trainer.fit_loop.epoch_loop
            validates = loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
            self._session.pass_done(
                may_save=not validates and not loop._num_ready_batches_reached()
            )

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self._session is not None and not trainer.sanity_checking:
            for name, value in trainer.callback_metrics.items():
                if name.startswith("val"):
                    self._session.log(**{f"val/{name[3:].lstrip('_/')}": value})

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._session is not None:
            with self._state.between_epochs():
                self._session.finish()


def _total_steps(trainer: Any) -> int | None:
    steps = trainer.estimated_stepping_batches
    # Of several optimizers each step counts for max_steps; here a pass is one.
    is_known = math.isfinite(steps) and (trainer.max_steps < 0 or len(trainer.optimizers) == 1)
    return int(steps) if is_known and steps > 0 else None


def _scaler(trainer: Any) -> Any:
    return getattr(trainer.precision_plugin, "scaler", None)


def _schedules(trainer: Any) -> list[Any]:
    return [each.scheduler for each in trainer.lr_scheduler_configs]


def _numbered(name: str, things: Sequence[Any]) -> dict[str, Any]:
    if len(things) == 1:
        return {name: things[0]}
    return {f"{name}_{index}": each for index, each in enumerate(things)}


def _optimizers(trainer: Any, names: Sequence[str]) -> dict[str, Any]:
    found = trainer.optimizers
    if not names:
        return _numbered("optimizer", found)
    if len(names) != len(found):
        raise UsageError(
            f"HpckitCallback(optimizers=...): {len(names)} names for {len(found)} optimizers",
            "name each optimizer of configure_optimizers, in its order",
        )
    return dict(zip(names, found, strict=True))

"""Hugging Face: `Trainer(callbacks=[HpckitCallback()])`, and the rest of the script as it is.

Inside a run every optimizer step is measured, clipped and gated, the state is saved and put back
after an explosion, and the next attempt goes on where this one stood. Outside nothing happens.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch.nn.utils import clip_grad_norm_
from transformers import Trainer, TrainerCallback

from hpckit.errors import UsageError
from hpckit.integrations.hosted import Hosted, host
from hpckit.integrations.huggingface_state import NAME, Counted, Resumed, Where
from hpckit.train import random_states
from hpckit.train.scaling import unscale


class HpckitCallback(TrainerCallback):
    """Gives a run's training to hpckit.

    `params` are defaults that the run's own go over: read them in `callback.run.params`. `clip` is
    a norm or a `Clip`.
    """

    def __init__(self, *, params: Mapping[str, Any] | None = None, clip: Any = None) -> None:
        self.run = host(params)
        self._clip = clip
        self._trainer: Any = None
        # Whether this step's gradients were measured, before the trainer clipped them.
        self._looked = False

    @property
    def _session(self) -> Hosted | None:
        return self.run if isinstance(self.run, Hosted) else None

    # Beginning.

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._session is not None:
            self._trainer = _calling_trainer()
            self._resumed = Resumed(self._trainer, self._session)
            self._where = Where(self._trainer, self._session)
            self._wrap()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        session = self._session
        if session is None:
            return
        trainer = self._trainer
        if trainer is None:
            raise UsageError(
                "HpckitCallback came too late: the trainer was made without it",
                "write Trainer(..., callbacks=[HpckitCallback()])",
            )
        if trainer.is_deepspeed_enabled:
            raise UsageError(
                "hpckit does not work with DeepSpeed: it steps in a way of its own",
                "train on one GPU or with DDP",
            )
        counted = Counted(trainer)
        session.register(
            clip=self._clip,
            model=trainer.model,
            optimizer=trainer.optimizer,
            schedule=trainer.lr_scheduler,
            scaler=trainer.accelerator.scaler,
            **{NAME: counted},
        )
        session.total_steps = state.max_steps if state.max_steps > 0 else None
        session.begin(self._where)
        session.listen()
        counted.began = True
        self._where.taken = session.place.taken

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        session = self._session
        if session is None:
            return
        if self._resumed.is_within:
            # Its order is drawn once more, from what it was drawn from.
            self._resumed.is_within = False
            assert session.place.begun is not None
            self._where.begun = session.place.begun["random"]
            random_states.restore(self._where.begun)
        else:
            session.put_random()
            if session.place.taken:
                session.epoch_over()
            self._where.taken, self._where.begun = 0, random_states.capture()
        session.opened()

    # A step.

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._session is not None and not self._looked:
            self._look()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        session = self._session
        if session is None:
            return
        self._looked = False
        is_last = self._where.taken == self._where.length
        if session.pass_done(may_save=not is_last and not control.should_evaluate):
            # Steps are counted from there again.
            control.should_training_stop = False

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        if self._session is not None:
            for name, value in (metrics or {}).items():
                if isinstance(value, (int, float)):
                    self._session.log(**{f"val/{name.removeprefix('eval_')}": value})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._session is not None:
            self._session.finish()

    # What the trainer does not tell its callbacks.

    def _wrap(self) -> None:
        """Hear of losses and batches, and of gradients before the trainer clips them."""
        trainer, session, where = self._trainer, self._session, self._where
        assert session is not None
        step, fetch, clip = (
            trainer.training_step,
            trainer.get_batch_samples,
            trainer._clip_grad_norm,
        )

        def training_step(*args: Any, **kwargs: Any) -> Any:
            loss = step(*args, **kwargs)
            session.add_loss(loss)
            return loss

        def clip_grad_norm(model: Any) -> Any:
            scaler = trainer.accelerator.scaler
            if scaler is None:
                norm = self._look()
                clip(model)
            else:
                unscale(scaler, trainer.optimizer.optimizer)
                norm = self._look()
                # Its own would unscale them once more.
                clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
            return norm

        trainer.training_step = training_step
        trainer.get_batch_samples = lambda *args: where.noted(lambda: fetch(*args))
        trainer._clip_grad_norm = clip_grad_norm

    def _look(self) -> float:
        session, trainer = self._session, self._trainer
        assert session is not None
        self._looked = True
        scaler = trainer.accelerator.scaler
        scale = scaler.get_scale() if scaler is not None else None
        return session.look(trainer.optimizer, scale=scale)


def _calling_trainer() -> Trainer:
    """The trainer that is being made: it tells its callbacks everything but itself."""
    frame = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Trainer):
            return found
        frame = frame.f_back  # type: ignore[assignment]
    raise UsageError(
        "HpckitCallback belongs to a transformers.Trainer",
        "write Trainer(..., callbacks=[HpckitCallback()])",
    )

"""What Hugging Face's trainer has to go on with, and how it is told where to."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from hpckit.errors import UsageError
from hpckit.integrations.hosted import Hosted
from hpckit.train.place import Place

NAME = "trainer"


class Counted:
    """The trainer's own state, as it writes it into its checkpoints."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        # Before that, the trainer has read it by itself; afterwards, it is gone back to.
        self.began = False

    def state_dict(self) -> dict[str, Any]:
        trainer = self._trainer
        found: dict[str, Any] = {}
        for each in [*trainer.callback_handler.callbacks, trainer.control]:
            if isinstance(each, ExportableState):
                found.setdefault(type(each).__name__, []).append(each.state())
        state = dataclasses.asdict(trainer.state)
        state["stateful_callbacks"] = {
            name: states if len(states) > 1 else states[0] for name, states in found.items()
        }
        return {"json": json.dumps(state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not self.began:
            return
        trainer = self._trainer
        step = json.loads(state["json"])["global_step"]
        trainer.state.global_step = trainer._globalstep_last_logged = step
        trainer._tr_loss = torch.zeros_like(trainer._tr_loss)


class Where:
    """Where the trainer stands in its data."""

    def __init__(self, trainer: Any, session: Hosted) -> None:
        self._trainer = trainer
        self._session = session
        self.taken = 0
        # The random states that the present epoch's order was drawn from.
        self.begun: dict[str, Any] = {}

    @property
    def length(self) -> int | None:
        try:
            return len(self._trainer.callback_handler.train_dataloader)
        except TypeError:
            return None

    def between(self) -> None:
        """The framework's own state says what its next epoch begins with."""

    def state_dict(self) -> dict[str, Any]:
        return {"random": self.begun}

    def noted(self, fetch: Callable[[], tuple[list[Any], Any]]) -> tuple[list[Any], Any]:
        """One step's batches."""
        began = time.perf_counter()
        batches, number = fetch()
        waited = time.perf_counter() - began
        for batch in batches:
            self._session.note_batch(batch, waited / len(batches), self.length)
        self.taken += len(batches)
        return batches, number


class Resumed:
    """Has the trainer go on as from a checkpoint of its own.

    Which epoch and batch to go on with it wants to know before it has made its optimizer: a folder
    tells it, that holds its state and nothing else. All else the session puts back.
    """

    def __init__(self, trainer: Any, session: Hosted) -> None:
        if not hasattr(trainer, "_init_training_state"):
            import transformers

            raise UsageError(
                f"hpckit needs a newer transformers than {transformers.__version__}",
                "pip install 'transformers>=5.20'",
            )
        self._session = session
        self._folder: Path | None = None
        self._place = Place()
        # The next epoch to begin is one that was left in its midst.
        self.is_within = False
        self._train = trainer.train
        self._begin = trainer._init_training_state
        self._load = trainer._load_from_checkpoint
        self._load_random = trainer._load_rng_state
        trainer.train = self._trained
        trainer._init_training_state = self._begun
        trainer._load_from_checkpoint = self._loaded
        trainer._load_rng_state = self._random_loaded

    def _trained(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        own = self._session.choose()
        if own is None:
            return self._train(resume_from_checkpoint, *args, **kwargs)
        self._place = Place.of(own["place"])
        self.is_within = self._place.taken > 0
        self._folder = Path(tempfile.mkdtemp(prefix="hpckit-"))
        try:
            state = own["items"][NAME]["state"]["json"]
            (self._folder / TRAINER_STATE_NAME).write_text(state, encoding="utf-8")
            # Whatever the script says: the run has come further.
            return self._train(str(self._folder), *args, **kwargs)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _is_ours(self, folder: Any) -> bool:
        return self._folder is not None and folder == str(self._folder)

    def _begun(self, *args: Any, **kwargs: Any) -> Any:
        # By the steps alone it would be another place, once batches were left behind.
        found = self._begin(*args, **kwargs)
        return found if self._folder is None else (self._place.epoch, self._place.taken)

    def _loaded(self, folder: Any, *args: Any, **kwargs: Any) -> Any:
        return None if self._is_ours(folder) else self._load(folder, *args, **kwargs)

    def _random_loaded(self, folder: Any) -> None:
        if self._is_ours(folder):
            self._session.put_random()
        else:
            self._load_random(folder)

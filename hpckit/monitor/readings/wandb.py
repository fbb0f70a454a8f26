"""Readings in Weights & Biases, under the same names; `wandb` comes with the training."""

from __future__ import annotations

import importlib
from typing import Any

from hpckit.monitor.incident import Incident
from hpckit.monitor.readings.background import Background, Item
from hpckit.monitor.readings.chosen import Chosen


class WandbSink(Background):
    """Draws readings in one W&B run for all attempts: the one with this id.

    The curves are over `step`, a value like the others: W&B's own steps only go forward, and
    would lose what is done again after a rollback.
    """

    name = "W&B"

    def __init__(self, *, id: str, every: int = 1, **settings: Any) -> None:
        """`settings` are those of wandb.init: project, name, config, dir, mode."""
        self._settings = {"id": id, "resume": "allow", **settings}
        self._chosen = Chosen(every)
        self._wandb: Any = None
        self._run: Any = None
        super().__init__()

    def consume(self, batch: list[Item]) -> None:
        if batch and self._run is None:
            # Seconds, and a network: on the sink's own thread.
            self._wandb = importlib.import_module("wandb")
            self._run = self._wandb.init(**self._settings)
            self._run.define_metric("*", step_metric="step")
        for item in batch:
            if isinstance(item, Incident):
                level = self._wandb.AlertLevel.WARN
                self._run.alert(title=item.kind, text=str(item), level=level)
                continue
            for reading in self._chosen.take(item):
                self._run.log({"step": reading.step, **reading.values})

    def finish(self) -> None:
        if self._run is not None:
            self._run.finish()

"""Readings in MLflow, under the same names; `mlflow` comes with the training."""

from __future__ import annotations

import importlib
import time
from typing import Any

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.background import Background, Item
from hpckit.monitor.readings.chosen import Chosen

TAG = "hpckit.run"
# What the server takes at once.
MOST = 1000


class MlflowSink(Background):
    """Draws readings in one MLflow run for all attempts: the one that bears this id as a tag."""

    name = "MLflow"

    def __init__(
        self, *, id: str, experiment: str = "Default", uri: str | None = None, every: int = 1
    ) -> None:
        """`uri`: the tracking server; by default what MLFLOW_TRACKING_URI says."""
        self._id, self._experiment, self._uri = id, experiment, uri
        self._chosen = Chosen(every)
        self._client: Any = None
        self._run = ""
        super().__init__()

    def consume(self, batch: list[Item]) -> None:
        if batch and self._client is None:
            self._client = importlib.import_module("mlflow").MlflowClient(self._uri)
            self._run = self._found()
        metrics = []
        for item in batch:
            if isinstance(item, Incident):
                self._client.set_tag(self._run, f"incident {item.step} {item.kind}", str(item))
            else:
                metrics += [m for reading in self._chosen.take(item) for m in _metrics(reading)]
        for begin in range(0, len(metrics), MOST):
            self._client.log_batch(self._run, metrics=metrics[begin : begin + MOST])

    def finish(self) -> None:
        if self._client is not None:
            self._client.set_terminated(self._run)

    def _found(self) -> str:
        """The run of an earlier attempt, or a new one."""
        known = self._client.get_experiment_by_name(self._experiment)
        number = known.experiment_id if known else self._client.create_experiment(self._experiment)
        runs = self._client.search_runs([number], f"tags.`{TAG}` = '{self._id}'")
        run = runs[0] if runs else self._client.create_run(number, tags={TAG: self._id})
        self._client.update_run(run.info.run_id, status="RUNNING")
        return str(run.info.run_id)


def _metrics(reading: Reading) -> list[Any]:
    entities = importlib.import_module("mlflow.entities")
    at = round(1000 * (time.time() if reading.time is None else reading.time))
    return [entities.Metric(k, v, at, reading.step) for k, v in reading.values.items()]

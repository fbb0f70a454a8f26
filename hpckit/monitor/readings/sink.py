"""Where readings and incidents go: a folder on disk, TensorBoard, W&B, MLflow, or one's own."""

from __future__ import annotations

from typing import Protocol

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading


class Sink(Protocol):
    """Takes what a training measures; `write` is called every step and must cost nothing."""

    def write(self, reading: Reading) -> None:
        """Take a step's reading, whose values do not change any more."""

    def incident(self, incident: Incident) -> None:
        """Take what was found wrong."""

    def flush(self) -> None:
        """Return once all that was taken before has arrived."""

    def close(self) -> None:
        """Flush and let go; what comes later is passed over."""

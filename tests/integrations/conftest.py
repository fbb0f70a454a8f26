"""Each test's training is as if in a process of its own, in a run or outside of one."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hpckit.checkpoint.store import Store
from hpckit.ledger import Event
from hpckit.monitor.readings.reader import read_readings
from hpckit.run import open_run
from tests.integrations.watching import Told, Watching, watchings
from tests.train.bare import bare_run, environment


class Life:
    """A run, and the trainings that belong to it one after the other."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.patch = patch
        self.run = folder / "run"

    def submit(self, **spec: Any) -> Path:
        return bare_run(self.run, **spec)

    def start(self, attempt: int | None) -> None:
        """What the next training finds around it; None: no run."""
        from hpckit.integrations.hosted import Hosted

        self.patch.setattr(Hosted, "begun", False)
        for name in [each for each in os.environ if each.startswith("HPCKIT_")]:
            self.patch.delenv(name)
        if attempt is not None:
            for name, value in environment(self.run, attempt=attempt).items():
                self.patch.setenv(name, value)

    @property
    def steps(self) -> list[int]:
        """Of the checkpoints that count."""
        return [each.step for each in Store.of_run(self.run).on_branch()]

    def events(self, kind: str) -> list[Event]:
        run = open_run(self.run)
        assert run is not None
        return [each for each in run.ledger().events() if each.kind == kind]

    def readings(self, attempt: int = 1) -> list[Any]:
        return list(read_readings(self.run / f"attempts/{attempt:03d}/readings/launch-1"))


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Iterator[Life]:
    before = signal.getsignal(signal.SIGTERM)
    logging.disable(logging.WARNING)
    yield Life(tmp_path, monkeypatch)
    logging.disable(logging.NOTSET)
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def watching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> Iterator[Watching]:
    torch.manual_seed(0)
    logging.disable(logging.WARNING)
    yield from watchings(tmp_path, monkeypatch)
    logging.disable(logging.NOTSET)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    return Told(capsys)

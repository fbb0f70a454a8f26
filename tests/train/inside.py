"""Trainings inside a bare run, in the test's own process: several lives of one run, one by one."""

from __future__ import annotations

import atexit
import json
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import hpckit
from hpckit.checkpoint.manifest import Checkpoint
from hpckit.checkpoint.store import Store
from hpckit.ledger import Event, Ledger
from hpckit.train.session import Session
from tests.train.bare import bare_run, environment

# Ten batches of a few numbers: an epoch costs some milliseconds.
BATCHES = 10
# What comes back of a snapshot of step 20 when 35 strikes: confirmed, and before the onset.
STRUCK, ONSET, BACK = 35, 25, 20


class Lives:
    """Begins the lives of one run; each ends when the next one begins."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.sessions: list[Session] = []
        self.attempt = 0
        self.spec: dict[str, Any] = {"checkpoint": {"every": "20 steps", "confirm_steps": 10}}

    def begin(
        self,
        *,
        attempt: int | None = None,
        launch: int = 1,
        params: dict[str, Any] | None = None,
        given: dict[str, Any] | None = None,
        **spec: Any,
    ) -> Session:
        """The next attempt, with a spec that may be another one.

        `params` are the script's defaults, `given` the spec's.
        """
        self.end()
        self.spec |= spec
        if given is not None:
            self.spec["params"] = given
        self.attempt = attempt if attempt is not None else self.attempt + 1
        bare_run(self.folder, **self.spec)
        for name, value in environment(self.folder, attempt=self.attempt, launch=launch).items():
            self.monkeypatch.setenv(name, value)
        run: Session = hpckit.attach(params)
        self.sessions.append(run)
        return run

    def other(self) -> Lives:
        """Another run, beside this one."""
        made = Lives(self.folder.with_name(f"{self.folder.name}-other"), self.monkeypatch)
        made.sessions = self.sessions
        return made

    def end(self) -> None:
        for each in self.sessions:
            # A process that died in the midst of its loop, and not one that left it by break.
            each._broken = None
            each.close()
            atexit.unregister(each.close)
        self.sessions.clear()

    @property
    def store(self) -> Store:
        return Store.of_run(self.folder)

    def wait(self) -> Store:
        """The checkpoints, when the last one is written."""
        for each in self.sessions:
            if each._keeper is not None:
                each._keeper.saver.wait()
        return self.store

    def checkpoint(self, step: int) -> Checkpoint:
        """The newest one of a step."""
        return [each for each in self.wait().all() if each.step == step][-1]

    def events(self, kind: str) -> list[Event]:
        return [each for each in Ledger(self.folder / "ledger").events() if each.kind == kind]

    def state(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """All that a checkpoint holds, as anybody may read it."""
        parts = [
            torch.load(checkpoint.path / name, weights_only=True)
            for name in ("state.pt", "rank-0.pt")
        ]
        found: dict[str, Any] = {**parts[0], "own": parts[1]}
        return found


def lives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lives]:
    """One run's; signals and exits are left as they were found."""
    # As often as an epoch ends here.
    monkeypatch.setattr("hpckit.train.keeper.MEMORY_EVERY", 10)
    # A last save that fails is tried again after a while.
    monkeypatch.setattr("hpckit.train.saving.PATIENCE_S", 0.0)
    before = signal.getsignal(signal.SIGTERM)
    made = Lives(folder, monkeypatch)
    try:
        yield made
    finally:
        made.end()
        signal.signal(signal.SIGTERM, before)


def data(batches: int = BATCHES, size: int = 8) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batches * size, 4, generator=generator)
    return TensorDataset(x, x @ torch.tensor([[1.0], [2.0], [-1.0], [0.5]]))


class Training:
    """A small training of the flat form."""

    def __init__(
        self,
        run: Any,
        *,
        epochs: int = 10,
        batches: int = BATCHES,
        clip: Any = None,
        lr: float = 0.01,
        schedule: Callable[[Any], Any] | None = lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.99**step
        ),
        model: Callable[[], nn.Module] | None = None,
        optimizer: Callable[[Any], Any] | None = None,
        **more: Any,
    ) -> None:
        torch.manual_seed(0)
        self.run = run
        self.epochs = epochs
        self.model = (model or _model)()
        make = optimizer or (lambda p: torch.optim.AdamW(p, lr=lr))
        self.optimizer = make(self.model.parameters())
        self.schedule = schedule(self.optimizer) if schedule is not None else None
        self.loader = DataLoader(data(batches), batch_size=8, shuffle=True)
        self.more = more
        # (step, first number of the batch) of every pass.
        self.seen: list[tuple[int, float]] = []
        run.register(
            clip=clip, model=self.model, optimizer=self.optimizer, schedule=self.schedule, **more
        )

    def go(
        self,
        factor: Callable[[int], float] = lambda step: 1.0,
        each: Callable[[int], None] = lambda step: None,
        after: Callable[[int], None] = lambda step: None,
    ) -> Training:
        """Train; the loss is multiplied by `factor`, `each` is called before it, `after` last."""
        run = self.run
        for x, y in run.batches(self.loader, epochs=self.epochs):
            step = run.step_number
            self.seen.append((step, float(x[0, 0])))
            each(step)
            self.loss = (self.model(x) - y).square().mean() * factor(step)
            self.optimizer.zero_grad()
            self.loss.backward()
            run.step(self.optimizer, loss=self.loss)
            if self.schedule is not None:
                self.schedule.step()
            after(step)
        return self

    def weights(self) -> dict[str, Tensor]:
        return {name: each.clone() for name, each in self.model.state_dict().items()}

    @property
    def steps(self) -> list[int]:
        return [step for step, _ in self.seen]


def _model() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1)
    )


class Broken:
    """Makes the loss NaN at given steps, each so many times."""

    def __init__(self, *steps: int, times: int = 1) -> None:
        self.left = dict.fromkeys(steps, times)

    def __call__(self, step: int) -> float:
        if self.left.get(step, 0) > 0:
            self.left[step] -= 1
            return math.nan
        return 1.0


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that hpckit has said since it was last asked."""
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("hpckit")]


def run_json(folder: Path, **more: Any) -> None:
    """Say something of a run that only a submission says."""
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def strike(run: Any, *steps: int, onset: int | None = None, **more: Any) -> None:
    """Have the watch see an incident of the given steps that asks to go back; once each."""
    from hpckit.monitor.incident import Incident

    lookout, left = run.stepper.lookout, list(steps)
    look = lookout.observe

    def observe(reading: Any, *rest: Any) -> list[Any]:
        found = look(reading, *rest)
        if reading.step in left:
            left.remove(reading.step)
            about = {"kind": "explosion", "answer": "act", "said": "struck", "optimizer": "main"}
            since = reading.step if onset is None else onset
            found.append(Incident(**{**about, "step": reading.step, "onset": since, **more}))
        return found

    lookout.observe = observe


class Ended(Exception):
    """The program dies here."""


def ends_at(step: int) -> Any:
    def each(now: int) -> None:
        if now == step:
            raise Ended

    return each


def patient(life: Lives) -> None:
    """Every checkpoint that is due finds an idle disk."""

    def wait(session: Any) -> None:
        session._keeper.saver.wait()

    life.monkeypatch.setattr("hpckit.train.session.Session._show", wait)


def straight(life: Lives, **settings: Any) -> Training:
    """The same training without any run."""
    from hpckit.train.outside import Outside

    return Training(Outside({}), **settings).go()

"""A process that is attached, as a test's own: torch is told by hooks, and forgets them after."""

from __future__ import annotations

import atexit
import gc
import importlib
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from hpckit.integrations.attached.attached import Attached
from hpckit.integrations.attached.hooks import Hooks
from hpckit.ledger import Event, Ledger
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.reader import read_readings
from hpckit.train.surroundings import Surroundings
from tests.train.bare import bare_run, environment

PROGRAM = {"python": "train.py", "attach": "optimizers"}
# Torch gives its module's name to nobody else.
OPTIMIZERS: Any = importlib.import_module("torch.optim.optimizer")
BOUND = [
    (GradScaler, "step", GradScaler.step),
    (torch.autograd, "backward", torch.autograd.backward),
    (torch.nn.utils, "clip_grad_norm_", torch.nn.utils.clip_grad_norm_),
    (torch.nn.utils.clip_grad, "clip_grad_norm_", torch.nn.utils.clip_grad_norm_),
]
FILES = {"files": ["cp/step_{step}"]}


class Watching:
    """A run, and one program after the other that is watched in it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.patch = patch
        self.attached: Attached | None = None
        self._hooks: Hooks | None = None

    def begin(self, *, launch: int = 1, **spec: Any) -> Attached:
        """The program has imported torch; what is made from now on is its own."""
        self.end()
        # Whatever the tests' process holds is out of the collector's sight, as in one of its own.
        gc.freeze()
        bare_run(self.folder, program=PROGRAM, **spec)
        variables = {"WORLD_SIZE": "1", "RANK": "0", **environment(self.folder, launch=launch)}
        for name, value in variables.items():
            self.patch.setenv(name, value)
        around = Surroundings.of()
        assert around is not None
        # Whatever is bound goes with the test; what an earlier program of it has bound goes now.
        for place, name, value in BOUND:
            self.patch.setattr(place, name, value)
        for when in ("pre", "post"):
            self.patch.setattr(OPTIMIZERS, f"_global_optimizer_{when}_hooks", OrderedDict())
        self.attached = Attached(around)
        self._hooks = Hooks(self.attached)
        self._hooks.bind()
        return self.attached

    def end(self) -> None:
        """The program's interpreter ends."""
        if self._hooks is not None:
            self._hooks._finish()
            atexit.unregister(self._hooks._finish)
            assert self.attached is not None
            if self.attached.meeting.answers is not None:
                # At an exit they do so by themselves.
                for sink in self.attached.meeting.answers.onlooker.sinks:
                    sink.close()
            self._hooks = None
            for when in ("pre", "post"):
                getattr(OPTIMIZERS, f"_global_optimizer_{when}_hooks").clear()

    def readings(self, launch: int = 1) -> list[Reading]:
        self.end()
        return list(read_readings(self.folder / f"attempts/001/readings/launch-{launch}"))

    def events(self, kind: str) -> list[Event]:
        return [each for each in Ledger(self.folder / "ledger").events() if each.kind == kind]

    def values(self, name: str) -> list[float | None]:
        return [each.get(name) for each in self.readings()]


class NoTimer:
    """Nobody ends the tests' own process."""

    def __init__(self, *_: Any) -> None:
        self.daemon = False

    def start(self) -> None:
        pass


def watchings(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Watching]:
    """As if nothing else were in this process."""
    patch.setattr("hpckit.integrations.attached.meeting.ITS_OWN", "nobody.imports.this")
    threading = SimpleNamespace(
        Timer=NoTimer, current_thread=lambda: None, main_thread=lambda: None
    )
    patch.setattr("hpckit.integrations.attached.ending.threading", threading)
    made = Watching(folder / "run", patch)
    try:
        yield made
    finally:
        made.end()
        gc.unfreeze()
        for name in [each for each in os.environ if each.startswith("HPCKIT_")]:
            patch.delenv(name)


def batch(step: int) -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(step))


def train(
    model: nn.Module,
    optimizer: Optimizer,
    steps: int = 20,
    *,
    factor: Callable[[int], float] = lambda step: 1.0,
    closure: bool = False,
    scaler: Any = None,
    clip: float | None = None,
) -> None:
    """A loop as people write it."""

    def backward(step: int) -> Tensor:
        optimizer.zero_grad()
        loss = model(batch(step)).square().mean() * factor(step)
        (loss if scaler is None else scaler.scale(loss)).backward()
        return loss

    for step in range(steps):
        if closure:
            optimizer.step(lambda step=step: backward(step))
            continue
        backward(step)
        if scaler is not None and clip is not None:
            scaler.unscale_(optimizer)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()


def at(step: int, value: float = math.nan) -> Callable[[int], float]:
    return lambda now: value if now == step else 1.0


class Told:
    """What hpckit said on stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self) -> list[str]:
        lines = self._capsys.readouterr().err.splitlines()
        return [line.removeprefix("hpckit: ") for line in lines if line.startswith("hpckit: ")]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

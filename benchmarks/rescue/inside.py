"""A training inside a run: hpckit.attach(), with the environment that a launch gives its ranks."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import hpckit
from benchmarks.rescue.loop import Outcome, evaluated
from benchmarks.rescue.training import Training
from hpckit import run as runs
from hpckit.files import write_json
from hpckit.monitor.reading import GATED, Reading
from hpckit.monitor.readings.sink import Sink
from hpckit.spec import spec_from_json

# The remedy of each numeric kind, with nothing changed.
UNCHANGED = {
    kind: {"do": "rollback", "change": {}, "skip_batches": 100, "limit": 3}
    for kind in ("explosion", "non_finite", "loss_lost")
}


@contextlib.contextmanager
def bare_run(spec: Mapping[str, Any]) -> Iterator[Path]:
    """A run's directory as a submission leaves it, with its first attempt begun; then it is gone.

    What a session hangs onto the process, it is freed of: more runs come in the same one.
    """
    before = signal.getsignal(signal.SIGTERM)
    with tempfile.TemporaryDirectory(prefix="hpckit-rescue-") as root:
        folder = Path(root) / "rescue" / "run"
        (folder / "attempts" / "001" / "logs").mkdir(parents=True)
        whole = {"name": "rescue", "program": {"command": "none"}, **spec}
        resolved = spec_from_json(whole)
        write_json(folder / "spec.json", resolved.to_json())
        identity = runs.identity(
            run_id="rescue/run", name="rescue", scheduler="local", params=dict(resolved.params)
        )
        write_json(folder / runs.IDENTITY, identity)
        about = {"HPCKIT_RUN_DIR": str(folder), "HPCKIT_RUN": "rescue/run", "HPCKIT_ATTEMPT": "1"}
        others = {k: v for k, v in os.environ.items() if not k.startswith("HPCKIT_")}
        with mock.patch.dict(os.environ, {**others, **about}, clear=True):
            try:
                yield folder
            finally:
                signal.signal(signal.SIGTERM, before)


def spec_of(training: Training, heal: Mapping[str, Any]) -> dict[str, Any]:
    """What a person would have written for this training."""
    clip = {} if training.clip is None else {"clip": training.clip}
    return {"monitor": {"optimizers": dict.fromkeys(training.players, clip)}, "heal": heal}


def train_inside(training: Training, heal: Mapping[str, Any]) -> Outcome:
    """To the end, or to where hpckit stops."""
    outcome = Outcome()
    with bare_run(spec_of(training, heal)) as folder, _quietly(folder / "said"):
        session = hpckit.attach()
        try:
            _loop(session, training, outcome)
            outcome.final = evaluated(training)
        except SystemExit as stop:
            outcome.stopped = str(stop)
        finally:
            session.close()
            atexit.unregister(session.close)
        outcome.steps = session.step_number
        _read(folder, outcome)
    return outcome


class Held(Sink):
    """Counts updates that were held back one by one, as the rivals' are, and those undone."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        # Steps that were applied, of the present branch.
        self.applied: list[int] = []
        self.last = -1

    def write(self, reading: Reading) -> None:
        gates = [value for name, value in reading.values.items() if name.startswith(f"{GATED}/")]
        held = sum(gate > 0 for gate in gates)
        self.outcome.skipped += held
        if reading.step <= self.last:
            kept = [step for step in self.applied if step < reading.step]
            self.outcome.undone.append(len(self.applied) - len(kept))
            self.applied = kept
        self.last = reading.step
        if not held:
            self.applied.append(reading.step)


def _loop(session: Any, training: Training, outcome: Outcome) -> None:
    players = training.players
    session.register(
        **training.models,
        **{name: player.optimizer for name, player in players.items()},
        **{f"{name}_schedule": player.schedule for name, player in players.items()},
    )
    session.stepper.sinks.append(Held(outcome))
    for batch in session.batches(training.batches, epochs=training.epochs):
        for player in players.values():
            player.optimizer.zero_grad()
            loss = player.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            session.step(player.optimizer, loss=loss)
        for player in players.values():
            player.schedule.step()
        if session.step_number + 1 == training.steps:
            session.stop()


def _read(folder: Path, outcome: Outcome) -> None:
    """What was done, by the run's ledger."""
    run = runs.open_run(folder)
    assert run is not None
    for event in run.ledger().events():
        if event.kind == "rollback":
            outcome.replayed.append(event.data["from_step"] - event.data["step"])
        if event.kind == "incident":
            found = event.data["incident"]
            outcome.incidents.append(f"{found['kind']} ({found['answer']}) at {found['step']}")


@contextlib.contextmanager
def _quietly(path: Path) -> Iterator[None]:
    """What a run says goes into a file."""
    with path.open("w") as file, contextlib.redirect_stderr(file):
        yield

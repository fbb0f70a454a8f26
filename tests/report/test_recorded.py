"""What a training writes down for its report: bounds, memory, parameters, the environment."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import torch
from torch import nn

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.columns import read_columns
from hpckit.run import Run
from hpckit.submission.origin import commit_of
from hpckit.train import Stepper


def readings_of(run: Run) -> Path:
    return run.dir / "attempts/001/readings/launch-1"


def test_readings_tell_what_is_usual_and_what_is_held_back(healed: Run) -> None:
    columns = read_columns([readings_of(healed)])
    _, norms = columns.values["grad/norm/generator"]
    rows, limits = columns.values["grad/limit/generator"]
    _, usual = columns.values["grad/usual/generator"]
    _, gated = columns.values["grad/gated/generator"]
    assert len(rows) > 400
    # The gate did what the limit says, but where another optimizer's held the pass back.
    over = norms[rows] > limits
    assert over.any()
    assert (gated[rows][over] == 1).all()
    assert ((usual > 0.5) & (usual < 3) & (limits > 7 * usual)).all()


def test_memory_is_looked_at_once_a_second_and_not_more(healed: Run) -> None:
    columns = read_columns([readings_of(healed)])
    rows, host = columns.values["memory/host"]
    assert 0.05 < host.min() < host.max() < 60
    times = columns.time[rows]
    assert (times[1:] - times[:-1] > 0.9).all()


class Kept:
    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.incidents: set[int] = set()

    def write(self, reading: Reading) -> None:
        self.readings.append(reading)

    def incident(self, incident: Incident) -> None:
        self.incidents.add(incident.step)

    def flush(self) -> None: ...


def test_parameters_are_told_often_at_first_and_while_a_norm_rises() -> None:
    torch.manual_seed(0)
    model, sink = nn.Linear(4, 4), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    stepper = Stepper(model=model, optimizers=optimizer, sinks=[sink])  # type: ignore[list-item]
    for step in range(1200):
        # Half the way to the gate, which stands at eight times the usual.
        scale = 5.0 if step == 1111 else 1.0
        loss = scale * model(torch.ones(1, 4)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        stepper.step(loss=loss)
        stepper.end()
    stepper.finish()
    told = {each.step for each in sink.readings if each.parameters}
    assert told - sink.incidents == {*range(0, 1000, 10), 1000, 1100, 1111}


def test_an_attempt_and_a_launch_tell_their_environment(healed: Run) -> None:
    folder = healed.dir / "attempts/001/environment"
    worker = json.loads((folder / "worker.json").read_text())
    launch = json.loads((folder / "launch-1.json").read_text())
    assert worker["cpus"] >= 1
    assert worker["source"].endswith("/job")
    assert launch["torch"] == torch.__version__
    assert launch["processes"] == 1
    assert "numpy" in launch["packages"]


def test_the_commit_of_the_jobs_folder_is_known(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert commit_of(tmp_path) is None
    git("init", "-q")
    (tmp_path / "train.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD")
    assert commit_of(tmp_path) == commit
    (tmp_path / "train.py").write_text("2")
    assert commit_of(tmp_path) == f"{commit}-dirty"


def test_bounds_are_unknown_before_anything_is_usual() -> None:
    from hpckit.monitor.lookout import Lookout

    usual, limit = Lookout().bounds("main")
    assert math.isnan(usual)
    assert limit == math.inf

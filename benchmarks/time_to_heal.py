"""From the incident to the next applied step, beside what requeues, on the same real Slurm.

    python -m benchmarks.time_to_heal

Five ways for one small training (torch is imported, a step takes 20 ms): hpckit's rollback in
process, its relaunch, its next link; submitit's `checkpoint()`, and Lightning's own requeue. Each
program writes down when each of its steps was applied. What a program needs to start is measured
in its first life and told apart: nobody can spare it.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hpckit.devcluster import DevCluster
from hpckit.files import write_json
from hpckit.ledger import Ledger
from hpckit.rehearsed import FAULT

STEP_S = 0.02
AT = 100
LONGEST_S = 300.0
TRAINER = """
import time
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import TensorDataset
import hpckit.train

class Small(hpckit.train.Trainer):
    epochs = 10_000
    progress = False
    def build(self):
        torch.set_num_threads(1)
        points = torch.randn(320, 4)
        self.model = self.prepare(nn.Linear(4, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.loader = self.make_loader(TensorDataset(points, points.sum(1, True)), batch_size=4)
    def loss(self, batch):
        time.sleep(STEP_S)
        points, targets = batch
        with open("times", "a") as stream:
            stream.write(f"{time.time()}\\n")
        return (self.model(points) - targets).square().mean()
""".replace("STEP_S", str(STEP_S))
SUBMITIT = """
import sys, time
import submitit

class Small:
    def __init__(self, step=0):
        self.step = step
    def __call__(self):
        import torch
        weight = torch.zeros(4, requires_grad=True)
        while True:
            time.sleep({step_s})
            (weight.sum() - 1).square().backward()
            self.step += 1
            with open("{folder}/times", "a") as stream:
                stream.write(f"{{time.time()}}\\n")
    def checkpoint(self):
        return submitit.helpers.DelayedSubmission(Small(self.step))

executor = submitit.SlurmExecutor("{folder}/submitit", max_num_timeout=3)
executor.update_parameters(time=60, mem="1G", nodes=1, job_name="rival-submitit")
print(executor.submit(Small()).job_id)
"""
LIGHTNING = """
import signal, time
import torch
import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import SLURMEnvironment
from torch.utils.data import DataLoader, TensorDataset

class Small(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Linear(4, 1)
    def training_step(self, batch, _):
        time.sleep({step_s})
        with open("{folder}/times", "a") as stream:
            stream.write(f"{{time.time()}}\\n")
        return self.model(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)

torch.set_num_threads(1)
trainer = pl.Trainer(
    max_epochs=1000, accelerator="cpu", logger=False, enable_progress_bar=False,
    enable_model_summary=False, default_root_dir="{folder}",
    plugins=[SLURMEnvironment(requeue_signal=signal.SIGUSR1)],
)
trainer.fit(Small(), DataLoader(TensorDataset(torch.randn(320, 4)), batch_size=4))
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="heal-", dir="/tmp") as name:
        folder = Path(name)
        cluster = DevCluster(folder / "cluster")
        cluster.up()
        os.environ["SLURM_CONF"] = cluster.env()["SLURM_CONF"]
        try:
            _all(folder)
        finally:
            subprocess.run(["scancel", "--me"], check=False)
            cluster.down()


def _all(folder: Path) -> None:
    ways: dict[str, Callable[[Path], tuple[float, float]]] = {
        "hpckit: rollback in process": lambda place: hpckit(place, "explosion", ""),
        "hpckit: relaunch": lambda place: hpckit(place, "crash", ""),
        "hpckit: next link": lambda place: hpckit(place, "crash", "heal: {crash: {do: resubmit}}"),
        "submitit: checkpoint() and requeue": submitit,
        "Lightning: requeue": lightning,
    }
    print(f"{'way':<38}{'to the next step':>18}{'own start':>12}{'beyond it':>12}")
    for way, measure in ways.items():
        place = folder / way.replace(" ", "-").replace(":", "").replace("()", "")
        place.mkdir()
        took, start = measure(place)
        beyond = max(0.0, took - start) if "rollback" not in way else took
        print(f"{way:<38}{took:>16.2f} s{start:>10.2f} s{beyond:>10.2f} s", flush=True)


def hpckit(place: Path, kind: str, line: str) -> tuple[float, float]:
    """A fault at a step: from its last step before to its first one after."""
    (place / "train.py").write_text(TRAINER)
    (place / "job.yaml").write_text(
        "name: heal\nprogram: {trainer: train.py:Small}\n"
        "resources: {memory: 1G, time: 1h, cpus_per_node: 2}\n"
        f"checkpoint: {{every: 20 steps, confirm_steps: 20}}\n{line}\n"
    )
    began = time.time()
    done = _call(place, "submit", "--json")
    folder = Path(json.loads(done)["runs"][0]["dir"])
    write_json(folder / FAULT, {"kind": kind, "step": AT})
    times = folder / "work" / "times"
    struck = "rollback" if kind == "explosion" else "restart"
    ledger = Ledger(folder / "ledger")
    _until(lambda: any(event.kind == struck for event in ledger.events()))
    when = next(event.time for event in ledger.events() if event.kind == struck)
    from hpckit.clock import seconds_of

    moment = seconds_of(when)
    _until(lambda: _times(times)[-1] > moment + 2 * STEP_S)
    found = _times(times)
    attempt = json.loads((folder / "attempts/001/attempt.json").read_text())
    start = found[0] - seconds_of(attempt["started"])
    _call(place, "cancel", "heal")
    before = max(each for each in found if each <= moment)
    assert began < before
    return min(each for each in found if each > moment) - before, start


def submitit(place: Path) -> tuple[float, float]:
    """Told by its own signal, as at a time limit: checkpoint(), and scontrol requeue."""
    script = place / "submit.py"
    script.write_text(SUBMITIT.format(folder=place, step_s=STEP_S))
    job = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    return _requeued(place, job.stdout.strip(), "USR2")


def lightning(place: Path) -> tuple[float, float]:
    """Told by its own signal: it saves, and calls scontrol requeue."""
    script = place / "train.py"
    script.write_text(LIGHTNING.format(folder=place, step_s=STEP_S))
    wrap = f"srun --ntasks=1 {sys.executable} {script}"
    args = ["sbatch", "--parsable", "--mem=1G", "--ntasks=1", "--ntasks-per-node=1", "--time=60"]
    args += ["--job-name=rival-lightning", "--requeue", "--open-mode=append"]
    args += [f"--output={place}/log", f"--wrap={wrap}"]
    job = subprocess.run(args, capture_output=True, text=True, check=True, cwd=place)
    return _requeued(place, job.stdout.strip(), "USR1")


def _requeued(place: Path, job: str, signal: str) -> tuple[float, float]:
    times = place / "times"
    _until(lambda: times.exists())
    started = _started(job)
    _until(lambda: len(_times(times)) > AT)
    start = _times(times)[0] - started
    subprocess.run(["scancel", f"--signal={signal}", job], check=True)
    _until(lambda: _times(times)[-1] > _times(times)[AT] + 30)
    found = _times(times)
    subprocess.run(["scancel", job], check=True)
    gaps = [(after - before) for before, after in itertools.pairwise(found)]
    return max(gaps), start


def _started(job: str) -> float:
    form = ["squeue", "--noheader", "--format=%S", f"--jobs={job}"]
    told = subprocess.run(form, capture_output=True, text=True, check=True).stdout.strip()
    return time.mktime(time.strptime(told, "%Y-%m-%dT%H:%M:%S"))


def _call(place: Path, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hpckit", *args],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def _times(path: Path) -> list[float]:
    """When steps were applied; the last line may be half."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return [0.0]
    return [float(line) for line in text.splitlines()[: text.count("\n")]] or [0.0]


def _until(look: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST_S
    while not look():
        if time.monotonic() > end:
            raise SystemExit("it did not come back in five minutes")
        time.sleep(0.05)


if __name__ == "__main__":
    main()

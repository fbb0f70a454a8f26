"""Real programs, unedited, in processes and environments of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpckit.ledger import Event, Ledger
from hpckit.monitor.readings.reader import read_readings
from hpckit.worker.archive import bring
from tests.train.bare import bare_run, environment

# What torch itself imports: no yaml, no click, no numpy, no tensorboard, no hpckit.
TORCHS_OWN = (
    "torch", "torchgen", "functorch", "nvidia", "triton", "typing_extensions.py", "sympy", "mpmath",
    "networkx", "jinja2", "markupsafe", "filelock", "fsspec",
)  # fmt: skip

PLAIN = """
import sys
import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 16)
        self.norm = nn.BatchNorm1d(16)
        self.last = nn.Linear(16, 1)

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.first(x))))


net = Net()
optimizer = torch.optim.AdamW(net.parameters(), lr=float(sys.argv[2]))
for step in range(80):
    x = torch.randn(8, 4)
    if step == int(sys.argv[1]):
        x = x * float("nan")
        state = net.state_dict().values()
        print("healthy", sum(each.double().sum().item() for each in state).hex())
    loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("finite", all(bool(torch.isfinite(each).all()) for each in net.state_dict().values()))
print("modules", sorted({"yaml", "click", "numpy", "tensorboard"} & set(sys.modules)))
"""


@pytest.fixture
def bare_venv(tmp_path: Path) -> Path:
    """An environment with torch and what that needs, and nothing else."""
    folder = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in TORCHS_OWN:
        source = Path(torch.__file__).parents[1] / name
        if source.exists():
            (site / name).symlink_to(source)
    return folder


def printed(log: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in log.splitlines() if not line.startswith("hpckit"))


def test_a_script_is_watched_in_an_environment_that_has_torch_alone(
    cli: Callable[..., Any], job: Callable[..., Path], bare_venv: Path
) -> None:
    spec = job(
        "{python: 'train.py {params.nan} {params.lr}', attach: optimizers}",
        "params: {nan: 40, lr: 1e-2}",
        # Where the tests find hpckit, the program is not to.
        f"environment: {{venv: '{bare_venv}', variables: {{PYTHONPATH: ''}}}}",
    )
    script = spec.parent / "train.py"
    script.write_text(PLAIN)
    alone = subprocess.Popen(
        [bare_venv / "bin" / "python", script, "40", "1e-2"], stdout=subprocess.PIPE, text=True
    )
    cli("run", spec, cwd=spec.parent)
    told = json.loads(cli("show", "--json", cwd=spec.parent).stdout)
    log = cli("logs", cwd=spec.parent).stdout
    assert "hpckit: attached to main: AdamW, 6 parameters of Net" in log
    assert "hpckit: step 40: loss nan" in log
    assert "TensorBoard" not in log
    found, without = printed(log), printed(alone.communicate(timeout=60)[0])
    # The same bits until the batch that is no number, and after it the model is still one.
    assert found["healthy"] == without["healthy"]
    assert (found["finite"], without["finite"]) == ("True", "False")
    assert found["modules"] == "[]"
    assert (told["state"], told["attempts"][0]["to_step"]) == ("done", 80)
    assert [each["kind"] for each in told["incidents"]] == ["non_finite"]
    readings = list(read_readings(Path(told["dir"], "attempts/001/readings/launch-1")))
    assert [each.step for each in readings] == list(range(80))
    assert readings[40].values["grad/gated/main"] == 1.0
    assert set(readings[0].parameters["main"]) == {
        f"{layer}.{kind}" for layer in ("first", "norm", "last") for kind in ("weight", "bias")
    }


EXPLODES = """
import torch

torch.manual_seed(0)
net = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
try:
    for step in range(200):
        loss = net(torch.randn(8, 4)).square().mean() * 10.0 ** max(0, step - 99)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
finally:
    print("saving", step)
"""


def test_a_program_that_is_stopped_ends_the_run_in_its_own_way(
    cli: Callable[..., Any], job: Callable[..., Path]
) -> None:
    spec = job("{python: train.py, attach: optimizers}", "heal: {explosion: {do: stop}}")
    (spec.parent / "train.py").write_text(EXPLODES)
    done = cli("run", spec, cwd=spec.parent, code=3)
    assert "-- stopped: " in done.stderr
    told = json.loads(cli("show", "--json", cwd=spec.parent).stdout)
    (incident,) = [each for each in told["incidents"] if each["plan"] is not None]
    assert (told["state"], incident["kind"], incident["plan"]) == ("stopped", "explosion", "stop")
    assert f"saving {incident['step']}" in cli("logs", cwd=spec.parent).stdout


DISTRIBUTED = """
import torch
from torch import distributed, nn

torch.set_num_threads(1)
distributed.init_process_group("gloo")
rank = distributed.get_rank()
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
whole = nn.parallel.DistributedDataParallel(net)
optimizer = torch.optim.SGD(whole.parameters(), lr=1e-2, momentum=0.9)
torch.manual_seed(rank)
for step in range(140):
    x = torch.randn(8, 4)
    y = x.sum(1, keepdim=True)
    if step >= 100 and rank == 1:
        # One rank's loss explodes; the gradients are everybody's.
        y = y * 10.0 ** (step - 99)
    loss = (whole(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print("step", step, float(net[0].weight.detach().double().sum()).hex(), flush=True)
"""


def ranks(folder: Path, **spec: Any) -> tuple[list[str], list[int], list[Event]]:
    """Two of them, as a launch starts them; what each printed, its exit code, and the ledger."""
    (folder / "train.py").write_text(DISTRIBUTED)
    run = bare_run(folder / "run", program={"python": "train.py", "attach": "optimizers"}, **spec)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, str(bring(run)), "train.py"],
            cwd=folder,
            env={**os.environ, **environment(run), **together, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [each.communicate(timeout=60)[0] for each in started]
    return said, [each.returncode for each in started], Ledger(run / "ledger").events()


def test_all_ranks_hold_back_alike_and_end_at_the_same_step(tmp_path: Path) -> None:
    said, codes, events = ranks(tmp_path, checkpoint={"files": ["cp/{step}"]})
    assert codes == [76, 76]
    steps = [[line for line in each.splitlines() if line.startswith("step")] for each in said]
    assert steps[0] == steps[1]
    assert 101 <= len(steps[0]) < 110
    # What explodes was never applied.
    assert len({line.split()[2] for line in steps[0][99:]}) == 1
    (act,) = [each.data for each in events if "plan" in each.data]
    assert act["incident"]["kind"] == "explosion"
    assert (act["incident"]["parameter"], act["plan"]["do"]) == ("0.weight", "rollback")
    assert {each.writer for each in events} == {"attempt-001-launch-1"}
    assert "hpckit" not in said[1]

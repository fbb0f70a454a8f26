"""A rank's sign of life, and its end once another launch serves the run."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpckit.files import write_json
from hpckit.run import IDENTITY, identity, served_by_another
from hpckit.spec import spec_from_json
from hpckit.train.pulse import EVERY_S, FENCED, Pulse

RANK = """
import sys, threading, time
from pathlib import Path
from hpckit.train.pulse import Pulse
run, pulse = Path(sys.argv[1]), Path(sys.argv[2])
step = 0
Pulse(pulse, lambda: (step, "step")).start(
    {"HPCKIT_RUN_DIR": str(run), "HPCKIT_ATTEMPT": "2", "HPCKIT_LAUNCH": "1"}
)
while True:
    step = min(step + 1, 50)
    time.sleep(0.02)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "attempts/002/logs/launch-1").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def rank(run: Path) -> Iterator[subprocess.Popen[str]]:
    pulse = run / "rank-0.pulse"
    process = subprocess.Popen(
        [sys.executable, "-c", RANK, run, pulse], stdout=subprocess.PIPE, text=True
    )
    until(pulse.exists)
    yield process
    process.kill()
    process.wait()


def until(look: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not look():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_it_says_how_far_it_has_come(run: Path, rank: subprocess.Popen[str]) -> None:
    first = (run / "rank-0.pulse").read_text()
    until(lambda: (run / "rank-0.pulse").read_text() not in ("", first))
    step, phase, _ = (run / "rank-0.pulse").read_text().split()
    assert int(step) > 0
    assert phase == "step"


def test_its_beats_show_that_it_lives_though_it_comes_to_no_step(
    run: Path, rank: subprocess.Popen[str]
) -> None:
    def beats() -> int:
        words = (run / "rank-0.pulse").read_text().split()
        return int(words[2]) if words[:2] == ["50", "step"] else 0

    until(beats)
    before = beats()
    until(lambda: beats() > before)
    os.kill(rank.pid, signal.SIGSTOP)
    before = beats()
    time.sleep(2 * EVERY_S)
    assert beats() == before


@pytest.mark.parametrize("later", ["attempts/003", "attempts/002/logs/launch-2"])
def test_once_another_launch_serves_the_run_it_ends(
    run: Path, rank: subprocess.Popen[str], later: str
) -> None:
    (run / later).mkdir()
    assert rank.wait(timeout=20) == FENCED
    assert rank.stdout is not None
    assert "another launch serves this run" in rank.stdout.read()


def test_its_end_needs_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    Pulse._end()
    assert ended == [FENCED]


def test_told_to_abort_it_says_where_it_is(run: Path, rank: subprocess.Popen[str]) -> None:
    os.kill(rank.pid, signal.SIGABRT)
    rank.wait(timeout=20)
    stacks = (run / "rank-0.stacks").read_text()
    assert stacks.count("most recent call first") == 2
    assert 'File "<string>"' in stacks


ENDING = """
import os, time, torch, hpckit
run = hpckit.attach()
model = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
run.register(model=model, optimizer=optimizer)
for batch in run.batches([torch.ones(1)] * 10, epochs=1):
    loss = model(batch).sum()
    optimizer.zero_grad()
    loss.backward()
    run.step(optimizer, loss=loss)
run.close()
print(open(os.environ["HPCKIT_PULSE"]).read(), flush=True)
os._exit(0)
"""


def test_a_process_that_ends_its_training_says_so_at_once(run: Path) -> None:
    """It may take long to end, and its pulse does not beat in its last second."""
    about = identity(run_id="a/b", name="a", scheduler="local", params={})
    write_json(run / IDENTITY, about)
    write_json(run / "spec.json", spec_from_json({"name": "a", "program": "x"}).to_json())
    environ = {
        "HPCKIT_RUN_DIR": str(run),
        "HPCKIT_ATTEMPT": "2",
        "HPCKIT_LAUNCH": "1",
        "HPCKIT_PULSE": str(run / "rank-0.pulse"),
        "HPCKIT_PARAMS": str(run / "params.json"),
    }
    (run / "params.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-c", ENDING],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("10 between "), done.stderr


def test_who_serves_a_run_is_told_by_its_folders(run: Path) -> None:
    assert not served_by_another(run, 2, 1)
    assert served_by_another(run, 1, 9)
    (run / "attempts/002/logs/launch-10").mkdir()
    assert served_by_another(run, 2, 9)
    assert not served_by_another(run, 2, 10)
    for name in ("attempts/note", "attempts/002/logs/launch-10-copy"):
        (run / name).mkdir()
    assert not served_by_another(run, 2, 10)
    assert not served_by_another(run / "nowhere", 2, 1)

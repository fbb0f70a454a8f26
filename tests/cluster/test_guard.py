"""Guards that come in each other's way, or to their end in the midst of their work."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpckit.devcluster import DevCluster
from hpckit.ledger import final
from hpckit.run import Run, open_run
from hpckit.scheduler.base import Phase
from hpckit.scheduler.slurm import Slurm
from tests.cluster.struck import CLOSED, closable, forget_queue

KILLER = Path(__file__).with_name("killed.py")
# So long a guard takes a chain that was announced for one that is on its way.
ANNOUNCED_S = 65.0
PROGRAM = """\
echo $HPCKIT_RUN $HPCKIT_ATTEMPT >> "$HERE/executed"
if [ $HPCKIT_ATTEMPT = 1 ]; then until [ -e "$HERE/closed" ]; do sleep 0.1; done; exit 9; fi
"""


class Waiting:
    """Points of a sweep that have failed once, where a job may submit no other."""

    def __init__(self, folder: Path, points: int) -> None:
        self.folder = folder
        self.root = folder / "runs"
        folder.mkdir()
        (folder / "fails.sh").write_text(PROGRAM)
        (folder / "job.yaml").write_text(
            f"name: waits\nprogram: bash fails.sh\nsweep: {{seeds: {points}}}\n"
            f"environment: {{variables: {{HERE: {folder}}}}}\n"
            "heal: {crash: {do: resubmit}}\nresources: {memory: 100M, time: 5m}\n"
        )
        words = ["submit", "--cluster", "slurm", "--root", str(self.root)]
        subprocess.run(
            [sys.executable, "-m", "hpckit", *words],
            cwd=folder,
            env={**os.environ, "PATH": closable(folder)},
            check=True,
            capture_output=True,
        )
        (folder / CLOSED).touch()
        until_idle()
        (folder / CLOSED).unlink()
        (sweep,) = [
            run for each in self.root.glob("waits/*") if (run := open_run(each)) is not None
        ]
        self.points: list[Run] = sweep.point_runs()

    @property
    def executed(self) -> collections.Counter[str]:
        return collections.Counter((self.folder / "executed").read_text().splitlines())

    def guard(self, run: Run) -> subprocess.Popen[str]:
        words = ["guard", "--once", "--root", str(self.root), run.id]
        return subprocess.Popen(
            [sys.executable, "-m", "hpckit", *words], stdout=subprocess.PIPE, text=True
        )

    def killed_guard(self, run: Run, at: int) -> list[str]:
        forget_queue()
        count = self.folder / "acts"
        words = ["guard", "--once", "--root", str(self.root), run.id]
        subprocess.run(
            [sys.executable, str(KILLER), str(at), str(count), str(self.root), *words],
            capture_output=True,
            check=False,
            timeout=60,
        )
        return count.read_text().splitlines() if at == 0 else []


def until_idle(seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while any(job.phase is not Phase.ENDED for job in Slurm().queue()):
        assert time.monotonic() < end, "still in the queue"
        time.sleep(0.3)


def state(run: Run) -> str | None:
    end = final(run.ledger().events())
    return None if end is None else str(end.data["state"])


def test_of_two_guards_one_goes_on_with_a_run(slurm: DevCluster, tmp_path: Path) -> None:
    waiting = Waiting(tmp_path / "job", points=4)
    for run in waiting.points:
        forget_queue()
        guards = [waiting.guard(run) for _ in range(2)]
        said = [guard.communicate(timeout=60)[0] for guard in guards]
        assert sum("goes on as job" in each for each in said) == 1, said
    until_idle()
    assert [state(run) for run in waiting.points] == ["done"] * 4
    wanted = [f"{run.id} {number}" for run in waiting.points for number in (1, 2)]
    assert waiting.executed == collections.Counter(wanted)


@pytest.mark.skipif(not os.environ.get("HPCKIT_MATRIX"), reason="takes long: make matrix")
def test_a_guard_that_is_killed_at_any_step_leaves_a_run_that_the_next_one_goes_on_with(
    slurm: DevCluster, tmp_path: Path
) -> None:
    waiting = Waiting(tmp_path / "job", points=30)
    first, *others = waiting.points
    acts = waiting.killed_guard(first, 0)
    assert 5 < len(acts) < len(others), acts
    for at, run in enumerate(others[: len(acts)], start=1):
        waiting.killed_guard(run, at)
    time.sleep(ANNOUNCED_S)
    forget_queue()
    for run in others:
        forget_queue()
        waiting.guard(run).communicate(timeout=60)
    until_idle()
    assert {run.id: state(run) for run in waiting.points} == {
        run.id: "done" for run in waiting.points
    }
    wanted = [f"{run.id} {number}" for run in waiting.points for number in (1, 2)]
    assert waiting.executed == collections.Counter(wanted)

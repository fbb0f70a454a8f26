"""How a fault comes about: the training does it to itself, or it is done from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpckit.errors import HpckitError
from hpckit.files import read_json, write_atomic
from hpckit.rehearsal.course import Struck
from hpckit.rehearsed import STRUCK
from hpckit.scheduler.local_tree import descendants
from hpckit.status.steps import steps_done
from hpckit.worker.rank_script import INSIDE

if TYPE_CHECKING:
    from hpckit.devcluster import DevCluster
    from hpckit.run import Attempt, Run
    from hpckit.scheduler.base import Scheduler

# A program that tells no steps is struck so long after it began.
STARTED_S = 5.0
# As long as it takes until the job that was in the way is gone, and then some.
IN_THE_WAY_S = 20
Act = Callable[["Attempt"], None]
# Takes what is to be undone, whatever happens.
Later = Callable[[Callable[[], object]], object]


@dataclass(frozen=True, kw_only=True)
class ByLibrary:
    """The training strikes itself, and says so in the run's folder."""

    def look(self, run: Run) -> Struck | None:
        about = read_json(run.dir / STRUCK)
        return Struck(at=about["time"], step=about["step"]) if isinstance(about, dict) else None


@dataclass(frozen=True, kw_only=True)
class FromOutside:
    """Strikes once a step is done, or some seconds after the start of what tells no steps."""

    step: int | None
    act: Act

    def look(self, run: Run) -> Struck | None:
        attempts = run.attempts()
        if not attempts:
            return None
        step = steps_done(attempts[-1])
        if self.step is None:
            began = max(starts([attempts[-1]]), default=None)
            is_due = began is not None and time.time() - began >= STARTED_S
        else:
            is_due = step is not None and step >= self.step
        if not is_due:
            return None
        struck = Struck(at=time.time(), step=step if self.step is not None else None)
        self.act(attempts[-1])
        return struck


def starts(attempts: list[Attempt]) -> list[float]:
    """When the program of each launch began."""
    found = []
    for launch in (each for attempt in attempts for each in attempt.launches()):
        with contextlib.suppress(OSError):
            found.append((launch / "rank-0.started").stat().st_mtime)
    return found


def near_the_limit(attempt: Attempt) -> None:
    """What Slurm sends before the time limit, to the worker that it would send it to."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(attempt.about()["worker_pid"], signal.SIGUSR2)


def killed(run_dir: Path) -> Act:
    """Rank 0's program, with all that it has started, by SIGKILL."""

    def act(attempt: Attempt) -> None:
        script = attempt.launches()[-1] / INSIDE
        shells = [pid for pid in _every_pid() if _is_of_rank_0(pid, run_dir, script)]
        if not shells:
            raise HpckitError("no process of rank 0 is to be found: nothing could be killed")
        # Its own shell must live on to say how the program ended: that one is killed if need be.
        line, *program = descendants(shells[0]) or shells
        for pid in program or [line]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    return act


def _every_pid() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _is_of_rank_0(pid: int, run_dir: Path, script: Path) -> bool:
    """Whether it is the shell that runs a script as the first rank of this very run."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        environ = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        return words[:2] == ["bash", str(script)] and {
            f"HPCKIT_RUN_DIR={run_dir}",
            "RANK=0",
        } <= set(environ)
    return False


def preempted(run_dir: Path, scheduler: Scheduler, later: Later) -> Act:
    """By a job of the partition that goes first, on just the nodes that the run has."""

    def act(attempt: Attempt) -> None:
        script = run_dir / "goes-first.sh"
        options = ["partition=high", f"nodelist={attempt.about()['node']}", "exclusive", "time=5"]
        head = "".join(f"#SBATCH --{each}\n" for each in [*options, "output=/dev/null"])
        write_atomic(script, f"#!/bin/bash\n{head}sleep {IN_THE_WAY_S}\n")
        job = scheduler.submit(script)
        later(lambda: scheduler.cancel([job]))

    return act


def without_its_node(cluster: DevCluster, later: Later) -> Act:
    """The daemon of the run's node is ended, and started again afterwards."""

    def act(attempt: Attempt) -> None:
        daemon = f"slurmd-{attempt.about()['node']}"
        # First: whoever is interrupted in between has a node to give back.
        later(lambda: cluster.start(daemon))
        cluster.stop(daemon)

    return act

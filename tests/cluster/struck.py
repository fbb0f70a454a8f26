"""Trainings on a development cluster that something happens to, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpckit.clock import seconds_of
from hpckit.devcluster import DevCluster
from hpckit.files import read_json, write_json
from hpckit.ledger import Event, final
from hpckit.rehearsed import FAULT
from hpckit.run import Run, open_run
from hpckit.scheduler.base import JobStatus, Phase
from hpckit.scheduler.slurm import Slurm

TRAINED = Path(__file__).with_name("trained.py")
STEPS = 240
EVERY = 20
NODES = ("n1", "n2")
# A rank looks once a second whether another attempt serves the run.
FENCE_S = 4.0


CLOSED = "closed"
SBATCH = """\
#!/bin/bash
if [ -e {here}/closed ]; then
  echo "sbatch: error: Batch job submission failed: Access/permission denied" >&2; exit 1
fi
exec {sbatch} "$@"
"""


def closable(folder: Path) -> str:
    """A PATH with an sbatch that refuses every job while there is a file `closed` in a folder."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    sbatch = shutil.which("sbatch")
    (tools / "sbatch").write_text(SBATCH.format(here=folder, sbatch=sbatch))
    (tools / "sbatch").chmod(0o755)
    return f"{tools}:{os.environ['PATH']}"


@dataclass(frozen=True)
class Shape:
    """How many processes a training has."""

    name: str
    nodes: int
    per_node: int

    @property
    def ranks(self) -> int:
        return self.nodes * self.per_node

    def resources(self, memory: str, partition: str) -> str:
        gpus = f", gpus_per_node: {self.per_node}" if self.ranks > 1 else ""
        return (
            f"resources: {{nodes: {self.nodes}{gpus}, cpus_per_node: 2, memory: {memory}, "
            f"time: 20m, partition: {partition}}}"
        )


ONE = Shape("one process", 1, 1)
TWO_RANKS = Shape("two ranks", 1, 2)
TWO_NODES = Shape("two nodes", 2, 2)
# As many ranks as on one node: what is the same for both is computed once.
APART = Shape("two ranks apart", 2, 1)
SHAPES = (ONE, TWO_RANKS, TWO_NODES)


@dataclass(frozen=True)
class Told:
    """A step that a rank began."""

    attempt: int
    launch: int
    rank: int
    step: int
    when: float


class Struck:
    """One training, and how it is handled."""

    def __init__(self, folder: Path, cluster: DevCluster, shape: Shape) -> None:
        self.folder = folder
        self.cluster = cluster
        self.shape = shape
        self.run: Run
        self._slurm = Slurm()

    # Handling it.

    def submit(
        self,
        *lines: str,
        fault: dict[str, Any] | None = None,
        as_point: bool = False,
        memory: str = "2G",
        partition: str = "main",
        step_s: float = 0.02,
        steps: int = STEPS,
    ) -> None:
        """As a run with a chain of attempts, or as a point of a sweep, which has only one."""
        self.folder.mkdir(exist_ok=True)
        shutil.copy(TRAINED, self.folder)
        epochs = steps // (80 // self.shape.ranks)
        self.steps = steps
        head = [
            "name: tiny",
            "program: {trainer: trained.py:Telling}",
            f"params: {{epochs: {epochs}, step_s: {step_s}, point: 0}}",
            f"checkpoint: {{every: {EVERY} steps, confirm_steps: 10}}",
            self.shape.resources(memory, partition),
            *(["sweep: {grid: {point: [0]}}"] if as_point else []),
        ]
        (self.folder / "job.yaml").write_text("\n".join([*head, *lines, ""]))
        said = self.call("submit", "--json", "--cluster", "slurm", PATH=closable(self.folder))
        told = json.loads(said)["runs"][0]
        run = open_run(Path(told["dir"]))
        assert run is not None
        self.run = run
        if fault is not None:
            write_json(self.run.dir / FAULT, {"step": 50, **fault})

    def call(self, *args: str, code: int | None = 0, **environ: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "hpckit", *args],
            cwd=self.folder,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=180,
            stdin=subprocess.DEVNULL,
        )
        assert code is None or done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def close(self) -> None:
        """From now on its jobs may not submit others."""
        (self.folder / CLOSED).touch()

    def open(self) -> None:
        (self.folder / CLOSED).unlink()

    def guard(self) -> str:
        """What a guard says that looks once, and whose queue is not half a minute old."""
        forget_queue()
        return self.call("guard", "--once", self.run.id, code=None)

    def strike(self, number: signal.Signals) -> None:
        """Signal the worker of the newest attempt."""
        about = self.until(lambda: self.run.attempts()[-1].about(), "the worker's word")
        os.kill(about["worker_pid"], number)

    @property
    def batch_node(self) -> str:
        """Where the worker of the newest attempt runs."""
        return self.nodes[0]

    @property
    def nodes(self) -> list[str]:
        names: str = self.run.attempts()[-1].about()["node"]
        return [node for node in NODES if node in names or "[" in names]

    # Waiting for it.

    def until(self, look: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = look()
            if found:
                return found
            time.sleep(0.1)
        raise AssertionError(f"{what}: not in {seconds:.0f} s\n{self.story()}")

    def until_step(self, step: int, attempt: int = 1) -> None:
        def reached() -> bool:
            return any(each.attempt == attempt and each.step >= step for each in self.told())

        self.until(reached, f"step {step} of attempt {attempt}", 90)

    def until_written_down(self) -> None:
        """Slurm writes down its jobs every five seconds: what a kill before that takes is gone."""
        jobs = self.cluster.folder / "state" / "job_state"
        names = [name.encode() for name in self.run.job_names]

        def is_there() -> bool:
            written = jobs.read_bytes() if jobs.exists() else b""
            return any(name in written for name in names)

        self.until(is_there, "a job that Slurm has written down")

    def until_idle(self, seconds: float = 90.0) -> None:
        """Until nothing of the run is in the queue."""
        self.until(lambda: self.jobs() is not None and not self.jobs(), "an empty queue", seconds)

    def jobs(self) -> list[JobStatus] | None:
        """What of the run is alive; None where Slurm does not say."""
        with contextlib.suppress(Exception):
            names = self.run.job_names
            queue = [job for job in self._slurm.queue() if job.name in names]
            return [job for job in queue if job.phase is not Phase.ENDED]
        return None

    def end(self, *, guarded: bool = False, seconds: float = 120.0) -> None:
        """Until the run is over, with a guard that looks now and then where it needs one."""
        end = time.monotonic() + seconds
        while self.state is None:
            assert time.monotonic() < end, f"not over in {seconds:.0f} s\n{self.story()}"
            if guarded and not self.jobs():
                self.guard()
            time.sleep(0.3)

    # What came of it.

    @property
    def state(self) -> str | None:
        event = final(self.run.ledger().events())
        return None if event is None else str(event.data["state"])

    def events(self, kind: str) -> list[Event]:
        return [each for each in self.run.ledger().events() if each.kind == kind]

    @property
    def plans(self) -> list[tuple[str, str]]:
        """What was found, and what was done about it."""
        told = [each.data for each in self.events("restart")]
        return [(each["incident"]["kind"], each["plan"]["do"]) for each in told]

    @property
    def launches(self) -> list[tuple[int, int]]:
        return sorted({(each.attempt, each.launch) for each in self.told()})

    def told(self) -> list[Told]:
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in (self.run.dir / "told").iterdir():
                attempt, launch, rank = map(int, path.name.split("-"))
                for line in path.read_text().splitlines():
                    words = line.split()
                    if len(words) == 2:
                        about = {"step": int(words[1]), "when": float(words[0])}
                        found.append(Told(attempt=attempt, launch=launch, rank=rank, **about))
        return sorted(found, key=lambda each: each.when)

    @property
    def weights(self) -> dict[str, Any]:
        import torch

        newest = max(self.run.dir.glob("checkpoints/step-*"), key=lambda each: each.name)
        assert newest.name.startswith(f"step-{self.steps:08d}"), newest.name
        state = torch.load(newest / "state.pt", weights_only=True)
        (found,) = [each["state"] for each in state["items"].values() if each["kind"] == "module"]
        return dict(found)

    def story(self) -> str:
        """What happened, for whoever looks why a test failed."""
        lines = [f"run {self.run.dir}, state {self.state}, jobs {self.jobs()}"]
        for event in self.run.ledger().events():
            about = json.dumps(event.data)[:300]
            lines.append(f"{event.time[11:23]} {event.writer[:12]} {event.kind} {about}")
        for attempt in self.run.attempts():
            lines.append(f"attempt {attempt.number}: {attempt.about()} {attempt.ended()}")
            for log in sorted(attempt.dir.glob("logs/*/*.log")):
                lines.append(f"--- {log.parent.name}/{log.name}")
                lines += log.read_text(errors="replace").splitlines()[-12:]
        folders = {self.run.home / "chains", self.run.dir / "chains"}
        for log in sorted(each for folder in folders for each in folder.glob("*/*.log")):
            lines.append(f"--- {log.parent.name}/{log.name}")
            lines += log.read_text(errors="replace").splitlines()[-12:]
        return "\n".join(lines)

    # What must hold, whatever happened.

    def check(self, *, may_overlap_s: float = 0.0, may_lose: int = 2 * EVERY) -> None:
        """Done, each attempt once and alone, and nothing lost that was saved."""
        try:
            assert self.state == "done"
            self._check_attempts(may_overlap_s)
            self._check_steps(may_lose)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from error

    def _check_attempts(self, may_overlap_s: float) -> None:
        attempts = self.run.attempts()
        jobs = [each.about()["job_id"] for each in attempts]
        assert [each.number for each in attempts] == list(range(1, len(attempts) + 1))
        assert len(set(jobs)) == len(jobs), jobs
        claimed = [each.data["number"] for each in self.events("attempt")]
        assert sorted(claimed) == sorted(set(claimed)), claimed
        told = self.told()
        for one, other in itertools.pairwise(attempts):
            began = seconds_of(other.about()["started"])
            last = max((each.when for each in told if each.attempt == one.number), default=0.0)
            assert last <= began + may_overlap_s, f"attempt {one.number} trained beside its next"
        for one, other in itertools.pairwise(self.launches):
            ended = max(each.when for each in told if (each.attempt, each.launch) == one)
            began = min(each.when for each in told if (each.attempt, each.launch) == other)
            assert ended < began + may_overlap_s, f"{one} trained beside {other}"

    def _check_steps(self, may_lose: int) -> None:
        """Every launch begins where something was saved, and where the ranks say that it does."""
        told = self.told()
        resumed = {
            (each.data["attempt"], each.data["launch"]): each.data["step"]
            for each in self.events("resumed")
        }
        reached = 0
        for place in self.launches:
            steps = {each.step for each in told if (each.attempt, each.launch) == place}
            for rank in range(self.shape.ranks):
                of_rank = [t.step for t in told if (t.attempt, t.launch, t.rank) == (*place, rank)]
                assert of_rank[:1] == [resumed[place]], f"{place}: rank {rank} began elsewhere"
            lost = reached - resumed[place]
            assert lost <= may_lose, f"{place}: {lost} steps were lost"
            reached = max(steps) + 1
        assert reached == self.steps

    @property
    def lost(self) -> list[int]:
        """Steps that were done and not gone on from, by restart."""
        told, found, reached = self.told(), [], None
        for event in self.events("resumed"):
            place = event.data["attempt"], event.data["launch"]
            if reached is not None:
                found.append(reached - event.data["step"])
            steps = [each.step for each in told if (each.attempt, each.launch) == place]
            reached = max(steps, default=event.data["step"] - 1) + 1
        return found


def same(shape: Shape, one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Bit for bit; of more than two ranks torch adds up gradients in an order of its own.

    A new DistributedDataParallel has other buckets in its first step than one that was used.
    """
    import torch

    def equal(these: Any, those: Any) -> bool:
        if shape.ranks <= 2:
            return torch.equal(these, those)
        return torch.allclose(these, those, rtol=0.0, atol=1e-5)

    return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)


def forget_queue() -> None:
    """What is cached for half a minute would make each of these tests half a minute longer."""
    for file in Path(os.environ["XDG_CACHE_HOME"], "hpckit").glob("queue-*.json"):
        known = read_json(file)
        if isinstance(known, dict):
            write_json(file, {**known, "queue_time": 0.0, "history_time": 0.0})


@contextlib.contextmanager
def nobody_may_submit(partition: str) -> Iterator[None]:
    """As where only login nodes may: what runs cannot submit what comes after it."""
    update = ["scontrol", "update", f"PartitionName={partition}"]
    subprocess.run([*update, "AllocNodes=elsewhere"], check=True)
    try:
        yield
    finally:
        subprocess.run([*update, "AllocNodes=ALL"], check=True)


@contextlib.contextmanager
def without(cluster: DevCluster, *daemons: str) -> Iterator[None]:
    """Daemons that are killed, and there again afterwards."""
    for name in daemons:
        cluster.stop(name, kill=True)
    try:
        yield
    finally:
        for name in daemons:
            cluster.start(name)

"""Every fault, on every shape of a training, with a chain of attempts and with a guard.

`make test` runs a part in which each fault meets a shape and a way; `make matrix` runs all of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hpckit.devcluster import DevCluster
from tests.cluster.conftest import told
from tests.cluster.struck import (
    APART,
    EVERY,
    FENCE_S,
    ONE,
    SHAPES,
    TWO_RANKS,
    Shape,
    Struck,
    nobody_may_submit,
    same,
    without,
)

CHAIN, GUARD = "chain", "guard"
AWAY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to a training, and what is to be done about it."""

    name: str
    # What was found and what was done, where there is a chain, and where only a guard goes on.
    chain: list[tuple[str, str]] | None = None
    guard: list[tuple[str, str]] | None = None
    inside: dict[str, Any] | None = None
    heal: dict[str, str] = field(default_factory=dict)
    strike: Callable[[Struck], None] | None = None
    partition: str = "main"
    # Who can still submit: a worker that is to be cut off in the midst of it may try.
    forbids: bool = True
    # The training lives on where nobody sees it, for so long that another one begins.
    lives_on: bool = False
    # It goes back in its numbers, to before they went wrong.
    goes_back: bool = False
    step_s: float = 0.02

    @property
    def ways(self) -> list[str]:
        return [way for way in (CHAIN, GUARD) if getattr(self, way) is not None]


def reach_the_time_limit(training: Struck) -> None:
    training.until_step(50)
    training.strike(signal.SIGUSR2)


def preempt(training: Struck) -> None:
    training.until_step(50)
    wrap = ["--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 2"]
    subprocess.run(["sbatch", *wrap], check=True, capture_output=True)


def lose_a_node(training: Struck) -> None:
    training.until_step(15)
    with without(training.cluster, f"slurmd-{training.nodes[-1]}"):
        training.until(lambda: not is_running(training), "a node that is given up")
        if training.shape.nodes == 1:
            # Another node takes over, while the one that was given up trains on.
            training.until(lambda: is_over(training, attempt=1), "an end of the zombie")


def is_running(training: Struck) -> bool:
    attempt = training.run.attempts()[0].about()["job_id"]
    jobs = training.jobs()
    return jobs is None or any(job.job_id == attempt for job in jobs)


def is_over(training: Struck, attempt: int) -> bool:
    """Whether a training has begun no step for a while."""
    return all(each.when < time.time() - 3 for each in training.told() if each.attempt == attempt)


def end_without_a_controller(training: Struck) -> None:
    training.until_step(50)
    training.until_written_down()
    with without(training.cluster, "slurmctld"):
        training.strike(signal.SIGUSR2)
        until_ended(training)
        time.sleep(AWAY_S)


def lose_the_controller_between_links(training: Struck) -> None:
    training.until_step(50)
    training.until_written_down()
    training.strike(signal.SIGUSR2)
    until_ended(training)
    with without(training.cluster, "slurmctld"):
        time.sleep(AWAY_S)


def until_ended(training: Struck) -> None:
    first = training.run.attempts()[0]
    training.until(lambda: first.ended() is not None, "an end of the first attempt")


def lose_the_controller_while_it_is_asked(training: Struck) -> None:
    """The worker hands over the script of a new chain just then."""
    script = training.run.dir / "chains" / "002" / "submission.sh"
    training.until(script.exists, "a new chain")
    with without(training.cluster, "slurmctld"):
        time.sleep(AWAY_S)


def lose_the_accounting(training: Struck) -> None:
    training.cluster.stop("slurmdbd", kill=True)
    reach_the_time_limit(training)


TO_NEW_JOB = "{crash: {do: resubmit}}"
# What changes nothing, so that the weights tell whether all was put back.
AS_IT_WAS = "change: {}, skip_batches: 0"
TIME_LIMIT = [("time_limit", "resubmit")]
FAULTS = [
    Fault(
        name="crash",
        inside={"kind": "crash"},
        chain=[("crash", "relaunch")],
        guard=[("crash", "resubmit")],
        heal={GUARD: TO_NEW_JOB},
    ),
    Fault(
        name="kill",
        inside={"kind": "kill"},
        chain=[("crash", "relaunch")],
        guard=[("crash", "resubmit")],
        heal={GUARD: TO_NEW_JOB},
    ),
    Fault(
        name="hang",
        inside={"kind": "hang"},
        chain=[("hang", "relaunch")],
        guard=[("hang", "resubmit")],
        heal={CHAIN: "{hang: {after: 5s}}", GUARD: "{hang: {do: resubmit, after: 5s}}"},
    ),
    Fault(
        name="out of memory",
        inside={"kind": "oom"},
        chain=[("out_of_memory", "resubmit")],
        guard=[("out_of_memory", "resubmit")],
    ),
    Fault(
        name="explosion",
        inside={"kind": "explosion", "step": 150},
        chain=[],
        heal={CHAIN: f"{{explosion: {{{AS_IT_WAS}}}}}"},
        goes_back=True,
    ),
    Fault(
        name="explosion, next job",
        inside={"kind": "explosion", "step": 150},
        chain=[],
        guard=[],
        heal=dict.fromkeys((CHAIN, GUARD), f"{{explosion: {{do: resubmit, {AS_IT_WAS}}}}}"),
        goes_back=True,
    ),
    Fault(name="time limit", strike=reach_the_time_limit, chain=TIME_LIMIT, guard=TIME_LIMIT),
    Fault(
        name="preemption",
        strike=preempt,
        partition="low",
        chain=[("preemption", "resubmit")],
        guard=[("preemption", "resubmit")],
    ),
    Fault(
        name="node failure",
        strike=lose_a_node,
        chain=[("node_failure", "resubmit")],
        guard=[("node_failure", "resubmit")],
        lives_on=True,
        step_s=0.2,
    ),
    Fault(
        name="no controller at the end",
        strike=end_without_a_controller,
        chain=TIME_LIMIT,
        guard=TIME_LIMIT,
    ),
    Fault(
        name="no controller between links",
        strike=lose_the_controller_between_links,
        chain=TIME_LIMIT,
        guard=TIME_LIMIT,
    ),
    Fault(
        name="no controller to submit to",
        inside={"kind": "crash"},
        strike=lose_the_controller_while_it_is_asked,
        guard=[("crash", "resubmit")],
        heal={GUARD: TO_NEW_JOB},
        forbids=False,
        # So slow that Slurm has written down the first job when it is killed.
        step_s=0.12,
    ),
    Fault(name="no accounting", strike=lose_the_accounting, chain=TIME_LIMIT, guard=TIME_LIMIT),
]
BY_NAME = {fault.name: fault for fault in FAULTS}
Cell = tuple[Fault, Shape, str]
ALL: list[Cell] = [
    (fault, shape, way) for shape in SHAPES for fault in FAULTS for way in fault.ways
]
# Each fault that strikes a run alone, with all of them at once; what strikes the cluster, apart.
AT_ONCE: list[Cell] = [
    (BY_NAME["crash"], APART, CHAIN),
    (BY_NAME["kill"], TWO_RANKS, GUARD),
    (BY_NAME["hang"], TWO_RANKS, CHAIN),
    (BY_NAME["out of memory"], ONE, CHAIN),
    (BY_NAME["explosion, next job"], ONE, GUARD),
    (BY_NAME["time limit"], ONE, GUARD),
]
PART: list[Cell] = [(BY_NAME["no controller between links"], ONE, CHAIN)]
CELLS = ALL if os.environ.get("HPCKIT_MATRIX") else PART


class Calm:
    """What a training of a shape comes to when nothing happens to it."""

    def __init__(self, folder: Path, cluster: DevCluster) -> None:
        self.folder = folder
        self.cluster = cluster
        self._known: dict[int, Struck] = {}

    def submitted(self, shape: Shape) -> Struck:
        if shape.ranks not in self._known:
            training = Struck(self.folder / shape.name, self.cluster, shape)
            training.submit()
            self._known[shape.ranks] = training
        return self._known[shape.ranks]

    def __call__(self, shape: Shape) -> Any:
        training = self.submitted(shape)
        training.end()
        training.check()
        return training.weights


@pytest.fixture(scope="module")
def calm(slurm: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    return Calm(tmp_path_factory.mktemp("calm"), slurm)


@pytest.fixture
def all_daemons(slurm: DevCluster) -> Iterator[None]:
    yield
    slurm.up()
    # A step that ended while slurmctld was away reports late, and its node is busy until then.
    end = time.monotonic() + 150
    while told("sinfo", "-h", "-p", "main", "-o", "%T") != "idle" and time.monotonic() < end:
        subprocess.run(["scancel", "--me"], check=False)
        time.sleep(0.5)


def begun(folder: Path, cluster: DevCluster, cell: Cell) -> Struck:
    """The training of a cell, submitted."""
    fault, shape, way = cell
    training = Struck(folder, cluster, shape)
    training.submit(
        *([f"heal: {fault.heal[way]}"] if way in fault.heal else []),
        fault=fault.inside,
        as_point=way == GUARD,
        partition=fault.partition,
        step_s=fault.step_s,
    )
    return training


def check(training: Struck, cell: Cell, wanted: Any) -> None:
    """Healed as the policy says, and the same in the end."""
    fault, _, way = cell
    training.check(
        may_overlap_s=FENCE_S if fault.lives_on else 0.0,
        may_lose=200 if fault.goes_back else 2 * EVERY,
    )
    assert training.plans == getattr(fault, way), training.story()
    assert same(training.shape, training.weights, wanted), training.story()


@pytest.mark.usefixtures("all_daemons")
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell[0].name}-{cell[1].name}-{cell[2]}")
def test_a_training_that_is_struck_ends_as_if_nothing_had_happened(
    slurm: DevCluster, calm: Calm, tmp_path: Path, cell: Cell
) -> None:
    fault, shape, way = cell
    wanted = calm(shape)
    training = begun(tmp_path / "job", slurm, cell)
    with cut_off(training, fault, way):
        if fault.strike is not None:
            fault.strike(training)
        if way == GUARD:
            training.until_idle(150)
            assert training.state is None or not fault.forbids, training.story()
    training.end(guarded=way == GUARD, seconds=240)
    check(training, cell, wanted)


def test_trainings_that_are_struck_beside_each_other_end_as_if_nothing_had_happened(
    slurm: DevCluster, calm: Calm, tmp_path: Path
) -> None:
    for _, shape, _ in AT_ONCE:
        calm.submitted(shape)
    trainings = []
    for number, cell in enumerate(AT_ONCE):
        training = begun(tmp_path / str(number), slurm, cell)
        trainings.append((cell, training))
        if cell[2] == GUARD:
            training.close()
    for (fault, _, way), training in trainings:
        if fault.strike is not None:
            fault.strike(training)
        if way == GUARD:
            training.until_idle(150)
            training.open()
    for (_, _, way), training in trainings:
        training.end(guarded=way == GUARD)
    for cell, training in trainings:
        check(training, cell, calm(cell[1]))


def cut_off(training: Struck, fault: Fault, way: str) -> AbstractContextManager[None]:
    """What runs cannot submit what comes after it: then a guard has to."""
    if way == CHAIN or not fault.forbids:
        return nullcontext()
    training.until(lambda: training.run.attempts(), "a first attempt")
    return nobody_may_submit(fault.partition)

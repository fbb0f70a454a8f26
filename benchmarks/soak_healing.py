"""One long training on the development cluster, struck at random until there were so many faults.

Ranks are killed and stopped, the worker is killed or told of its time limit, jobs are preempted,
nodes are lost, slurmctld and slurmdbd are killed and come back. In the end the weights must be
those of a twin that nobody touched; each attempt has run once, no two at a time, and
no step is lost that was saved. What happens when is drawn from the seed. Exit code 1 if not so.

    python -m benchmarks.soak_healing [--faults 100] [--seed 0] [--shape two-ranks]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from hpckit.devcluster import DevCluster
from hpckit.devcluster.daemons import MARK, kill_where
from tests.cluster.struck import EVERY, FENCE_S, SHAPES, STEPS, Shape, Struck, same, without

# Room for a save between two faults: what never gains a step is stopped, and rightly so.
LEAST, MOST = 2 * EVERY, 5 * EVERY
AFTER_S = 5
CUT_OFF_STEPS = 2000
BUDGETS = (
    f"heal: {{crash: {{limit: 10000}}, hang: {{limit: 10000, after: {AFTER_S}s}}}}",
    "limits: {attempts: 900, total: 10d, gpu_hours: 10000}",
)
SHAPES_BY_NAME = {shape.name.replace(" ", "-"): shape for shape in SHAPES}


def rank_of(training: Struck, rng: random.Random) -> int | None:
    """The process of one of the ranks that train just now."""
    attempt, launch = training.launches[-1]
    marks = {
        f"HPCKIT_RUN_DIR={training.run.dir}",
        f"HPCKIT_ATTEMPT={attempt}",
        f"HPCKIT_LAUNCH={launch}",
    }
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            environ = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            words = (folder / "cmdline").read_bytes()
            if marks <= set(environ) and words.startswith(b"python"):
                rank = next(each for each in environ if each.startswith("RANK="))
                found[rank] = int(folder.name)
    return found[rng.choice(sorted(found))] if found else None


def signal_a_rank(number: signal.Signals) -> Callable[[Struck, random.Random], None]:
    def strike(training: Struck, rng: random.Random) -> None:
        rank = rank_of(training, rng)
        if rank is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank, number)

    return strike


def signal_the_worker(number: signal.Signals) -> Callable[[Struck, random.Random], None]:
    def strike(training: Struck, rng: random.Random) -> None:
        with contextlib.suppress(ProcessLookupError):
            training.strike(number)

    return strike


def preempt(training: Struck, rng: random.Random) -> None:
    wrap = ["--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 2"]
    subprocess.run(["sbatch", *wrap], check=True, capture_output=True)


def cut_off_a_node(training: Struck, rng: random.Random) -> None:
    """What runs there lives on, and nobody hears of it."""
    job = training.run.attempts()[-1].about()["job_id"]
    with without(training.cluster, f"slurmd-{rng.choice(training.nodes)}"):
        training.until(lambda: is_given_up(training, job), "a node that is given up")


def lose_a_node(training: Struck, rng: random.Random) -> None:
    """As if it had lost its power: nothing that ran there lives."""
    job = training.run.attempts()[-1].about()["job_id"]
    node = rng.choice(training.nodes)
    conf = training.cluster.env()["SLURM_CONF"]
    kill_where(lambda each: each.get(MARK) == f"slurmd-{node}:{training.cluster.folder}")
    kill_where(lambda each: (each.get("SLURMD_NODENAME"), each.get("SLURM_CONF")) == (node, conf))
    with without(training.cluster, f"slurmd-{node}"):
        training.until(lambda: is_given_up(training, job), "a node that is given up")


def is_given_up(training: Struck, job: str) -> bool:
    jobs = training.jobs()
    return training.state is not None or (
        jobs is not None and all(each.job_id != job for each in jobs)
    )


def lose(daemon: str) -> Callable[[Struck, random.Random], None]:
    """For a while in which something ends or begins."""

    def strike(training: Struck, rng: random.Random) -> None:
        with without(training.cluster, daemon):
            rng.choice([signal_a_rank(signal.SIGKILL), signal_the_worker(signal.SIGUSR2)])(
                training, rng
            )
            time.sleep(rng.uniform(1, 8))

    return strike


FAULTS: dict[str, tuple[int, Callable[[Struck, random.Random], None]]] = {
    "rank killed": (5, signal_a_rank(signal.SIGKILL)),
    "rank stopped": (2, signal_a_rank(signal.SIGSTOP)),
    "worker killed": (2, signal_the_worker(signal.SIGKILL)),
    "time limit": (3, signal_the_worker(signal.SIGUSR2)),
    "preempted": (2, preempt),
    "node lost": (1, lose_a_node),
    "node cut off": (1, cut_off_a_node),
    "slurmctld lost": (2, lose("slurmctld")),
    "slurmdbd lost": (1, lose("slurmdbd")),
}


def drawn(faults: int, rng: random.Random) -> list[tuple[int, str]]:
    """What is to happen, and after how many steps more."""
    weights = [weight for weight, _ in FAULTS.values()]
    names = rng.choices(list(FAULTS), weights, k=faults)
    return [(rng.randint(LEAST, MOST), name) for name in names]


def strike_on(training: Struck, faults: list[tuple[int, str]], rng: random.Random) -> Counter[str]:
    """Fault after fault, each when the run has come on by some steps."""
    struck: Counter[str] = Counter()
    reached = 0
    for number, (gap, name) in enumerate(faults, start=1):
        reached = until_step(training, reached + gap)
        if training.state is not None:
            break
        print(f"{number:>4}  step {reached:>6}  {name}", flush=True)
        FAULTS[name][1](training, rng)
        struck[name] += 1
    return struck


def until_step(training: Struck, step: int) -> int:
    """Until the newest launch has come there, or is over; where it is."""

    def now() -> int:
        told = training.told()
        place = training.launches[-1:] or [(0, 0)]
        newest = [each.step for each in told if (each.attempt, each.launch) == place[0]]
        return max(newest, default=0)

    # A rank that is stopped in a save is known after five minutes only.
    training.until(lambda: now() >= step or training.state is not None, f"step {step}", 480)
    return now()


@contextlib.contextmanager
def own_cluster() -> Iterator[DevCluster]:
    """A cluster in a folder of its own; jobs that run in it see nobody's settings."""
    with tempfile.TemporaryDirectory(prefix="hpckit-", dir="/tmp") as folder:
        cluster = DevCluster(folder)
        cluster.up()
        os.environ["SLURM_CONF"] = cluster.env()["SLURM_CONF"]
        try:
            yield cluster
        finally:
            cluster.down()


def soak(folder: Path, shape: Shape, faults: int, seed: int) -> bool:
    """Whether all that must hold did; what happened is printed."""
    for name in ("CACHE", "CONFIG", "STATE"):
        os.environ[f"XDG_{name}_HOME"] = str(folder / name.lower())
    rng = random.Random(seed)
    planned = drawn(faults, rng)
    # A training on a node that is cut off goes on until that is noticed.
    needed = sum(gap + CUT_OFF_STEPS * (name == "node cut off") for gap, name in planned)
    steps = -(-(needed + 2 * MOST + faults * EVERY) // STEPS) * STEPS
    with own_cluster() as cluster:
        calm = Struck(folder / "calm", cluster, shape)
        calm.submit(*BUDGETS, steps=steps, step_s=0.0)
        training = Struck(folder / "struck", cluster, shape)
        calm.end(seconds=3600)
        training.submit(*BUDGETS, steps=steps, partition="low")
        began = time.monotonic()
        struck = strike_on(training, planned, rng)
        training.end(seconds=3600)
        took = time.monotonic() - began
        training.check(may_overlap_s=FENCE_S)
        is_same = same(shape, training.weights, calm.weights)
    told = ", ".join(f"{count} {name}" for name, count in struck.most_common())
    lost = training.lost
    print(
        f"seed {seed}, {shape.name}: {struck.total()} faults ({told}) in {steps} steps and "
        f"{took / 60:.1f} min: {len(training.run.attempts())} attempts, "
        f"{len(training.launches)} launches, {sum(lost)} steps done again, at most "
        f"{max(lost, default=0)} at once; nothing lost, nothing doubled, "
        f"{'the same' if is_same else 'OTHER'} final weights"
    )
    return is_same and struck.total() == faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shape", choices=SHAPES_BY_NAME, default="two-ranks")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        fine = soak(Path(folder), SHAPES_BY_NAME[given.shape], given.faults, given.seed)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())

"""Planning and submitting a sweep of 1,000 points on a real Slurm: at most 3 s.

Beside it submitit's own batch() of 1,000 jobs, which makes no run folders, on the same Slurm in
the same process start. Needs SLURM_CONF (hpckit cluster env), or starts a cluster of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

POINTS = 1_000
ROUNDS = 5
SPEC = """
name: wide
program: python train.py --seed {params.seed}
resources: {time: 5m}
slurm: {begin: now+1hour}
sweep: {seeds: 1000, at_most: 2}
"""
RIVAL = """
import sys
import submitit
executor = submitit.SlurmExecutor(folder=sys.argv[1])
executor.update_parameters(time=5, array_parallelism=2)
executor.update_parameters(additional_parameters={"begin": "now+1hour"})
with executor.batch():
    jobs = [executor.submit(print, seed) for seed in range(1000)]
print(jobs[0].job_id)
"""


def main() -> None:
    with cluster(), tempfile.TemporaryDirectory() as folder:
        job = Path(folder, "job")
        job.mkdir()
        (job / "train.py").write_text("print('training')\n")
        (job / "job.yaml").write_text(SPEC)
        ours, rival = [], []
        for number in range(ROUNDS):
            command = [sys.executable, "-m", "hpckit", "submit", str(job / "job.yaml"), "--json"]
            ours.append(seconds([*command, "--root", f"{folder}/runs"]))
            rival.append(seconds([sys.executable, "-c", RIVAL, f"{folder}/rival{number}"]))
            subprocess.run(["scancel", "--me"], check=False)
        median, other = statistics.median(ours), statistics.median(rival)
        folders = sum(1 for _ in Path(folder, "runs", "wide").glob("*/[0-9]*"))
        assert folders == POINTS * ROUNDS
        print(
            f"hpckit submit of {POINTS} points: {median:.2f} s (at most 3), with {POINTS} run "
            f"folders; submitit batch(): {other:.2f} s, without; ratio {median / other:.2f}"
        )


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, "HPCKIT_CLUSTER": ""}
    )
    return time.perf_counter() - began


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """The Slurm that is there, or one that lives as long as the benchmark."""
    if "SLURM_CONF" in os.environ or Path("/etc/slurm/slurm.conf").exists():
        yield
        return
    from hpckit.devcluster import DevCluster

    folder = Path(tempfile.mkdtemp(prefix="hpckit-", dir="/tmp"))
    own = DevCluster(folder)
    own.up()
    os.environ.update(own.env())
    try:
        yield
    finally:
        own.down()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

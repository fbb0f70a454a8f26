"""A real Slurm for the tests of this folder: one cluster a process, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpckit.devcluster import DevCluster
from hpckit.devcluster.machine import require_programs, require_root
from hpckit.errors import ClusterError


def why_not() -> str:
    """Why no cluster can run here, or nothing where one can."""
    try:
        require_root()
        require_programs()
    except ClusterError as error:
        return str(error)
    return ""


def is_required() -> bool:
    """Whether a run without Slurm counts as a failure, as it does in CI."""
    return os.environ.get("HPCKIT_REQUIRE_SLURM") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip this folder's tests where no cluster can run, unless one is required."""
    reason = why_not()
    if not reason or is_required():
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder for a cluster, which is taken down at the end."""
    # pytest's own temporary folders are too long for Unix sockets.
    folder = Path(tempfile.mkdtemp(prefix="hpckit-", dir="/tmp"))
    try:
        yield folder
    finally:
        if not why_not():
            DevCluster(folder).down()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def slurm() -> Iterator[DevCluster]:
    """A cluster that is up, and that SLURM_CONF of this process names."""
    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        cluster = DevCluster(folder)
        cluster.up()
        # Slurm's variables of a job that pytest may run in would go into the jobs of the tests.
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
            patch.delenv(name)
        patch.setenv("SLURM_CONF", cluster.env()["SLURM_CONF"])
        yield cluster


@pytest.fixture
def other_folder() -> Iterator[Path]:
    """A short folder for a second cluster."""
    with short_folder() as folder:
        yield folder


@pytest.fixture(autouse=True)
def empty_queue(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test leaves in the queue, a failed one above all, must not hold up the next."""
    yield
    if "slurm" not in request.fixturenames:
        return
    subprocess.run(["scancel", "--me"], capture_output=True, check=False)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        queue, nodes = told("squeue", "-h"), told("sinfo", "-h", "-p", "main", "-o", "%T")
        if queue == "" and nodes == "idle":
            return
        time.sleep(0.2)
    why = told("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T %E %C")
    raise AssertionError(f"left behind: {queue!r}, nodes {why!r}")


def told(*command: str) -> str | None:
    """What a command of Slurm prints, None where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None

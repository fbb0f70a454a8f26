"""What all tests share: a home of their own, so that nobody's runs or settings are touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CLUSTER = Path(__file__).parent / "cluster"
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


# A shell that runs the tests in the background has Ctrl-C ignored, and what they start inherits it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The cluster's tests wait most and take longest, so that they begin first."""
    items.sort(key=lambda item: CLUSTER not in item.path.parents)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every folder that hpckit writes to by itself, under a fresh one."""
    home = tmp_path_factory.mktemp("home")
    for name in ("HPCKIT_ROOT", "HPCKIT_CLUSTER", "HPCKIT_DATA", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name in list(os.environ):
        if name.startswith("SLURM_") and name != "SLURM_CONF":
            monkeypatch.delenv(name)
    for name in ("CACHE", "CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
    monkeypatch.setenv("HPCKIT_LOCAL_DIR", str(home / "local"))
    # However few this machine has: how many run at once is what some tests look at.
    monkeypatch.setenv("HPCKIT_LOCAL_CPUS", "16")
    monkeypatch.setenv("COLUMNS", "200")
    return home


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The real program, as a person starts it, in a folder of the test's own."""

    def call(
        *args: str | Path,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        code: int | None = 0,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "hpckit", *map(str, args)],
            cwd=cwd or tmp_path,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=180,
            stdin=subprocess.DEVNULL,
        )
        assert code is None or done.returncode == code, (
            f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    return call


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Path]:
    """A job folder with a spec of the given lines under name and program."""

    def write(program: str = "echo hello", *lines: str, name: str = "tiny") -> Path:
        folder = tmp_path / "job"
        folder.mkdir(exist_ok=True)
        spec = folder / "job.yaml"
        head = f"name: {name}\nprogram: {program}\n"
        spec.write_text(head + "".join(f"{line}\n" for line in lines))
        return spec

    return write


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of a size of its own."""
    if os.getuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "small"
    disk.mkdir()

    def mount(size: str) -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], check=True)
        return disk

    yield mount
    # What still runs may write there.
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The same numbers in every process, however many threads it would have."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

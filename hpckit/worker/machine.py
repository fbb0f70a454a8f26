"""What an attempt found: the machine that it runs on, as the worker can know it."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from pathlib import Path
from typing import Any

from hpckit import __version__
from hpckit.files import read_json, write_json
from hpckit.paint import counted
from hpckit.run import Attempt, Run

DRIVER = Path("/proc/driver/nvidia")
# A file an attempt or a launch: who knows nothing of hpckit writes none of its own.
FOLDER = "environment"


def write_down(run: Run, attempt: Attempt, code: str | None = None) -> None:
    """For whoever asks later why it was slower, or different; nothing depends on it."""
    source = read_json(run.home / "code.json" if code is None else run.dir / f"{code}.json")
    about = source if isinstance(source, dict) else {}
    found = {**machine(), "source": about.get("source"), "commit": about.get("commit")}
    with contextlib.suppress(OSError):
        (attempt.dir / FOLDER).mkdir(exist_ok=True)
        write_json(attempt.dir / FOLDER / "worker.json", found, durable=False)


def machine() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory": _memory(),
        "gpus": counted(_gpus()),
        "driver": _driver(),
        "worker_python": platform.python_version(),
        "hpckit": __version__,
    }


def _memory() -> str | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB"
    return None


def _gpus() -> list[str]:
    """By the driver's own words: no library is loaded, and no GPU is woken."""
    found = []
    for path in sorted(DRIVER.glob("gpus/*/information")):
        with contextlib.suppress(OSError):
            lines = path.read_text(errors="replace").splitlines()
            found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return found


def _driver() -> str | None:
    with contextlib.suppress(OSError, IndexError):
        return (DRIVER / "version").read_text(errors="replace").split("Module")[1].split()[0]
    return None

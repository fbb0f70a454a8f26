"""What can be seen on this machine without asking Slurm."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from hpckit.doctor import FAIL, OK, WARN, Finding

PACKAGES = ("submitit", "torch", "torchaudio", "pesq", "pyyaml", "click")
TOOLS = {
    "git": "shows which version of the code a run had",
    "ssh": "needed to submit to another machine's cluster",
    "rsync": "needed to submit to another machine's cluster",
}
LOW_GB = 5.0


def check(root: Path) -> Iterator[Finding]:
    yield Finding(check="python", status=OK, message=f"{sys.version.split()[0]}, {sys.executable}")
    yield from _packages()
    yield from _tools()
    yield from _root(root)


def _packages() -> Iterator[Finding]:
    # Versions come from the packages' metadata: importing torch would take seconds.
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(
                check="packages",
                status=FAIL,
                message=f"{name} is not installed",
                remedy=f"pip install {name}",
            )
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield Finding(check="packages", status=OK, message=told)


def _tools() -> Iterator[Finding]:
    for tool, why in TOOLS.items():
        if shutil.which(tool) is None:
            yield Finding(
                check="tools",
                status=WARN,
                message=f"{tool} is missing: {why}",
                remedy=f"ask for {tool}, or load its module",
            )
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        answer = subprocess.run(
            ["sbatch", "--version"], capture_output=True, text=True, timeout=20, check=False
        )
        yield Finding(check="tools", status=OK, message=answer.stdout.strip())


def _root(root: Path) -> Iterator[Finding]:
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    if not os.access(place, os.W_OK):
        yield Finding(
            check="root",
            status=FAIL,
            message=f"{place} cannot be written",
            remedy="choose another place for runs with HPCKIT_ROOT or --root",
        )
        return
    free_gb = shutil.disk_usage(place).free / 1e9
    low = free_gb < LOW_GB
    yield Finding(
        check="root",
        status=WARN if low else OK,
        message=f"runs live under {root}, {free_gb:.0f} GB free",
        remedy="hpckit prune frees space, or choose another place with HPCKIT_ROOT" if low else "",
    )

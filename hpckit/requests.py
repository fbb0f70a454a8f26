"""What a person asks of a live training, by a file in the run's folder."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpckit.files import read_json, write_json

FOLDER = "requests"
SAVE = "save"
# Asked of the worker: the attempt is to save and end.
END = "end"
LOOK_S = 2.0


def ask(run_folder: Path, what: str, why: str = "", job: str | None = None) -> Path:
    """Leave a request, for a certain job if it is named; whoever serves it removes the file."""
    folder = run_folder / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{what}-{os.getpid()}-{os.urandom(3).hex()}.json"
    write_json(path, {"what": what, "why": why, "job": job, "by": os.environ.get("USER", "")})
    return path


def waiting(run_folder: Path, what: str, job: str) -> str | None:
    """Why something is asked of a job; None where it is not.

    What was asked of a job that has ended before it heard of it is nobody else's business.
    """
    about = next((about for _, about in _asked(run_folder, what, job)), None)
    return None if about is None else str(about.get("why") or what)


def served(run_folder: Path, what: str, job: str) -> None:
    """Nobody need hear of it any more: the job that it was asked of does it, or has ended."""
    for path, _ in _asked(run_folder, what, job):
        with contextlib.suppress(OSError):
            path.unlink()


def _asked(run_folder: Path, what: str, job: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The requests of a kind that are for a job, by name."""
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(run_folder / FOLDER)):
            about = read_json(run_folder / FOLDER / name) if name.startswith(what) else None
            if isinstance(about, dict) and about.get("job") in (None, job):
                yield run_folder / FOLDER / name, about


class Requests:
    """Looks now and then whether there is one."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder / FOLDER
        self._looked = time.monotonic()
        self._served: list[Path] = []

    def any(self) -> bool:
        """Whether somebody asks for a checkpoint."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return False
        self._looked = now
        with contextlib.suppress(OSError):
            self._served = [each for each in self._folder.iterdir() if each.name.startswith(SAVE)]
        return bool(self._served)

    def serve(self) -> None:
        """It is done: who asked sees it by the file that is gone."""
        served, self._served = self._served, []
        for path in served:
            with contextlib.suppress(OSError):
                path.unlink()

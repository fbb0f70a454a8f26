"""What a person asks of a live training, by a file in the run's folder."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from hpckit.files import read_json, write_json

FOLDER = "requests"
SAVE = "save"
# Asked of the worker: the attempt is to save and end.
END = "end"
LOOK_S = 2.0


def ask(run_folder: Path, what: str, why: str = "") -> Path:
    """Leave a request; whoever serves it removes the file."""
    folder = run_folder / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{what}-{os.getpid()}-{os.urandom(3).hex()}.json"
    write_json(path, {"what": what, "why": why, "by": os.environ.get("USER", "")})
    return path


def waiting(run_folder: Path, what: str) -> str | None:
    """Why something is asked for; None where it is not."""
    try:
        found = sorted(each for each in os.listdir(run_folder / FOLDER) if each.startswith(what))
    except OSError:
        return None
    if not found:
        return None
    about = read_json(run_folder / FOLDER / found[0])
    return str(about.get("why") or what) if isinstance(about, dict) else what


def served(run_folder: Path, what: str) -> None:
    """It is done, for all who asked for it."""
    with contextlib.suppress(OSError):
        for name in os.listdir(run_folder / FOLDER):
            if name.startswith(what):
                (run_folder / FOLDER / name).unlink()


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

"""What a person asks of a live training, by a file in the run's folder."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from hpckit.files import write_json

FOLDER = "requests"
SAVE = "save"
LOOK_S = 2.0


def ask(run_folder: Path, what: str) -> Path:
    """Leave a request; whoever serves it removes the file."""
    folder = run_folder / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{what}-{os.getpid()}-{os.urandom(3).hex()}.json"
    write_json(path, {"what": what, "by": os.environ.get("USER", "")})
    return path


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

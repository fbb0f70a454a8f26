"""A rank's sign of life, for whoever watches it; and its end, once another one serves the run.

A thread of its own: it writes where the training stands and counts its beats, so a training that
hangs shows by a step that stays as it is, and a process that is frozen by its beat. Python's
stacks of all threads go beside it when the process gets SIGABRT, even while the main thread waits
in C.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hpckit.run import served_by_another

EVERY_S = 1.0
# What a rank ends with that has seen another launch serve the run; other programs may mean
# something else by it.
FENCED = 77
# In the loop's body a step comes soon. What comes there after a step may be a validation, or not;
# before the loop, between two epochs, and while saving it may be long.
START, STEP, AFTER, BETWEEN, SAVING = "start", "step", "after", "between", "saving"
# So many steps of a process may compile something: it is still starting.
FIRST_STEPS = 3


class Pulse:
    """Beats once a second."""

    def __init__(self, path: Path, look: Callable[[], tuple[int, str]]) -> None:
        self._path = path
        self._look = look
        self._beats = 0
        # What was seen before must not be written after what was seen later.
        self._lock = threading.Lock()

    def start(self, environ: Mapping[str, str]) -> None:
        """`environ` says which launch of which attempt this is."""
        self._run_dir = Path(environ["HPCKIT_RUN_DIR"])
        self._place = (
            int(environ.get("HPCKIT_ATTEMPT", "1")),
            int(environ.get("HPCKIT_LAUNCH", "1")),
        )
        with contextlib.suppress(OSError):
            # It stays open: a process that is about to die opens nothing.
            stacks = open(self._path.with_suffix(".stacks"), "w")  # noqa: SIM115
            faulthandler.enable(file=stacks)
            self._stacks = stacks
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def _beat(self) -> None:
        while True:
            if served_by_another(self._run_dir, *self._place):
                self._end()
            self._beats += 1
            self.say()
            time.sleep(EVERY_S)

    def say(self) -> None:
        """Write where the training stands; a process that is about to end beats no more."""
        with contextlib.suppress(Exception), self._lock:
            step, phase = self._look()
            self._path.write_text(f"{step} {phase} {self._beats}\n")

    @staticmethod
    def _end() -> None:
        """At once, and without any last words: nothing of what is here is to be written."""
        with contextlib.suppress(Exception):
            print("hpckit: another launch serves this run by now: ending", flush=True)
        os._exit(FENCED)

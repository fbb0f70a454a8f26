"""SIGTERM: the time limit, a preemption or a person; the training saves at its next boundary."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Ends:
    """Notes the signal; the program's own handler hears of it, too."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None
        self._installed = False

    def install(self) -> None:
        # Only the main thread may; a loop on another one is told by nobody.
        if self._installed or threading.current_thread() is not threading.main_thread():
            return
        self._before = signal.signal(signal.SIGTERM, self._note)
        self._installed = True

    def remove(self) -> None:
        """The loop is over: from here on the signal does what it did before."""
        if self._installed and signal.getsignal(signal.SIGTERM) == self._note:
            signal.signal(signal.SIGTERM, self._before)
            self._installed = False

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True
        if callable(self._before):
            self._before(number, frame)

"""What has been signalled to the worker so far; handlers only take note."""

from __future__ import annotations

import signal
from dataclasses import dataclass


@dataclass(kw_only=True)
class Signals:
    """Up before anything else: a signal that comes earlier would kill the worker."""

    time_limit: bool = False
    terminated: bool = False
    # Until then, by time.monotonic(), the program may be ending by itself.
    patient_until: float = 0.0

    def install(self, *ending: int) -> None:
        """Listen; `ending` are further signals that mean the same as SIGTERM."""
        signal.signal(signal.SIGUSR2, self._note)
        for number in (signal.SIGTERM, *ending):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        if number == signal.SIGUSR2:
            self.time_limit = True
        else:
            self.terminated = True

"""How a program that was not written for it ends at our word, with the exit code that is meant."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import NoReturn

# What a program's own end may take; some have threads that never end.
GRACE_S = 60.0


class Ending:
    """Asks the program to end, and insists."""

    def __init__(self) -> None:
        self.code: int | None = None

    def ask(self, code: int) -> NoReturn:
        self.code = code
        timer = threading.Timer(GRACE_S, self.leave)
        timer.daemon = True
        timer.start()
        self.insist()

    def insist(self) -> NoReturn:
        """Once more, should an `except:` of the program have taken it for one of its errors."""
        if threading.current_thread() is not threading.main_thread():
            # It would end that thread alone.
            self.leave()
        raise SystemExit(self.code)

    def leave(self) -> None:
        """Now, where it was asked: an interpreter that takes gloo's threads down may abort."""
        if self.code is not None:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            os._exit(self.code)

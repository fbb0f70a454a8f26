"""Last words: what must not be lost is written again and again for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

from hpckit.clock import now_iso
from hpckit.files import write_json
from hpckit.run import Attempt
from hpckit.worker.outcome import Outcome

INSIST_S = 120.0


def end_attempt(attempt: Attempt, outcome: Outcome, for_s: float = INSIST_S) -> None:
    """The attempt's own last word."""
    about = {
        "ended": now_iso(),
        "reason": outcome.reason,
        "exit_code": outcome.exit_code,
        "program": outcome.program,
    }
    insist(lambda: write_json(attempt.dir / "ended.json", about), for_s)


def insist(write: Callable[[], None], for_s: float = INSIST_S) -> None:
    """Write what must not be lost, however long the filesystem refuses within a time."""
    until = time.monotonic() + for_s
    while True:
        try:
            return write()
        except OSError as error:
            if time.monotonic() > until:
                raise
            print(f"hpckit: {error}: trying again", flush=True)
            time.sleep(5.0)

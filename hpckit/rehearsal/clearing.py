"""What is undone after a rehearsal, whatever happened in it."""

from __future__ import annotations

import contextlib
import functools
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpckit.cancelling import cancel_run
from hpckit.errors import HpckitError, SchedulerSilent
from hpckit.paint import note
from hpckit.run import open_run
from hpckit.scheduler.base import Phase

if TYPE_CHECKING:
    from hpckit.scheduler.base import Scheduler
    from hpckit.status.queue_cache import QueueCache

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A program that is told to end may save, and is killed after this at most sites.
GONE_S = 60.0
LONGEST_PAUSE_S = 10.0


def unhurried(act: Callable[[], object]) -> Callable[[], None]:
    """The act, during which no second Ctrl-C comes through, and whose failure is told."""

    @functools.wraps(act)
    def undone() -> None:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in INTERRUPTS}
        try:
            act()
        except (HpckitError, OSError) as error:
            note(f"hpckit: not undone: {error}")
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    return undone


def cancelled(run_dir: Path, scheduler: Scheduler) -> None:
    """End what is alive of a rehearsed run; one that was never submitted has left nothing."""
    run = open_run(run_dir)
    if run is not None:
        cancel_run(run)


def gone(scheduler: Scheduler | QueueCache, name: str) -> bool:
    """Wait until no job of a name is alive, for so long as ending may take."""
    until, pause_s = time.monotonic() + GONE_S, 0.25
    while time.monotonic() < until:
        try:
            jobs = [each for each in scheduler.queue() if each.name == name]
        except SchedulerSilent:
            return False
        if all(each.phase is Phase.ENDED for each in jobs):
            return True
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    return False


def removed(run_dir: Path) -> None:
    """Delete what is of no use any more, and the corner with the last of it."""
    shutil.rmtree(run_dir, ignore_errors=True)
    for folder in (run_dir.parent, run_dir.parent.parent):
        with contextlib.suppress(OSError):
            folder.rmdir()

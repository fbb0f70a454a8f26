"""A process and everything it started: found, signalled and ended, however it tried to hide.

The one who looks after a tree is its subreaper: what detaches itself comes back as its child.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType

from hpckit.scheduler.local_state import MARK, is_dead, stat_of

PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.03
# A process in uninterruptible sleep, on a dead network disk say, may outlive SIGKILL.
GIVE_UP_S = 60.0


class Bell:
    """Wakes whoever waits when a signal arrives, and remembers which did."""

    def __init__(self, *numbers: int) -> None:
        self._rung: set[int] = set()
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, self._ring)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        self._rung.add(number)

    def wait(self, timeout_s: float | None) -> None:
        """Until a signal arrives, or so long."""
        bounded = None if timeout_s is None else max(0.0, timeout_s)
        select.select([self._read], [], [], bounded)
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)

    def rang(self, number: int) -> bool:
        """Whether a signal arrived since this was last asked."""
        if number not in self._rung:
            return False
        self._rung.discard(number)
        return True


def become_subreaper() -> None:
    """From now on, orphans among the descendants become children of this process."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> dict[int, list[int]]:
    """Every parent's children, zombies left out."""
    found: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and (fields := stat_of(entry.name)) and not is_dead(fields):
            found.setdefault(int(fields[1]), []).append(int(entry.name))
    return found


def descendants(of: int | None = None) -> list[int]:
    """All descendants of a process, this one by default, but supervisors and keepers of jobs."""
    below = children()
    found: list[int] = []
    todo = list(below.get(os.getpid() if of is None else of, ()))
    while todo:
        pid = todo.pop()
        if not _is_ours(pid):
            found.append(pid)
            todo += below.get(pid, ())
    return found


def _is_ours(pid: int) -> bool:
    try:
        return f"{MARK}=".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def send(pids: Collection[int], *numbers: int) -> None:
    """Send signals to processes, those that are gone passed over."""
    for pid in pids:
        for number in numbers:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


def end(bell: Bell, reap: Callable[[], bool], *, kill_wait_s: float) -> bool:
    """End all descendants: SIGTERM, then after a wait SIGKILL; False where some would not die.

    `reap` collects the dead and says whether any child is left at all.
    """
    if not reap():
        return True
    # A stopped process hears SIGTERM only once it goes on.
    send(descendants(), signal.SIGTERM, signal.SIGCONT)
    begin = time.monotonic()
    while reap() and (left := descendants()):
        waited = time.monotonic() - begin
        if waited >= kill_wait_s:
            send(left, signal.SIGKILL)
        if waited >= kill_wait_s + GIVE_UP_S:
            return False
        bell.wait(POLL_S)
    # The last one may have died between being reaped for and being looked for.
    reap()
    return True

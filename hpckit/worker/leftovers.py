"""All that a command started, found wherever it hid, and killed.

A group and a session are left in one call; an environment is inherited until somebody clears it.
What cleared it, left the session and lost its parent is beyond what can be known.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from hpckit.scheduler.local_state import MARK as SUPERVISOR
from hpckit.scheduler.local_state import is_dead, stat_of

MARK = "HPCKIT_MARK"
# What forks while it is being killed is looked for again.
ROUNDS = 50
PAUSE_S = 0.02
# A job that the command submitted carries its mark too, on this node perhaps, and is not its own.
ELSEWHERE = (b"SLURM_JOB_ID=", SUPERVISOR.encode() + b"=")


def kill_all(leader: int, mark: str) -> int:
    """Kill a command and what it started; how many processes there were beside its own.

    The command must not be reaped before: until then nobody else can have its number.
    """
    seen: set[int] = set()
    for _ in range(ROUNDS):
        found = members(leader, mark)
        # The group as a whole first: what forks all the time is never found alive.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
        if not found:
            break
        seen |= found
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(PAUSE_S)
    return len(seen - {leader})


def members(leader: int, mark: str) -> set[int]:
    """The living processes of a command's session, with its mark, or below these."""
    table = _living()
    named = f"{MARK}={mark}".encode()
    found, others = set(), set()
    for pid, (_, session) in table.items():
        if session == leader:
            found.add(pid)
            continue
        environ = _environ(pid)
        if any(environ.startswith(each) or b"\0" + each in environ for each in ELSEWHERE):
            others.add(pid)
        elif named in environ:
            found.add(pid)
    return _with_children(found, {pid: row[0] for pid, row in table.items() if pid not in others})


def _with_children(found: set[int], parents: dict[int, int]) -> set[int]:
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _living() -> dict[int, tuple[int, int]]:
    """Every process but this one: its parent and its session."""
    table: dict[int, tuple[int, int]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            fields = stat_of(name) if name.isdecimal() and int(name) != os.getpid() else None
            if fields and not is_dead(fields):
                table[int(name)] = (int(fields[1]), int(fields[3]))
    return table


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""

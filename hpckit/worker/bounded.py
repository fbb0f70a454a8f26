"""One outside command that cannot hold us up: fed, listened to, and ended when its time is over."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpckit.worker.leftovers import MARK, kill_all, members

TICK_S = 0.05
CHUNK = 64 * 1024
# A pipe holds no more than this, whoever goes on writing into it.
MOST_IN_A_PIPE = 1024 * 1024
# What a command ends with may end a moment later than its shell: the `tee` of `> >(tee log)`.
LINGER_S = 0.5
# A process in uninterruptible sleep, on a dead network disk say, outlives SIGKILL.
REAP_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a command ended: its exit code, None where it was killed for taking too long."""

    code: int | None
    # Processes that it left behind, and that were killed.
    left: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What a command may take."""

    is_late: Callable[[], bool]
    # Takes in what it prints.
    take: Callable[[bytes], object]
    # Whether what it started may go on without it.
    may_leave: bool = False


def run_bounded(
    command: Sequence[str],
    *,
    given: bytes,
    bounds: Bounds,
    cwd: Path | None = None,
    env: Mapping[str, str],
) -> Ended:
    """Run a command with `given` on its stdin; OSError where it cannot be started."""
    mark = os.urandom(8).hex()
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        cwd=cwd,
        env={**env, MARK: mark},
        start_new_session=True,
    )
    try:
        was_late = not _attend(process, given, bounds)
        left = 0
        if was_late:
            kill_all(process.pid, mark)
        elif not bounds.may_leave:
            _linger(process, mark, bounds.take)
            left = kill_all(process.pid, mark)
        _drain(process, bounds.take)
    except BaseException:
        kill_all(process.pid, mark)
        raise
    finally:
        _close(process)
    return Ended(code=None if was_late else process.returncode, left=left)


def _attend(process: subprocess.Popen[bytes], given: bytes, bounds: Bounds) -> bool:
    """Feed it and listen to it until it ends; whether it did so in time."""
    assert process.stdin is not None
    assert process.stdout is not None
    into, out = process.stdin.fileno(), process.stdout.fileno()
    rest = memoryview(given)
    with selectors.DefaultSelector() as waiting:
        for pipe, event in ((into, selectors.EVENT_WRITE), (out, selectors.EVENT_READ)):
            os.set_blocking(pipe, False)
            waiting.register(pipe, event)
        while not _has_ended(process.pid):
            if bounds.is_late():
                return False
            for key, _ in waiting.select(TICK_S):
                if key.fd == out:
                    goes_on = _drain(process, bounds.take)
                else:
                    rest = _feed(into, rest)
                    goes_on = bool(rest)
                if not goes_on:
                    waiting.unregister(key.fd)
                    if key.fd == into:
                        process.stdin.close()
    return True


def _feed(pipe: int, rest: memoryview) -> memoryview:
    """Write as much as goes in; nothing is left for who does not listen."""
    try:
        return rest[os.write(pipe, rest) :]
    except BlockingIOError:
        return rest
    except OSError:
        return memoryview(b"")


def _linger(process: subprocess.Popen[bytes], mark: str, take: Callable[[bytes], object]) -> None:
    """Give what it left a moment to end by itself."""
    until = time.monotonic() + LINGER_S
    while time.monotonic() < until and members(process.pid, mark):
        _drain(process, take)
        time.sleep(TICK_S)


def _drain(process: subprocess.Popen[bytes], take: Callable[[bytes], object]) -> bool:
    """Take in what is there; whether anything may still come.

    What is not kept is read all the same, or its writer would stand still. The pipe may be held
    open for ever by what the command left.
    """
    assert process.stdout is not None
    with contextlib.suppress(BlockingIOError):
        for _ in range(MOST_IN_A_PIPE // CHUNK):
            data = os.read(process.stdout.fileno(), CHUNK)
            if not data:
                return False
            take(data)
    return True


def _has_ended(pid: int) -> bool:
    """Whether it is dead; it is not reaped, so that its number remains its own."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(REAP_S)

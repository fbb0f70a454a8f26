"""A launch in the foreground: the program has our stdin, and what it prints is kept as well."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hpckit.scheduler.local_tree import descendants
from hpckit.worker.launch import Launch, inside_slurm, rank_environment, srun_command
from hpckit.worker.rank_script import RANK, Layout

CTRL_C = b"\x03"
# So many Ctrl-C in a row are meant for whoever can end the program.
ENOUGH = 3


def has_terminal() -> bool:
    """Whether the program is to get a terminal of its own, joined to ours."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def is_before_a_person() -> bool:
    """Whether a terminal's Ctrl-C reaches our whole process group by itself."""
    with contextlib.suppress(OSError):
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
        try:
            return os.tcgetpgrp(terminal) == os.getpgrp()
        finally:
            os.close(terminal)
    return False


def in_foreground(layout: Layout, logs: Path) -> Foreground:
    """The one rank of a launch with our stdin: under a terminal where there is one."""
    in_slurm = inside_slurm(os.environ)
    command = (
        srun_command(layout, logs, foreground=True) if in_slurm else ["bash", f"{logs}/{RANK}"]
    )
    environ = rank_environment(0, layout)
    if has_terminal():
        return TerminalProcess(command, environ, logs / "rank-0.log")
    return Piped(command, environ, logs / "rank-0.log")


class Foreground(Launch, Protocol):
    """A launch of one process of ours."""

    @property
    def pid(self) -> int: ...


class TerminalProcess:
    """A process under a terminal of its own that is joined to ours: debuggers and bars work."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self._code: int | None = None
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], list(command), dict(environ))
        self._size()
        signal.signal(signal.SIGWINCH, lambda *_: self._size())
        self._copier = threading.Thread(target=self._copy, args=(log,), daemon=True)
        self._copier.start()

    def poll(self) -> bool:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
                self._copier.join(timeout=2)
        return self._code is not None

    def signal(self, number: int) -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
        return True

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def _size(self) -> None:
        with contextlib.suppress(OSError):
            termios.tcsetwinsize(self._master, termios.tcgetwinsize(sys.stdin.fileno()))

    def _copy(self, log: Path) -> None:
        ours = sys.stdin.fileno()
        before = termios.tcgetattr(ours)
        # Raw, so that Ctrl-C and Ctrl-D reach the program as keys.
        tty.setraw(ours)
        try:
            with open(log, "ab", buffering=0) as kept:
                self._pass_on(ours, kept.fileno())
        finally:
            termios.tcsetattr(ours, termios.TCSADRAIN, before)

    def _pass_on(self, ours: int, kept: int) -> None:
        watched = [ours, self._master]
        places = [kept, sys.stdout.fileno()]
        pressed = 0
        while True:
            for ready in select.select(watched, [], [])[0]:
                try:
                    data = os.read(ready, 65536)
                except OSError:
                    # The program and all that it started have closed the terminal.
                    return
                if not data and ready == ours:
                    watched = [self._master]
                elif ready == ours:
                    _written(self._master, data)
                    pressed = pressed + len(data) if set(data) == set(CTRL_C) else 0
                    if pressed >= ENOUGH:
                        # It does not listen to its keyboard: then a person means us.
                        os.kill(os.getpid(), signal.SIGTERM)
                else:
                    # A full disk, or a window that was closed, must not stop the program.
                    places = [place for place in places if _written(place, data)]


class Piped:
    """One process that keeps our stdin; what it prints is copied, to us and to its log."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self._process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.pid = self._process.pid
        self._copier = threading.Thread(target=self._copy, args=(log,), daemon=True)
        self._copier.start()

    def poll(self) -> bool:
        if self._process.poll() is None:
            return False
        self._copier.join(timeout=2)
        return True

    def signal(self, number: int) -> bool:
        # It shares our process group, and with it the terminal's stdin: so each by itself.
        for pid in (*descendants(self._process.pid), self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return True

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def _copy(self, log: Path) -> None:
        assert self._process.stdout is not None
        with open(log, "ab", buffering=0) as kept:
            places = [kept.fileno(), sys.stdout.fileno()]
            while data := os.read(self._process.stdout.fileno(), 65536):
                # A reader that went away, or a full disk, must not stop the program: drain on.
                places = [place for place in places if _written(place, data)]


def _written(place: int, data: bytes) -> bool:
    try:
        while data:
            data = data[os.write(place, data) :]
    except OSError:
        return False
    return True

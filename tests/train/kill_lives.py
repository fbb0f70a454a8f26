"""Lives of trainings and their deaths: a server that has imported torch forks each of them.

    with Nursery() as nursery:
        life = nursery.live(run, "nested", attempt=1, launch=1, death=Death(after_s=0.2))

A fresh interpreter takes seconds to import torch; a fork takes milliseconds.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tests.train.bare import environment

ROOT = Path(__file__).parents[2]
SAVER, LOOP = "checkpoints", "MainThread"
# Of a life that does not end by itself.
MOST_S = 60.0
# A rank that is left alone is told to end, and then ended.
ALONE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Death:
    """How a life ends, if it does not come to its own end before."""

    # "kill" and "term" are signals; "raise" is an error in the body, "exit" a sys.exit(1).
    by: str = "kill"
    # A moment of the clock, a line of hpckit's code on a thread, or a step.
    after_s: float | None = None
    thread: str | None = None
    line: int | None = None
    step: int | None = None
    # Only this rank; the others follow, as a launcher sees to it.
    rank: int | None = None
    # The signal goes to its workers, too, as a scheduler's does.
    family: bool = False


NEVER = Death(by="nothing")
# Its own end, too, and the lines are counted.
COUNTED = Death(by="count")


@dataclass(frozen=True, kw_only=True)
class Life:
    """How it was: exit codes by rank, and the lines of hpckit's code that each thread ran."""

    codes: list[int]
    seconds: float
    log: str
    lines: dict[str, int]

    @property
    def is_done(self) -> bool:
        return all(code == 0 for code in self.codes)


class Nursery:
    """The server's other end."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.train.kill_lives"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=MOST_S)

    def live(
        self, run: Path, variant: str, ranks: int, *, attempt: int, launch: int, death: Death
    ) -> Life:
        """One launch of a training, to its end."""
        order = {
            "environ": environment(run, attempt=attempt, launch=launch),
            "variant": variant,
            "ranks": ranks,
            "death": asdict(death),
            "log": str(run / f"log-{attempt:03d}-{launch}.txt"),
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        told = json.loads(self._server.stdout.readline())
        return Life(**told, log=Path(order["log"]).read_text())


# The server.


def serve() -> None:
    train = _warm()
    for line in sys.stdin:
        order = json.loads(line)
        began = time.monotonic()
        processes = _born(order, train)
        codes = Launcher(processes, Death(**order["death"])).wait()
        lines: dict[str, int] = {}
        for path in Path(order["log"]).parent.glob(".lines-*"):
            lines |= json.loads(path.read_text())
            path.unlink()
        told = {"codes": codes, "seconds": time.monotonic() - began, "lines": lines}
        print(json.dumps(told), flush=True)


def _warm() -> Callable[..., None]:
    """Import all that a training imports; no thread may be there when a child is forked."""
    import importlib

    import torch

    torch.set_num_threads(1)
    names = ("event", "summary", "tensor")
    for name in names:
        importlib.import_module(f"tensorboard.compat.proto.{name}_pb2")
    importlib.import_module("tensorboard.summary.writer.record_writer")
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.zeros(2)
    # An optimizer's first step imports half of torch.
    torch.optim.AdamW([weight]).step()
    from tests.train.kill_trainings import main

    assert threading.active_count() == 1
    return main


def _born(order: dict[str, Any], train: Callable[..., None]) -> list[int]:
    Path(order["log"]).touch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(order["ranks"]):
        process = os.fork()
        if process == 0:
            about = {"RANK": rank, "WORLD_SIZE": order["ranks"], "MASTER_PORT": port}
            os.environ.update(order["environ"], MASTER_ADDR="127.0.0.1")
            os.environ.update({name: str(value) for name, value in about.items()})
            _live(order, rank, train)
        processes.append(process)
    return processes


def _live(order: dict[str, Any], rank: int, train: Callable[..., None]) -> None:
    """A child's whole life: as the interpreter's own end would be, without what the server is."""
    code = 1
    try:
        os.setsid()
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for stream, descriptor in enumerate((nothing, log, log)):
            os.dup2(descriptor, stream)
        death = Death(**order["death"])
        lines = Lines(death if death.rank in (None, rank) else NEVER)
        train(order["variant"], on_step=_at_step(death))
        code = 0
        if death.by == "count" and rank == 0:
            path = Path(order["log"]).parent / f".lines-{rank}"
            path.write_text(json.dumps(lines.by_thread))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
        os._exit(code)


def _at_step(death: Death) -> Callable[[int], None]:
    def on_step(step: int) -> None:
        if step != death.step:
            return
        if death.by == "raise":
            raise RuntimeError("an error of the body")
        if death.by == "exit":
            sys.exit(1)
        _send(os.getpid(), _sign(death), family=death.family)
        # Still in the body when the others have heard it.
        time.sleep(0.2 if death.family else 0.0)

    return on_step


def _sign(death: Death) -> signal.Signals:
    return signal.SIGTERM if death.by == "term" else signal.SIGKILL


class Lines:
    """Counts the lines of hpckit's code on each thread, and dies at one of them."""

    def __init__(self, death: Death) -> None:
        self._death = death
        self.by_thread: dict[str, int] = {}
        if death.thread is not None or death.by == "count":
            threading.settrace(self._call)
            sys.settrace(self._call)

    def _call(self, frame: FrameType, event: str, found: Any) -> Any:
        file = frame.f_code.co_filename
        name = threading.current_thread().name
        ours = "/hpckit/train/" in file or "/hpckit/checkpoint/" in file or name == SAVER
        # Walking through containers is most of all lines, and every one of them is like another.
        return self._line if ours and "/hpckit/" in file and "tree.py" not in file else None

    def _line(self, frame: FrameType, event: str, found: Any) -> Any:
        if event == "line":
            name = threading.current_thread().name
            count = self.by_thread[name] = self.by_thread.get(name, 0) + 1
            if name == self._death.thread and count == self._death.line:
                _send(os.getpid(), _sign(self._death))
        return self._line


class Launcher:
    """Kills at the moment, and waits for all; a rank that is left alone is ended, too."""

    def __init__(self, processes: list[int], death: Death) -> None:
        self._processes = processes
        self._death = death
        self._began = time.monotonic()
        self._alone_since: float | None = None
        # Signals that were not sent yet, and how long after the first rank's end they are.
        self._alone = [(ALONE_S, signal.SIGTERM), (2 * ALONE_S, signal.SIGKILL)]
        self._codes: dict[int, int] = {}

    def wait(self) -> list[int]:
        is_due = self._death.after_s is not None
        while len(self._codes) < len(self._processes):
            lived = time.monotonic() - self._began
            self._collect()
            if is_due and lived >= (self._death.after_s or 0.0):
                is_due = False
                self._kill()
            self._end_the_lonely()
            if lived > MOST_S:
                self._send_to_the_rest(signal.SIGKILL)
            time.sleep(0.0005)
        return [self._codes[each] for each in self._processes]

    def _collect(self) -> None:
        for process in self._processes:
            if process not in self._codes:
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    self._codes[process] = os.waitstatus_to_exitcode(status)
                    _sweep(process)

    def _kill(self) -> None:
        for rank, process in enumerate(self._processes):
            if process not in self._codes and self._death.rank in (None, rank):
                _send(process, _sign(self._death), family=self._death.family)

    def _end_the_lonely(self) -> None:
        if self._alone_since is None:
            self._alone_since = time.monotonic() if self._codes else None
            return
        after, sign = self._alone[0] if self._alone else (MOST_S, signal.SIGKILL)
        if time.monotonic() - self._alone_since > after:
            self._alone = self._alone[1:]
            self._send_to_the_rest(sign)

    def _send_to_the_rest(self, sign: signal.Signals) -> None:
        for process in self._processes:
            if process not in self._codes:
                _send(process, sign)


def _send(process: int, sign: int, *, family: bool = False) -> None:
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if family else os.kill)(process, sign)


def _sweep(process: int) -> None:
    """A loader's workers outlive their parent by seconds."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)


if __name__ == "__main__":
    serve()

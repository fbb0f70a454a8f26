"""A sink that works on a thread of its own: the training only leaves things for it."""

from __future__ import annotations

import atexit
import contextlib
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading

Item = Reading | Incident
T = TypeVar("T")

EVERY_S = 1.0
# So many readings may wait for a disk or a server that does not answer; about 20 MB.
MOST = 20_000
# A training that ends does not wait longer for its last words to arrive.
PATIENCE_S = 20.0
# After so long the thread lets go of the interpreter for a moment: whoever waits for it would
# otherwise get it only after 5 ms, at each call into torch anew. Not more often: that he has to
# wait costs him more than for how long.
HELD_S = 0.001
BREATH_S = 0.0002


class Background:
    """Gathers readings and incidents, and hands them to `consume` about once a second.

    A sink that raises is told once and dropped, the training goes on. What waits is handed on at
    an incident, at `flush`, at `close` and at the interpreter's exit; a process that is killed
    loses the last second. After a fork the thread is the parent's alone: a child hands on nothing,
    of its own or of what waits in its parent.
    """

    # For the message when it fails.
    name = "sink"

    def __init__(self) -> None:
        # Of readings, for want of room.
        self.lost = 0
        self._items: deque[Item | threading.Event] = deque()
        # Not an Event: a signal's handler may flush, and an Event deadlocks when it is interrupted.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._open = True
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"hpckit {self.name}", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def consume(self, batch: list[Item]) -> None:
        """Deal with these, on the sink's own thread."""
        raise NotImplementedError

    def settle(self) -> None:
        """Make sure that what was consumed arrives."""

    def finish(self) -> None:
        """The last call on the sink's own thread."""

    def write(self, reading: Reading) -> None:
        # Every step comes through here.
        if self._open and len(self._items) < MOST:
            self._items.append(reading)
        else:
            self.lost += 1

    def incident(self, incident: Incident) -> None:
        # When there is no more room for readings there still is for what is wrong with them.
        if self._open and len(self._items) < 2 * MOST:
            self._items.append(incident)
            self._wake.put(None)

    def flush(self) -> None:
        if not self._open:
            return
        done = threading.Event()
        self._items.append(done)
        self._wake.put(None)
        until = time.monotonic() + PATIENCE_S
        while self._open and self._thread.is_alive() and time.monotonic() < until:
            if done.wait(0.1):
                return

    def close(self) -> None:
        if self._closing:
            return
        self.flush()
        self._closing = True
        self._wake.put(None)
        self._thread.join(PATIENCE_S)
        if self._open and self.lost:
            tell(f"{self.name}: {self.lost} readings had no room to wait in and are lost")
        self._open = False
        atexit.unregister(self.close)

    def _work(self) -> None:
        try:
            closing = False
            while not closing:
                with contextlib.suppress(queue.Empty):
                    self._wake.get(timeout=EVERY_S)
                # Looked at first: what is left until then is still handed on.
                closing = self._closing
                self._drain()
            self.finish()
        # It is somebody else's code, and the training must not suffer from what it does.
        except Exception as error:
            self._open = False
            # Some explain themselves at length.
            what = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            tell(f"{self.name}: {what}; the training goes on without it")
        self._items.clear()

    def _drain(self) -> None:
        taken = [self._items.popleft() for _ in range(len(self._items))]
        batch = [each for each in taken if not isinstance(each, threading.Event)]
        flushes = [each for each in taken if isinstance(each, threading.Event)]
        self.consume(batch)
        if flushes or any(isinstance(each, Incident) for each in batch):
            self.settle()
        for each in flushes:
            each.set()


def tell(words: str) -> None:
    """One line for a person; at the end of an interpreter nobody may be there to hear it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"hpckit: {words}", file=sys.stderr, flush=True)


def breathing(items: Iterable[T]) -> Iterator[T]:
    """Each in turn, with a breath now and then in which the training gets the interpreter."""
    began = time.perf_counter()
    for each in items:
        yield each
        if time.perf_counter() - began > HELD_S:
            time.sleep(BREATH_S)
            began = time.perf_counter()

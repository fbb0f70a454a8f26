"""`hooks:` of a spec: a person's shell commands, run when something happens to a run.

They run one after the other on a thread of their own, and whatever they do they cannot hold up
the worker. What they are run for is read from the run's ledger, whoever wrote it there; what the
worker of one attempt did not come to, the next one's does. Those before a launch are the worker's
own affair: it runs them itself, at once, whatever the others are doing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from hpckit.files import read_json, write_json
from hpckit.run import Attempt, Run
from hpckit.worker.hook_run import HookRunner
from hpckit.worker.news import End, Heard, News, news_of, sizes
from hpckit.worker.occasion import BEFORE_LAUNCH, BY_NEWS, Occasion, of_end, of_launch, of_news

LIMIT_S = 60.0
# At the end of an attempt, for all that still runs or waits.
END_S = 20.0
LOOK_S = 2.0
# Until the command that was running is gone.
KILLING_S = 3.0
# So many occasions wait while a hook takes its time.
MOST_WAITING = 16
HEARD = "heard.json"


class Hooks:
    """Runs the commands of a run's hooks, for one attempt."""

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        run: Run,
        attempt: Attempt,
        *,
        limit_s: float = LIMIT_S,
        end_s: float = END_S,
        look_s: float = LOOK_S,
    ) -> None:
        self._commands = commands
        self._run = run
        self._attempt = attempt
        self._limit_s, self._end_s, self._look_s = limit_s, end_s, look_s
        self._runner = HookRunner(run, attempt)
        # Beside the other: each knows the one command that it runs.
        self._launching = HookRunner(run, attempt)
        # What was told, as the next attempt reads it; and what was seen, told or waiting.
        self._heard = self._seen = _heard_before(run)
        self._sizes: dict[str, int] | None = None
        self._waiting: deque[Occasion] = deque()
        self._changed = threading.Condition()
        self._is_ending = False
        # By time.monotonic(): until when the end waits for all that is left, and until when the
        # command that runs may do so.
        self._until = self._deadline = float("inf")
        # Commands of the occasion that is served, the one that runs included.
        self._at_hand = 0
        # Something was left for the next attempt's worker.
        self._has_left = False
        self._thread = threading.Thread(target=self._serve, name="hooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def before_launch(self, is_over: Callable[[], bool]) -> None:
        """Run these hooks, each for as long as it may take, or until `is_over`."""
        occasion = of_launch(self._run, self._attempt)
        until = 0.0

        def is_late() -> bool:
            return is_over() or time.monotonic() >= until

        for command in self._commands[BEFORE_LAUNCH]:
            if is_over():
                return
            until = time.monotonic() + self._limit_s
            self._launching.run(occasion, command, is_late)

    def finish(self, end: End | None) -> None:
        """Run what is left, the end's own hooks last, and wait for it only so long."""
        with self._changed:
            self._look()
            if end is not None and self._heard.ended != end.submission:
                self._await(of_end(self._run, self._attempt, end))
            self._is_ending = True
            # All that waits has its part of the time: a hook that hangs takes no other's.
            self._until = time.monotonic() + self._end_s
            self._deadline = min(self._deadline, time.monotonic() + self._share_s())
            self._changed.notify()
        self._thread.join(self._end_s + KILLING_S)
        if self._thread.is_alive():
            self._runner.tell_once("hooks", "one cannot be ended, and is left behind")

    def _await(self, occasion: Occasion | None) -> None:
        if occasion is not None and self._commands[occasion.hook]:
            self._waiting.append(occasion)

    def _share_s(self) -> float:
        waiting = sum(len(self._commands[each.hook]) for each in self._waiting)
        return max(0.0, self._until - time.monotonic()) / max(1, self._at_hand + waiting)

    def _serve(self) -> None:
        while (occasion := self._next()) is not None:
            try:
                self._hold(occasion)
            except Exception as error:
                self._runner.tell_once(occasion.hook, f"{type(error).__name__}: {error}")
            finally:
                self._at_hand = 0

    def _next(self) -> Occasion | None:
        with self._changed:
            while not self._waiting:
                if not self._has_left:
                    # What was dropped, or what no hook is for, is settled too.
                    self._remember(replace(self._seen, ended=self._heard.ended))
                if self._is_ending:
                    return None
                self._look()
                if not self._waiting:
                    self._changed.wait(self._look_s)
            occasion = self._waiting.popleft()
            self._at_hand = len(self._commands[occasion.hook])
            return occasion

    def _look(self) -> None:
        """Take in what has come into the ledger."""
        try:
            found = sizes(self._run.dir / "ledger")
            if found != self._sizes and self._run.is_served_by(self._attempt.number):
                self._take([n for n in news_of(self._run.ledger()) if not self._seen.has(n)])
                self._sizes = found
        except Exception as error:
            self._runner.tell_once("hooks", f"the ledger: {type(error).__name__}: {error}")

    def _take(self, news: Sequence[News]) -> None:
        self._seen = self._seen.and_also(news)
        wanted = [each for each in news if self._commands[BY_NEWS[each.kind]]]
        room = max(0, MOST_WAITING - len(self._waiting))
        for each in wanted[:room]:
            self._await(of_news(self._run, each))
        for hook in sorted({BY_NEWS[each.kind] for each in wanted[room:]}):
            many = sum(BY_NEWS[each.kind] == hook for each in wanted[room:])
            self._runner.pass_over(hook, f"{many} more came while {MOST_WAITING} were waiting")

    def _hold(self, occasion: Occasion) -> None:
        if self._start_clock(occasion, 0) <= 0:
            self._has_left = True
            self._runner.pass_over(occasion.hook, "the time for hooks is over")
            return
        # Before they run: a hook that ends the machine must not do so in every attempt.
        self._remember(self._heard.and_also(occasion.news, occasion.end))
        for place, command in enumerate(self._commands[occasion.hook]):
            self._start_clock(occasion, place)
            self._runner.run(occasion, command, self._is_late)

    def _start_clock(self, occasion: Occasion, place: int) -> float:
        """How long the command at this place may take from now on."""
        with self._changed:
            self._at_hand = len(self._commands[occasion.hook]) - place
            most_s = min(self._limit_s, self._share_s())
            self._deadline = time.monotonic() + most_s
        return most_s

    def _is_late(self) -> bool:
        return time.monotonic() >= self._deadline

    def _remember(self, heard: Heard) -> None:
        if heard != self._heard:
            self._heard = heard
            with contextlib.suppress(OSError):
                write_json(self._attempt.dir / HEARD, heard.to_json())


def _heard_before(run: Run) -> Heard:
    """How far the attempts so far have come."""
    for attempt in reversed(run.attempts()):
        found = read_json(attempt.dir / HEARD)
        if found is not None:
            return Heard.from_json(found)
    return Heard()

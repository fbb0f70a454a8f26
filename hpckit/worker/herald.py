"""What the worker says to the outside: the hooks and mails of a run, behind four calls.

It reads what has happened from the run's ledger; nothing that goes wrong here reaches the worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from hpckit.worker.log_watch import tell
from hpckit.worker.news import End, end_of

if TYPE_CHECKING:
    from hpckit.run import Attempt, Run
    from hpckit.spec import JobSpec
    from hpckit.worker.hooks import Hooks
    from hpckit.worker.notify import Notifier


class Herald:
    """Runs a run's hooks and sends its mails, while one worker serves it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._attempt: Attempt | None = None
        self._hooks: Hooks | None = None
        self._notifier: Notifier | None = None

    def begin(self, attempt: Attempt, spec: JobSpec) -> None:
        """An attempt has begun, and its ledger says so; from here on the ledger is followed."""
        self._attempt = attempt
        self._start(attempt, spec)

    def before_launch(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Run these hooks, each for as long as it may take, or until `is_over`."""
        with _guarded():
            if self._hooks is not None:
                self._hooks.before_launch(is_over)

    def finish(self) -> None:
        """Say what is left to say, the run's end too if it is written down by now.

        Also for a worker that began no attempt: the one before it may have died with the word.
        """
        end = None
        with _guarded():
            end = self._end()
            attempts = self._run.attempts()
            if self._attempt is None and end is not None and attempts:
                self._start(attempts[-1], self._run.spec())
        # Hooks and mails at the same time: neither has to wait for the other.
        if self._notifier is not None:
            self._notifier.finish(end)
        if self._hooks is not None:
            with _guarded():
                self._hooks.finish(end)
        if self._notifier is not None:
            self._notifier.join()

    def _start(self, attempt: Attempt, spec: JobSpec) -> None:
        with _guarded():
            self._notifier = self._mails(attempt, spec)
        with _guarded():
            self._hooks = self._commands(attempt, spec)

    def _mails(self, attempt: Attempt, spec: JobSpec) -> Notifier | None:
        if spec.notify.mail is None:
            return None
        # Most runs have no use for it.
        from hpckit.worker.notify import Notifier

        notifier = Notifier(spec.notify, self._run, attempt.number)
        notifier.start()
        return notifier

    def _commands(self, attempt: Attempt, spec: JobSpec) -> Hooks | None:
        names = [each.name for each in dataclasses.fields(spec.hooks)]
        commands = {name: getattr(spec.hooks, name) for name in names}
        if not any(commands.values()):
            return None
        from hpckit.worker.hooks import Hooks

        hooks = Hooks(commands, self._run, attempt)
        hooks.start()
        return hooks

    def _end(self) -> End | None:
        """The run's end, where it is ours to tell: not if another attempt serves the run by now."""
        if self._attempt is not None and not self._run.is_served_by(self._attempt.number):
            return None
        return end_of(self._run)


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        tell(f"hooks and mails: {type(error).__name__}: {error}")

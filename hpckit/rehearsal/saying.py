"""What a rehearsal says while it goes on: what it waits for, the step, and what happened."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpckit.rehearsal.course import Course, Struck
from hpckit.status.steps import steps_done

if TYPE_CHECKING:
    from hpckit.rehearsal.result import Result
    from hpckit.run import Run
    from hpckit.status.state import State

# Where nothing but the step is new.
EVERY_S = 10.0


@dataclass(kw_only=True)
class Saying:
    """Says each thing once, and the step now and then."""

    fault: str
    say: Callable[[str], None]
    _said: set[str] = field(default_factory=set)
    _step_at: float = field(default_factory=time.monotonic)

    def submitted(self, run: Run, where: str, step: int | None) -> None:
        when = "some seconds after the program begins" if step is None else f"at step {step}"
        self._once(f"{run.id} on {where}; it strikes {when}")

    def now(
        self, run: Run, state: State, struck: Struck | None, course: Course, needs: int
    ) -> None:
        """Whatever is new."""
        if state.state != "running":
            self._once(state.words)
        if struck is not None:
            self._once("struck" if struck.step is None else f"struck at step {struck.step}")
            if self.fault == "hang":
                self._once("waiting until it is taken for a hang: heal.hang.after says when")
        if course.plan is not None:
            self._once(f"{course.incident}; {course.plan}")
        if course.goes_on:
            self._once(f"goes on; healed after {needs} healthy step{'s' * (needs > 1)} past that")
        self._step(run)

    def judged(self, result: Result) -> None:
        self._once(result.word)

    def kept(self, folder: Path) -> None:
        if folder.exists():
            self._once(f"kept for you to look at: hpckit show {folder}")

    def left(self, folder: Path) -> None:
        self._once(f"its job may not have ended yet: {folder} stays, and may be deleted after that")

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._step_at = time.monotonic()
            self.say(f"{self.fault}: {text}")

    def _step(self, run: Run) -> None:
        if time.monotonic() - self._step_at < EVERY_S:
            return
        self._step_at = time.monotonic()
        attempts = run.attempts()
        step = steps_done(attempts[-1]) if attempts else None
        if step is not None:
            self.say(f"{self.fault}: step {step}")

"""One exception a condition; each carries what a person needs in order to go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class HpckitError(Exception):
    """Something a user can understand and act on; it is told without a traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a spec, and where it stands (lines and columns count from 1)."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: "
        return where + (f"{self.path}: " if self.path else "") + self.message


class SpecError(HpckitError):
    """A spec that cannot be used, with every problem found in it."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = list(problems)


class UsageError(HpckitError):
    """A command that was called in a way that makes no sense."""

    exit_code = 2


class NotFound(HpckitError):
    """A run, attempt or file that does not exist."""

    exit_code = 5


class CannotWrite(HpckitError):
    """A place that hpckit needs to write to refuses."""


class SchedulerSilent(HpckitError):
    """The scheduler did not answer, or not in time: what it knows is unknown."""


class SubmissionRefused(HpckitError):
    """The scheduler looked at the job and said no."""


class ChainTaken(HpckitError):
    """Two wanted to go on with a run in the same moment, and this was not the first."""


class SubmissionUnclear(HpckitError):
    """The scheduler's answer was lost: the job may exist or not, and its name tells."""


class ClusterError(HpckitError):
    """The development cluster cannot be started, stopped or found."""

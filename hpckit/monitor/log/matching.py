"""Matching lines against patterns, those of a stranger in a process that may be ended.

A user's expression may need longer than the universe for one line: `(a+)+$` does for sixty
letters. To refuse such expressions when the spec is read would not do: nested repetitions can be
seen, but `(a|aa)+$` or five `.*` in a row look harmless and are not, and sound ones would be
refused. A timer in our own process would not do either: an expression is matched in C, which looks
for signals in the main thread alone, and not everywhere. So a user's patterns are matched in a
child that costs ten megabytes and is idle nearly always. The limit is of CPU time and is kept by
the system (RLIMIT_CPU), so a machine that is busy or stands still puts the blame on nobody. A
pattern that met the limit is given up, which is told once, and the others go on. The ready
patterns need no child: each repetition in them ends in one way, or is short, and a test holds them
to it.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hpckit.monitor.log.patterns import Patterns
from hpckit.monitor.log.search import search

# CPU seconds for one pattern on one batch of lines; the system counts whole ones.
LIMIT_S = 2
BATCH = 100

Groups = Mapping[str, str]


class Matcher(Protocol):
    """Finds the patterns' groups in lines."""

    def match(self, lines: Sequence[str]) -> list[list[Groups]]:
        """For each line, the groups of every match, pattern by pattern."""

    def close(self) -> None: ...


def matcher(patterns: Patterns, tell: Callable[[str], None]) -> Matcher:
    """The matcher that these patterns need."""
    return Direct(patterns) if patterns.ready else Guarded(patterns, tell)


class Direct:
    """Matches in this process."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = [re.compile(each) for each in patterns.expressions]

    def match(self, lines: Sequence[str]) -> list[list[Groups]]:
        found: list[list[Groups]] = [[] for _ in lines]
        for pattern in self._patterns:
            for number, groups in search(pattern, lines):
                found[number].append(groups)
        return found

    def close(self) -> None:
        pass


class _Ended(Exception):
    """The child ended at a pattern; `blamed` if that took all its time."""

    def __init__(self, number: int | None, *, blamed: bool) -> None:
        super().__init__(number)
        self.number = number
        self.blamed = blamed


class Guarded:
    """Matches in a child; gives up patterns that take too long there."""

    def __init__(
        self, patterns: Patterns, tell: Callable[[str], None], limit_s: int = LIMIT_S
    ) -> None:
        self._patterns = patterns.expressions
        self._wanted = list(range(len(self._patterns)))
        self._tell = tell
        self._limit_s = limit_s
        self._child: subprocess.Popen[str] | None = None
        self._told_lost = False

    def match(self, lines: Sequence[str]) -> list[list[Groups]]:
        found: list[list[Groups]] = [[] for _ in lines]
        for start in range(0, len(lines), BATCH):
            batch = lines[start : start + BATCH]
            # A pattern goes at every failure but one: a child that a stranger ended is retried.
            for _ in range(len(self._patterns) + 2):
                try:
                    self._match(batch, found[start : start + BATCH])
                    break
                except _Ended as ended:
                    self._after(ended)
            else:
                self._lost()
        return found

    def _match(self, lines: Sequence[str], found: list[list[Groups]]) -> None:
        if not self._wanted:
            return
        answers = self._ask(lines)
        for answer in answers:
            for number, groups in answer:
                found[number].append(groups)

    def _ask(self, lines: Sequence[str]) -> list[list[tuple[int, Groups]]]:
        if self._child is None:
            self._child = self._start()
        child, number, answers = self._child, None, []
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            print(json.dumps([lines, self._wanted]), file=child.stdin, flush=True)
            for wanted in self._wanted:
                number = wanted
                # First it says which it begins, then what it found.
                if not child.stdout.readline().endswith("\n"):
                    raise EOFError
                answer = child.stdout.readline()
                if not answer.endswith("\n"):
                    raise EOFError
                answers.append(json.loads(answer))
        except (OSError, EOFError):
            code = self._reap()
            raise _Ended(number, blamed=code == -signal.SIGXCPU) from None
        return answers

    def _start(self) -> subprocess.Popen[str]:
        program = Path(__file__).with_name("search.py")
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program), str(self._limit_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        assert child.stdin is not None
        with contextlib.suppress(OSError):
            print(json.dumps(self._patterns), file=child.stdin, flush=True)
        return child

    def _after(self, ended: _Ended) -> None:
        if not ended.blamed or ended.number not in self._wanted:
            return
        self._wanted.remove(ended.number)
        self._tell(
            f"monitor.log: the pattern {self._patterns[ended.number]!r} took more than "
            f"{self._limit_s} s of CPU on a few lines: it is given up; nested repetitions such as "
            "(a+)+ do that"
        )

    def _lost(self) -> None:
        if not self._told_lost:
            self._told_lost = True
            self._tell("monitor.log: some lines went unread: the process that matches them died")

    def _reap(self) -> int:
        child, self._child = self._child, None
        assert child is not None
        for stream in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=1)
        child.kill()
        return child.wait()

    def close(self) -> None:
        """End the child; the next line would start another."""
        if self._child is not None:
            self._reap()

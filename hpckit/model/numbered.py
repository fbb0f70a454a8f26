"""Paths that carry a counter, as programs name their checkpoints: cp/g_{step}."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

COUNTERS = ("step", "epoch")
_COUNTER = re.compile(r"\{(step|epoch)\}")
_BRACES = re.compile(r"\{[^{}]*\}?|\}")


def problem_with(pattern: str) -> str | None:
    """What keeps a pattern from naming a program's checkpoints, None where nothing does."""
    counters = sorted(set(_COUNTER.findall(pattern)))
    if other := _BRACES.search(_COUNTER.sub("", pattern)):
        return (
            f"has {other[0]}: only {{step}} or {{epoch}} is filled in; it matches 120 and 00000120"
        )
    if len(counters) > 1:
        return "has both {step} and {epoch}: one of them must tell its checkpoints apart"
    if not counters:
        return "has no {step} and no {epoch}: the number tells checkpoints apart, as in cp/g_{step}"
    if pattern.startswith(("/", "~")):
        return "must be a path in the working folder, such as cp/g_{step}, not an absolute one"
    if ".." in pattern.split("/"):
        return "must not leave the working folder by .."
    return None


def counter_of(pattern: str) -> str:
    """`step` or `epoch`, of a pattern with which nothing is wrong."""
    return str(_COUNTER.findall(pattern)[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberedPath:
    """A pattern, taken apart at the first name in it that carries the counter."""

    pattern: str
    # What that name lies in; empty for the top.
    folder: str
    name: re.Pattern[str]
    # From that name on, with the counter's place.
    rest: str

    @classmethod
    def parse(cls, pattern: str) -> NumberedPath:
        parts = PurePosixPath(pattern).parts
        first = next(n for n, part in enumerate(parts) if _COUNTER.search(part))
        return cls(
            pattern=pattern,
            folder="/".join(parts[:first]),
            name=_expression(parts[first]),
            rest="/".join(parts[first:]),
        )

    def match(self, name: str) -> tuple[int, str] | None:
        """The number that a name in the folder carries, and the path that it stands for there."""
        found = self.name.fullmatch(name)
        if found is None:
            return None
        return int(found["number"]), _COUNTER.sub(found["number"], self.rest)


def _expression(part: str) -> re.Pattern[str]:
    """A name in which the counter, wherever it stands, is the same number."""
    literals = [re.escape(each) for each in _COUNTER.split(part)[::2]]
    once = r"(?P<number>[0-9]+)"
    return re.compile(once.join(literals[:2]) + "".join(f"(?P=number){x}" for x in literals[2:]))

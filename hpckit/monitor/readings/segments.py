"""The files that readings are kept in: their names, and which of them count.

`<level>-<number>.jsonl` stands for the segments from number * 2^level on, 2^level of them. One of
level 0 has every row that was written; one of a higher level is made of two of the level below,
with half of their rows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

NAME = re.compile(r"(\d{1,2})-(\d{1,12})\.jsonl")
# A listing that is made while two files are replaced by a third may have none of them.
LOOKS = 5


@dataclass(frozen=True, order=True, slots=True)
class Segment:
    """A file of readings."""

    level: int
    number: int

    @property
    def begin(self) -> int:
        return self.number << self.level

    @property
    def end(self) -> int:
        return (self.number + 1) << self.level

    @property
    def file(self) -> str:
        return f"{self.level}-{self.number}.jsonl"

    @property
    def above(self) -> Segment:
        """The one that it becomes a part of."""
        return Segment(self.level + 1, self.number >> 1)

    def covers(self, other: Segment) -> bool:
        return self.begin <= other.begin and other.end <= self.end


def listed(folder: Path) -> set[Segment]:
    """Every segment of a folder, also those that a higher one has replaced."""
    try:
        matches = (NAME.fullmatch(name) for name in os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return {Segment(int(found[1]), int(found[2])) for found in matches if found}


def counting(segments: Iterable[Segment]) -> list[Segment]:
    """Those that no higher one has replaced, in order."""
    found: list[Segment] = []
    for each in sorted(segments, key=lambda one: (one.begin, -one.level)):
        if not found or each.begin >= found[-1].end:
            found.append(each)
    return found


def in_order(folder: Path) -> list[Segment]:
    """The segments that count, none of them missing where they can be had."""
    for _ in range(LOOKS):
        found = counting(listed(folder))
        ends = [0, *(each.end for each in found)]
        if all(each.begin == end for each, end in zip(found, ends, strict=False)):
            break
    return found


def to_merge(segments: Iterable[Segment], keep: int) -> list[Segment]:
    """The two oldest of the lowest level that has more than `keep`, to become one."""
    found = counting(segments)
    for level in sorted({each.level for each in found}):
        same = [each for each in found if each.level == level]
        if len(same) > keep:
            return [each for each in found if same[0].above.covers(each)]
    return []

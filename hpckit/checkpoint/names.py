"""What a checkpoint's folder is called: its step, and the segment of the run that wrote it."""

from __future__ import annotations

import re
from dataclasses import dataclass

TAG = re.compile(r"a(\d+)-l(\d+)(?:-r(\d+))?")
NAME = re.compile(r"step-(\d+)\.(.+?)(?:-n(\d+))?")
DAMAGED = re.compile(r"(.+)\.damaged(?:-\d+)?")


@dataclass(frozen=True, order=True, slots=True)
class Segment:
    """A stretch of a run without a jump: an attempt, a launch in it, and rollbacks so far."""

    attempt: int
    launch: int
    rollbacks: int = 0

    @property
    def tag(self) -> str:
        """a2-l1, and after a rollback a2-l1-r1."""
        after = f"-r{self.rollbacks}" if self.rollbacks else ""
        return f"a{self.attempt}-l{self.launch}{after}"

    @classmethod
    def parse(cls, tag: str) -> Segment:
        found = TAG.fullmatch(tag)
        if found is None:
            raise ValueError(f"{tag!r} is no segment of a run: a2-l1 or a2-l1-r1 would be one")
        return cls(int(found[1]), int(found[2]), int(found[3] or 0))


def folder_name(step: int, segment: Segment, nth: int = 1) -> str:
    """Of a second one of a step, when more was done after it than steps: step-00000120.a2-l1-n2."""
    return f"step-{step:08d}.{segment.tag}" + (f"-n{nth}" if nth > 1 else "")


def parse(name: str) -> tuple[int, Segment] | None:
    """The step and the segment of a checkpoint's folder; None for any other name."""
    found = NAME.fullmatch(name)
    if found is None:
        return None
    try:
        return int(found[1]), Segment.parse(found[2])
    except ValueError:
        return None


def nth(name: str) -> int:
    """Which one of its step and segment a checkpoint's folder is."""
    found = NAME.fullmatch(name)
    return int(found[3] or 1) if found is not None else 1


def parse_damaged(name: str) -> tuple[int, Segment] | None:
    """The step and the segment of what was set aside; None for any other name."""
    found = DAMAGED.fullmatch(name)
    return None if found is None else parse(found[1])

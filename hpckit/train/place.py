"""Where in its data a training stands, and how it came there."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

# Steps whose batches are known again after an incident.
TRAIL = 2000

# Of an epoch: its number, the first batch that is left out, and the first after those.
Window = tuple[int, int, int]


@dataclass(kw_only=True)
class Place:
    """The loop, its epoch, and how many batches of that are behind us."""

    # Which of the program's loops: it may have one after the other.
    loop: int = 0
    # The step that it began at: a state of before is another loop's.
    since: int = 0
    epoch: int = 0
    taken: int = 0
    # What the epoch began with; None where it has not begun.
    begun: dict[str, Any] | None = None
    # What the next one begins with, where none is open.
    between: dict[str, Any] | None = None
    skip: list[Window] = field(default_factory=list)
    # The program ended the loop before its time.
    stopped: bool = False

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def of(cls, state: dict[str, Any]) -> Place:
        return cls(**{**state, "skip": [tuple(window) for window in state["skip"]]})

    def next_epoch(self) -> None:
        self.epoch += 1
        self.taken, self.begun = 0, None
        self.skip = [window for window in self.skip if window[0] >= self.epoch]


class Trail:
    """Which batches each of the last steps used."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, int, int, int]] = deque(maxlen=TRAIL)

    def add(self, step: int, epoch: int, first: int, taken: int) -> None:
        """A step used the batches from `first` on; so many are behind us after it."""
        self._steps.append((step, epoch, first, taken))

    def windows(self, first: int, last: int, number: int) -> list[Window]:
        """The last `number` batches up to a step, by epoch; none of before step `first`."""
        found: dict[int, list[int]] = {}
        for step, epoch, begin, end in reversed(self._steps):
            if step > last:
                continue
            if step < first or number <= 0:
                break
            window = found.setdefault(epoch, [begin, end])
            window[0] = min(window[0], begin)
            number -= max(1, end - begin)
        return [(epoch, begin, end) for epoch, (begin, end) in sorted(found.items())]

    def cut(self, step: int) -> None:
        """The run went back to before a step."""
        kept = [each for each in self._steps if each[0] < step]
        self._steps = deque(kept, maxlen=TRAIL)

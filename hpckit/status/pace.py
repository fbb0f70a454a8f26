"""How fast a training goes, by the times of its readings."""

from __future__ import annotations

from collections import deque

# Rows that the present rate is of.
NEWEST = 100
# Seconds, and the steps that were done in them.
Wait = tuple[float, int]
NONE: Wait = (0.0, 0)


class Pace:
    """Seconds a step: now, and on the whole.

    The longest wait is left out: a pause that came once, such as a compilation, says nothing of
    what is to come, one that comes again and again does. Where a run went back, or goes on in
    another process, nothing passed between two steps.
    """

    def __init__(self) -> None:
        self._newest: deque[Wait] = deque(maxlen=NEWEST)
        self._passed_s, self._steps = 0.0, 0
        self._longest = NONE
        self._last: tuple[float, int] | None = None

    def add(self, step: int, time: float | None) -> None:
        """A reading's step and time."""
        last, self._last = self._last, None if time is None else (time, step)
        if last is None or time is None or step <= last[1] or time < last[0]:
            return
        wait = time - last[0], step - last[1]
        self._newest.append(wait)
        self._passed_s += wait[0]
        self._steps += wait[1]
        self._longest = max(self._longest, wait, key=_a_step)

    def cut(self) -> None:
        """What comes next is of another process."""
        self.__init__()  # type: ignore[misc]

    @property
    def rate(self) -> float | None:
        """Steps a second, now."""
        seconds = _step_s(
            sum(wait for wait, _ in self._newest),
            sum(steps for _, steps in self._newest),
            max(self._newest, default=NONE, key=_a_step),
        )
        return 1 / seconds if seconds else None

    def left_s(self, steps: int) -> float | None:
        """How long so many steps will take, with the pauses that belong to them."""
        seconds = _step_s(self._passed_s, self._steps, self._longest)
        return seconds * steps if seconds else None


def _a_step(wait: Wait) -> float:
    return wait[0] / max(1, wait[1])


def _step_s(passed_s: float, steps: int, longest: Wait) -> float:
    """Seconds a step; 0 where too little was seen."""
    steps -= longest[1]
    return max(0.0, passed_s - longest[0]) / steps if steps > 0 else 0.0

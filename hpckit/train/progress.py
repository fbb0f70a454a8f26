"""How far a training is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TextIO

from hpckit.units import format_duration

# In a terminal the bar is drawn so often; elsewhere a line is printed.
DRAW_S = 0.2
LINE_S = 30.0
WIDTH = 24
# Share of the newest steps in the rate.
NEWEST = 0.1


class Progress:
    """Draws on stderr; off, it only passes lines on."""

    def __init__(self, *, wanted: bool, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self.wanted = wanted
        self._is_terminal = self._stream.isatty()
        self._drawn_at = 0.0
        self._bar = ""
        self._last: tuple[float, int] | None = None
        self._rate = 0.0
        # When the next step is worth a look: looking costs a clock.
        self._total: int | None = None

    def update(
        self, step: int, *, total: int | None, epoch: int, epochs: int | None, loss: float | None
    ) -> None:
        if not self.wanted:
            return
        now = time.monotonic()
        if now - self._drawn_at < (DRAW_S if self._is_terminal else LINE_S):
            return
        if self._last is not None and step > self._last[1]:
            rate = (step - self._last[1]) / max(now - self._last[0], 1e-9)
            self._rate = rate if not self._rate else (1 - NEWEST) * self._rate + NEWEST * rate
        self._last, self._drawn_at = (now, step), now
        text = self._text(step, total, epoch, epochs, loss)
        if self._is_terminal:
            self._bar = text
            self._write(f"\r\x1b[2K{text}")
        else:
            self._write(text + "\n")

    def _text(
        self, step: int, total: int | None, epoch: int, epochs: int | None, loss: float | None
    ) -> str:
        parts = [f"step {step}"]
        if total:
            share = min(1.0, step / total)
            full = round(WIDTH * share)
            parts = [f"[{'#' * full}{'.' * (WIDTH - full)}] {share:4.0%}  step {step} of {total}"]
        if epochs:
            parts.append(f"epoch {min(epoch + 1, epochs)} of {epochs}")
        if loss is not None:
            parts.append(f"loss {loss:.4g}")
        if self._rate:
            parts.append(f"{self._rate:.3g} steps/s")
            if total and step < total:
                left = format_duration(int((total - step) / self._rate))
                parts.append(f"{left} left")
        return "  ".join(parts)

    def line(self, text: str) -> None:
        """Something to be read, above the bar where there is one."""
        above = "\r\x1b[2K" if self._bar else ""
        self._write(f"{above}{text}\n{self._bar}")

    def end(self) -> None:
        if self._bar:
            self._write("\n")
            self._bar = ""

    def _write(self, text: str) -> None:
        # The log may be on a disk that is full, or its reader gone: no reason to end a training.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()

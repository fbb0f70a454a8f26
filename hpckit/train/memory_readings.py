"""How much memory the training's process and its GPU have needed, looked at once a second."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

EVERY_S = 1.0
GB = 1e9
PAGE = os.sysconf("SC_PAGE_SIZE")


class MemoryReadings:
    """Asks the allocator's own counters and the kernel; no GPU is waited for."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device if device.type == "cuda" else None
        self._due = 0.0

    def take(self, now: float) -> dict[str, float]:
        """What is new by this moment; nothing where that was said within the last second."""
        if now < self._due:
            return {}
        self._due = now + EVERY_S
        found = {}
        if self._gpu is not None:
            # What torch holds, also of what is free between two steps: its peak, and nobody's
            # own statistics are reset for it.
            found["memory/gpu"] = torch.cuda.memory_reserved(self._gpu) / GB
        with contextlib.suppress(OSError, ValueError, IndexError):
            words = Path("/proc/self/statm").read_text(encoding="ascii").split()
            found["memory/host"] = int(words[1]) * PAGE / GB
        return found

"""A fault on purpose, for rehearsals and tests: a run that names none pays for nothing.

`fault.json` in the run's folder says which, at which step, and on which rank. It strikes once,
however often the step is done again; an explosion goes on until the run has gone back.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.files import read_json
from hpckit.rehearsed import BY_LIBRARY, FAULT, STRUCK

if TYPE_CHECKING:
    import torch

# An explosion's growth from step to step, and for how many: then they are large enough.
GROWTH, GROWN = 8.0, 40
# Without a limit that somebody enforces nothing is filled: the machine is not ours to exhaust.
MOST_MB = 4096


class RehearsedCrash(RuntimeError):
    """What a rehearsal raises, so that nobody looks for it in the program."""


@dataclass(kw_only=True)
class Fault:
    """One fault of one process."""

    run_dir: Path
    kind: str
    step: int
    rank: int
    # Whether this process has seen it strike: then no file is asked any more.
    _is_known: bool = field(default=False, init=False)

    @classmethod
    def of(cls, run_dir: Path) -> Fault | None:
        """The one that a run's folder asks for."""
        about = read_json(run_dir / FAULT)
        if not isinstance(about, dict) or about.get("kind") not in BY_LIBRARY:
            return None
        return cls(
            run_dir=run_dir,
            kind=about["kind"],
            step=int(about["step"]),
            rank=int(about.get("rank", 0)),
        )

    def strike(self, step: int, rank: int, went_back: bool, optimizers: Iterable[Any]) -> None:
        """Called before each step of an optimizer."""
        if step < self.step or went_back:
            return
        if self.kind in ("explosion", "nan"):
            self._is_first(step)
            grown = (
                float("nan") if self.kind == "nan" else GROWTH ** min(step - self.step + 1, GROWN)
            )
            for gradient in _gradients(optimizers):
                gradient.mul_(grown)
        elif rank == self.rank and self._is_first(step):
            getattr(self, f"_{self.kind}")()

    def _is_first(self, step: int) -> bool:
        """Whether it has not struck yet, in whatever process; that it does now is written down."""
        if self._is_known:
            return False
        self._is_known = True
        try:
            descriptor = os.open(self.run_dir / STRUCK, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        os.write(descriptor, json.dumps({"time": time.time(), "step": step}).encode())
        os.close(descriptor)
        return True

    def _crash(self) -> None:
        raise RehearsedCrash(f"at step {self.step}, as rehearsed")

    @staticmethod
    def _hang() -> None:
        while True:
            time.sleep(3600)

    @staticmethod
    def _kill() -> None:
        os.kill(os.getpid(), 9)

    @staticmethod
    def _oom() -> None:
        limit = os.environ.get("SLURM_MEM_PER_NODE", "")
        if os.environ.get("HPCKIT_SCHEDULER") == "local" or not limit.isdecimal():
            raise MemoryError("as rehearsed")
        held = []
        for _ in range(min(int(limit), MOST_MB) // 50 + 2):
            held.append(bytearray(os.urandom(1) * 50_000_000))
            time.sleep(0.05)
        # It is not enforced at once.
        time.sleep(30)
        raise MemoryError(f"{len(held) * 50} MB are held, and nobody minds")


def _gradients(optimizers: Iterable[Any]) -> list[torch.Tensor]:
    return [
        parameter.grad
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]

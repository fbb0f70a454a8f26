"""A framework's small training as a program of its own, to be killed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed


def as_program(train: Callable[..., Any], steps_of: Callable[[Any], int], callback: Any) -> None:
    """Train as the command line says, and leave there what came of it."""
    out = Path(sys.argv[1])
    settings = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    code: Any = 0
    try:
        trainer, module = train(out.parent, callback=callback, **settings)
        found = {"weights": module.state_dict(), "losses": module.losses}
        torch.save({**found, "step": steps_of(trainer)}, out)
    except SystemExit as end:
        code = end.code
    callback.run.close()
    if distributed.is_initialized():
        # gloo's threads may end in std::terminate when the interpreter takes them down.
        os._exit(code)
    raise SystemExit(code)

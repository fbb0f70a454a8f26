"""The training's side: a step that is watched, state that is kept, and a loop that goes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpckit.train.clip import Clip as Clip
    from hpckit.train.stepper import Stepper as Stepper
    from hpckit.train.trainer import Trainer as Trainer

__all__ = ["Clip", "Stepper", "Trainer"]
_HOMES = {name: f"hpckit.train.{name.lower()}" for name in __all__}


def __getattr__(name: str) -> Any:
    # On first use: who watches an unedited program needs a few modules of this room, not all.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'hpckit.train' has no attribute {name!r}")

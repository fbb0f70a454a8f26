"""The training's side: a step that is watched, state that is kept, and a loop that goes back."""

from __future__ import annotations

from hpckit.train.clip import Clip
from hpckit.train.stepper import Stepper
from hpckit.train.trainer import Trainer

__all__ = ["Clip", "Stepper", "Trainer"]

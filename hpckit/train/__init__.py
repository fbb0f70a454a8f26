"""The training's side: measure, clip, gate and step in one call."""

from __future__ import annotations

from hpckit.train.clip import Clip
from hpckit.train.stepper import Stepper

__all__ = ["Clip", "Stepper"]

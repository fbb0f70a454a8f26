"""JobSpec: what a person writes, and everything that can be wrong with it."""

from hpckit.spec.job import JobSpec, load_limits, load_spec, spec_from_json
from hpckit.spec.parts import (
    Change,
    Checkpoint,
    Clip,
    Container,
    Environment,
    GroupClip,
    Hooks,
    Limits,
    Log,
    Monitor,
    Notify,
    Optimizer,
    Program,
    Remedy,
    Resources,
)
from hpckit.spec.rules import placeholders
from hpckit.spec.sweep import Sweep

__all__ = [
    "Change",
    "Checkpoint",
    "Clip",
    "Container",
    "Environment",
    "GroupClip",
    "Hooks",
    "JobSpec",
    "Limits",
    "Log",
    "Monitor",
    "Notify",
    "Optimizer",
    "Program",
    "Remedy",
    "Resources",
    "Sweep",
    "load_limits",
    "load_spec",
    "placeholders",
    "spec_from_json",
]

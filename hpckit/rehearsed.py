"""What makes a run a rehearsed one: its place under the root, and the fault in its folder."""

from __future__ import annotations

from pathlib import Path

# Under the root that is in use, and named so that no listing of runs enters it.
CORNER = ".rehearsals"
# In the run's folder: which fault, at which step, on which rank.
FAULT = "fault.json"
# Beside it, once it has struck: when, and at which step.
STRUCK = "fault.struck"
# What the library can do to the training that it is a part of.
BY_LIBRARY = ("explosion", "nan", "crash", "hang", "kill", "oom")
# All that can be rehearsed, in the order in which it is.
KINDS = ("explosion", "nan", "crash", "hang", "kill", "timeout", "preempt", "oom", "node")


def root_of(run_dir: Path) -> Path:
    """The root that a run's folder is under, in the corner or not."""
    found = run_dir.parent.parent
    return found.parent if found.name == CORNER else found

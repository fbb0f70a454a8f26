"""Whether the library is inside a job's program, as far as its folder tells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpckit.spec import JobSpec

IMPORT = re.compile(r"^\s*(?:import\s+(?:[^#\n]*,\s*)?|from\s+)hpckit\b", re.MULTILINE)


def has_session(spec: JobSpec, source: Path, root: Path) -> bool:
    """A Trainer, or a program some file of which imports hpckit."""
    if spec.program.trainer is not None:
        return True
    from hpckit.submission.snapshot import look

    files = look(source, exclude=root).files
    return any(IMPORT.search(_text(source / each)) for each in files if each.endswith(".py"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def has_steps(spec: JobSpec, *, session: bool) -> bool:
    """Whether somebody tells how far it is."""
    return session or spec.monitor.log is not None

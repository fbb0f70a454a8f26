"""Where a job's folder comes from: the commit that was checked out, where git knows one."""

from __future__ import annotations

import subprocess
from pathlib import Path

# A repository on a slow filesystem must not hold up a submission.
PATIENCE_S = 5


def commit_of(folder: Path) -> str | None:
    """The commit, with `-dirty` where files differ from it; None outside a repository."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=PATIENCE_S
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None

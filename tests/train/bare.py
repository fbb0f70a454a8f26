"""A bare run's directory, and the environment of a launch's ranks: no worker, no queue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpckit.run import identity
from hpckit.spec import spec_from_json

TRAINER = {"trainer": "train.py:main"}


def bare_run(folder: Path, **spec: Any) -> Path:
    """A run's folder with a spec, as a submission leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    resolved = spec_from_json({"name": "bare", "program": TRAINER, **spec})
    (folder / "spec.json").write_text(json.dumps(resolved.to_json()))
    about = identity(run_id="bare/1", name="bare", scheduler="local", params=dict(resolved.params))
    (folder / "run.json").write_text(json.dumps(about))
    return folder


def environment(run: Path, *, attempt: int = 1, launch: int = 1) -> dict[str, str]:
    """What says to a process that it belongs to a run."""
    (run / "attempts" / f"{attempt:03d}").mkdir(parents=True, exist_ok=True)
    return {
        "HPCKIT_RUN_DIR": str(run),
        "HPCKIT_RUN": "bare/1",
        "HPCKIT_ATTEMPT": str(attempt),
        "HPCKIT_LAUNCH": str(launch),
    }

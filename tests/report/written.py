"""Run folders with readings of a test's own, written by the project's own writer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.writer import ReadingsWriter
from hpckit.report.facts import Facts, facts_of
from hpckit.run import Run, open_run
from hpckit.spec import spec_from_json
from hpckit.status.view import show
from tests.made_runs import begin, make_run

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'


def made(folder: Path, *, run_id: str = "agent/0720-p7d", **params: Any) -> Run:
    """A run that was submitted."""
    make_run(folder, run_id)
    spec = spec_from_json({"name": "agent", "program": "python train.py", "params": params})
    (folder / "spec.json").write_text(json.dumps(spec.to_json()))
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(about | {"params": params}))
    run = open_run(folder)
    assert run is not None
    return run


def attempt(run: Run, readings: Iterable[Reading], *, launch: int = 1) -> Path:
    """An attempt with these readings; their folder."""
    found = run.attempts()
    if launch == 1:
        begin(run, job_id="7_1", node="n1", started="2026-07-20T10:00:00.000Z")
        found = run.attempts()
    folder = found[-1].dir / "readings" / f"launch-{launch}"
    writer = ReadingsWriter(folder)
    for reading in readings:
        writer.write(reading)
    writer.close()
    return folder


def steps(begin: int, end: int, **constant: float) -> list[Reading]:
    """Plain ones: a norm and a loss that fall a little."""
    return [
        Reading(
            step=step,
            time=1784541600.0 + step / 10,
            values={"train/loss": 2 / (1 + step / 50), "grad/norm/main": 1.5, **constant},
        )
        for step in range(begin, end)
    ]


def facts(run: Run) -> Facts:
    return facts_of(run, lambda each: show(each, None))

"""Runs and sweeps as a submission leaves them, and what happens to them, written by hand."""

from __future__ import annotations

import json
from pathlib import Path

from hpckit.files import write_json
from hpckit.run import IDENTITY, Run, identity, open_run


def make_run(folder: Path, run_id: str = "agent/0720-p7d") -> Run:
    """A run whose first attempt has not begun, with its work folder."""
    folder.mkdir(parents=True, exist_ok=True)
    name = run_id.partition("/")[0]
    write_json(folder / IDENTITY, identity(run_id=run_id, name=name, scheduler="slurm", params={}))
    return _submitted(folder)


def make_sweep(folder: Path, points: int, run_id: str = "agent/0720-sqx") -> list[Run]:
    """The points of a sweep."""
    folder.mkdir(parents=True)
    about = identity(run_id=run_id, name="agent", scheduler="slurm", params={}, points=points)
    write_json(folder / IDENTITY, about)
    listed = [{"index": index, "values": {}, "params": {}} for index in range(points)]
    (folder / "sweep.json").write_text(json.dumps({"points": listed}))
    for index in range(points):
        (folder / f"{index:03d}").mkdir()
    return _submitted(folder).point_runs()


def _submitted(folder: Path) -> Run:
    run = open_run(folder)
    assert run is not None
    (folder / "work").mkdir(exist_ok=True)
    run.ledger("submitter").write("submit", chains=[1])
    return run


def begin(run: Run, **about):
    """The next attempt, as a link begins it."""
    attempt = run.claim_attempt(about)
    run.ledger(f"attempt-{attempt.number:03d}").write("attempt", number=attempt.number)
    return attempt


def incident(run: Run, step: int, *, attempt=1, sentence="it grew", writer="log", plan=None):
    """An incident in the ledger, as a training or a watched log writes it."""
    about = {"kind": "explosion", "step": step, "sentence": sentence, "acts": plan is not None}
    more = {} if plan is None else {"plan": plan}
    run.ledger(writer).write("incident", attempt=attempt, incident=about, **more)


def finished(run: Run, state: str, reason: str | None = None, chain=1, **by):
    run.ledger("worker").write("finished", state=state, reason=reason or state, chain=chain, **by)

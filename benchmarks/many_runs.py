"""Run directories in any number, as real runs leave them: for the benchmarks of `ls`."""

from __future__ import annotations

import json
from pathlib import Path

from hpckit.clock import iso

BORN = 1_780_000_000.0


def make_runs(root: Path, count: int) -> None:
    """Finished runs of ten names, each with an identity, a ledger and one attempt."""
    for number in range(count):
        name = f"agent{number % 10}"
        make_run(root / name / f"0720-b{number:05d}", f"{name}/0720-b{number:05d}", number)


def make_run(folder: Path, run_id: str, number: int) -> None:
    attempt = folder / "attempts" / "001"
    attempt.mkdir(parents=True)
    (folder / "ledger").mkdir()
    created, ended = iso(BORN + 60 * number), iso(BORN + 60 * number + 3000)
    identity = {"run": run_id, "name": run_id.split("/")[0], "created": created}
    identity |= {"scheduler": "local", "params": {"lr": 1e-3, "seed": number}}
    (folder / "run.json").write_text(json.dumps(identity, indent=1))
    about = {"number": 1, "job_id": f"{number + 1}_1", "node": "n1", "started": created}
    (attempt / "attempt.json").write_text(json.dumps(about, indent=1))
    (attempt / "ended.json").write_text(json.dumps({"ended": ended, "reason": "done"}))
    lines = [
        {"time": created, "kind": "submit", "chains": [1], "job_name": run_id},
        {"time": created, "kind": "submitted", "chain": 1, "job_id": str(number + 1)},
    ]
    write_lines(folder / "ledger" / "login-1.jsonl", lines)
    final = {"time": ended, "kind": "finished", "state": "done", "reason": "done"}
    write_lines(folder / "ledger" / "attempt-001.jsonl", [final])


def write_lines(path: Path, lines: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

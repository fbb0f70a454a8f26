"""A launch's folder, with all that its ranks read when they start."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.files import read_json, write_atomic, write_json
from hpckit.run import Attempt, Run
from hpckit.submission.snapshot import make_work_folder, renew_work_folder
from hpckit.worker.archive import bring
from hpckit.worker.rank_script import Layout, Places, render

if TYPE_CHECKING:
    from hpckit.spec import JobSpec


def write_scripts(
    run: Run,
    spec: JobSpec,
    attempt: Attempt,
    number: int,
    *,
    layout: Layout,
    checkpoint: str = "",
    code: str | None = None,
) -> Path:
    """Make the folder of a launch; from here on what an earlier one still writes is not believed.

    The working folder is made if this is the run's first launch.
    """
    logs = attempt.dir / "logs" / f"launch-{number}"
    logs.mkdir(parents=True)
    work = run.dir / "work"
    make_work_folder(run.home, work)
    if code is not None:
        renew_work_folder(run.dir, work, code)
    about = read_json(run.home / "code.json" if code is None else run.dir / f"{code}.json") or {}
    places = Places(
        run=run.dir,
        home=run.home,
        work=work,
        logs=logs,
        params=logs / "params.json",
        trainer_starter=attempt.dir / "start_trainer.py",
        sources=(str(about["source"]),) if about.get("left_out") else (),
        archive=bring(run.home) if spec.program.attach is not None else None,
    )
    write_json(places.params, dict(spec.params))
    shutil.copyfile(Path(__file__).with_name("start_trainer.py"), places.trainer_starter)
    known: Mapping[str, Any] = {
        "run": run.id,
        "attempt": attempt.number,
        "launch": number,
        "checkpoint": checkpoint,
    }
    scripts = render(spec, layout=layout, places=places, known=known, python=sys.executable)
    for name, text in scripts.items():
        write_atomic(logs / name, text)
    return logs

"""A small job on a node: what a login node cannot know, the job looks at and writes down."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.doctor import FAIL, OK, SKIP, WARN, Finding
from hpckit.errors import HpckitError
from hpckit.files import read_json, told_apart
from hpckit.scheduler.slurm import Slurm, run_tool

if TYPE_CHECKING:
    from hpckit.spec import JobSpec

WAIT_S = 60.0
RESULT = "result.json"


def check(
    slurm: Slurm, root: Path, spec: JobSpec | None, progress: Callable[[str], None]
) -> Iterator[Finding]:
    """Send the probe, wait for a minute at most, and read what it found."""
    folder = root / f".doctor-{os.getpid()}"
    with told_apart(folder):
        folder.mkdir(parents=True)
    try:
        yield from _with_folder(slurm, folder, spec, progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _with_folder(
    slurm: Slurm, folder: Path, spec: JobSpec | None, progress: Callable[[str], None]
) -> Iterator[Finding]:
    script = folder / "probe.sh"
    script.write_text(script_text(folder, spec))
    try:
        array_id = slurm.submit(script)
    except HpckitError as error:
        yield Finding(check="probe job", status=FAIL, message=error.message, remedy=error.hint)
        return
    try:
        yield _update_allowed(array_id)
        progress(f"waiting for a node to run probe job {array_id} (a minute at most)")
        result = _wait(folder / RESULT)
        yield from _told(result) if result is not None else [_no_answer(slurm, array_id)]
    finally:
        slurm.cancel([array_id])


def script_text(folder: Path, spec: JobSpec | None) -> str:
    """The probe's script: the second task of its array is there to be updated while it waits."""
    lines = ["#!/bin/bash", "#SBATCH --job-name=hpckit-doctor", "#SBATCH --array=1-2%1"]
    lines += ["#SBATCH --time=2", "#SBATCH --output=probe-%a.log", "#SBATCH --no-requeue"]
    if spec is not None:
        asked = {"partition": spec.resources.partition, "account": spec.resources.account}
        lines += [f"#SBATCH --{key}={shlex.quote(v)}" for key, v in asked.items() if v]
    lines += [
        '[ "$SLURM_ARRAY_TASK_ID" = 1 ] || exit 0',
        f"cd {shlex.quote(str(folder))} || exit 1",
    ]
    python = shlex.quote(sys.executable)
    # What bash itself can say first: Python may be what is missing on the node.
    lines.append(f"[ -x {python} ] || {{ echo '{{\"python\": null}}' > {RESULT}; exit 1; }}")
    return "\n".join([*lines, f"exec {python} -m hpckit.doctor.probe {RESULT}", ""])


def _update_allowed(array_id: str) -> Finding:
    answer = run_tool(["scontrol", "update", f"JobId={array_id}_2", "TimeLimit=1"], 20.0)
    if answer.code == 0:
        return Finding(
            check="scontrol update", status=OK, message="pending attempts can be changed"
        )
    return Finding(
        check="scontrol update",
        status=WARN,
        message=f"a pending attempt cannot be changed: {answer.err.strip()}",
        remedy="changed resources need a new chain; hpckit submits one",
    )


def _wait(path: Path) -> dict[str, Any] | None:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        # A listing makes a network filesystem look again.
        os.listdir(path.parent)
        found = read_json(path)
        if isinstance(found, dict):
            return found
        time.sleep(0.5)
    return None


def _no_answer(slurm: Slurm, array_id: str) -> Finding:
    mine = [job for job in slurm.queue() if job.array_id == array_id]
    waiting = next((job for job in mine if job.phase == "pending"), None)
    if waiting is not None and all(job.phase == "pending" for job in mine):
        return Finding(
            check="probe job",
            status=SKIP,
            message=f"no node was free for a minute ({waiting.reason})",
            remedy="call it again later, or with --no-probe",
        )
    return Finding(
        check="probe job",
        status=FAIL,
        message="the job started, but nothing that it wrote arrived",
        remedy="the run root must be on a filesystem that the nodes share: set HPCKIT_ROOT",
    )


def _told(result: Mapping[str, Any]) -> Iterator[Finding]:
    node = result.get("node", "the node")
    if result.get("python") is None:
        yield Finding(
            check="python on the nodes",
            status=FAIL,
            message=f"{sys.executable} is not there",
            remedy="install hpckit into a folder that the nodes share",
        )
        return
    yield Finding(check="shared folder", status=OK, message=f"{node} writes to the run root")
    yield Finding(check="python on the nodes", status=OK, message=f"{node}: {result['python']}")
    yield _tool_on_node(node, result, "srun", "a launch needs it: PATH of batch jobs")
    yield _tool_on_node(node, result, "scancel", "links that are not needed end by themselves")
    if result["sbatch"] is None:
        yield Finding(check="sbatch on nodes", status=OK, message="jobs can submit jobs")
    else:
        yield Finding(
            check="sbatch on nodes",
            status=WARN,
            message=f"a job cannot submit jobs: {result['sbatch']}",
            remedy="chains do not need it; points of a sweep have one attempt then",
        )
    skew_s = abs(float(result["time"]) - time.time())
    if skew_s > WAIT_S:
        yield Finding(
            check="clocks",
            status=WARN,
            message=f"{node}'s clock is {skew_s:.0f} s away from this machine's",
            remedy="tell the administrators: histories are ordered by time",
        )


def _tool_on_node(node: str, result: Mapping[str, Any], tool: str, why: str) -> Finding:
    there = bool(result[tool])
    return Finding(
        check=f"{tool} on nodes",
        status=OK if there else WARN,
        message=f"{node} has {result[tool]}" if there else f"{node} has no {tool}",
        remedy="" if there else why,
    )

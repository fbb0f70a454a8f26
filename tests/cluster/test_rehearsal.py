"""A rehearsal that needs a cluster: a training that has to make room, and goes on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

TRAINED = Path(__file__).with_name("trained.py")


def test_a_preempted_training_is_seen_to_heal_and_the_queue_is_left_empty(slurm, job, cli):
    spec = job(
        "{trainer: trained.py:Small}",
        "checkpoint: {every: 20 steps}",
        "params: {step_s: 0.02, epochs: 40}",
    )
    shutil.copy(TRAINED, spec.parent)
    done = cli("rehearse", "--fault", "preempt", "--json", cwd=spec.parent)
    (found,) = json.loads(done.stdout)["rehearsals"]
    assert (found["healed"], found["as_expected"], found["plan"]) == (True, True, "resubmit")
    # Saved when it was told, and at its own step.
    assert found["steps_lost"] == 0
    told = re.search(r"step (\d+): preempted", found["sentence"])
    assert told is not None
    assert int(told[1]) >= 20
    queue = subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True)
    assert queue.stdout == ""
    assert not list((spec.parent / "runs").iterdir())

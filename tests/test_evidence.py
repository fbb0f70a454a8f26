"""What the end of a log says; the texts are those of the real programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hpckit.run import Attempt
from hpckit.worker.evidence import in_log, in_srun, line_of_srun
from hpckit.worker.healing import _said
from hpckit.worker.outcome import judge

CUDA_MEMORY = """Traceback (most recent call last):
  File "/home/ana/train.py", line 31, in <module>
    loss = step(batch)
  File "/home/ana/train.py", line 12, in step
    y = model(x)
  File "/venv/lib/python3.11/site-packages/torch/nn/modules/linear.py", line 134, in forward
    return F.linear(input, self.weight, self.bias)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.
"""
ASSERTED = """Traceback (most recent call last):
  File "/home/ana/train.py", line 12, in step
    loss.backward()
RuntimeError: CUDA error: device-side assert triggered
CUDA kernel errors might be asynchronously reported at some other API call.
"""
NO_DEVICE = """Traceback (most recent call last):
  File "/home/ana/train.py", line 2, in <module>
    torch.zeros(1, device="cuda")
RuntimeError: No CUDA GPUs are available
"""
DRIVER = """Traceback (most recent call last):
  File "/home/ana/train.py", line 2, in <module>
    torch.zeros(1, device="cuda")
RuntimeError: CUDA driver initialization failed, you might not have a CUDA gpu.
"""
UNKNOWN = (
    "/venv/lib/python3.11/site-packages/torch/cuda/__init__.py:129: UserWarning: CUDA "
    "initialization: CUDA unknown error - this may be due to an incorrectly set up environment"
)
CGROUP = (
    "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. "
    "Some of the step tasks have been OOM Killed."
)
GATHERED = "slurmstepd-n1: error: StepId=12.0 exceeded memory limit (212041728 > 209715200)"


@pytest.mark.parametrize(
    ("text", "kind", "place", "said"),
    [
        (CUDA_MEMORY, "crash", "train.py:12 in step: torch.OutOfMemoryError", "CUDA out of memory"),
        (ASSERTED, "crash", None, "CUDA error: device-side assert triggered"),
        (
            DRIVER,
            "node_failure",
            "train.py:2 in <module>: RuntimeError",
            "CUDA driver initialization failed",
        ),
        (NO_DEVICE, "crash", "train.py:2 in <module>: RuntimeError", "No CUDA GPUs are available"),
    ],
)
def test_the_words_of_torch_are_told_apart(
    text: str, kind: str, place: str | None, said: str
) -> None:
    found = in_log(text.splitlines())
    assert found is not None
    assert (found.kind, found.place) == (kind, place)
    assert said in found.said


def raised(tmp_path: Path, source: str) -> list[str]:
    """What Python prints when a program fails."""
    script = tmp_path / "train.py"
    script.write_text(source)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    return done.stderr.splitlines()


def test_an_error_of_the_program_is_told_with_its_own_line(tmp_path: Path) -> None:
    lines = raised(
        tmp_path,
        "import json\ndef load(text):\n    return json.loads(text)\n"
        "try:\n    load('{')\nexcept ValueError as error:\n"
        "    raise RuntimeError('first\\nsecond') from error\n",
    )
    found = in_log(["step 1", *lines, "a line that came later"])
    assert found is not None
    assert (found.said, found.place) == (
        "RuntimeError: first",
        "train.py:7 in <module>: RuntimeError",
    )
    assert found.lines[-1] == "RuntimeError: first"


def test_of_an_error_within_a_library_the_programs_line_is_named(tmp_path: Path) -> None:
    found = in_log(raised(tmp_path, "import json\njson.loads('{')\n"))
    assert found is not None
    assert found.place == "train.py:2 in <module>: json.decoder.JSONDecodeError"


def test_what_torch_only_warns_of_is_no_bad_node() -> None:
    assert in_log([UNKNOWN, "step 1"]) is None


def test_where_no_gpu_was_asked_for_no_node_is_bad_for_having_none() -> None:
    found = in_log(DRIVER.splitlines(), has_gpus=False)
    assert found is not None
    assert (found.kind, found.place) == ("crash", "train.py:2 in <module>: RuntimeError")


def test_a_launchers_prefix_is_no_part_of_it() -> None:
    found = in_log([f"[rank3]: {line}" for line in CUDA_MEMORY.splitlines()])
    assert found is not None
    assert found.place == "train.py:12 in step: torch.OutOfMemoryError"


def test_memory_of_the_host(tmp_path: Path) -> None:
    error = in_log(raised(tmp_path, "import torch\ntorch.empty(10**15)\n"))
    assert error is not None
    assert error.kind == "out_of_memory"
    plain = in_log(raised(tmp_path, "raise MemoryError\n"))
    assert plain is not None
    assert plain.kind == "out_of_memory"
    for said in (CGROUP, GATHERED):
        found = in_srun(f"srun: something\n{said}\n")
        assert found is not None
        assert found.said == said


def test_words_about_memory_mean_nothing_where_nobody_was_killed() -> None:
    lines = ["out-of-memory handling is on", "step 1"]
    assert in_log(lines) is None
    killed = in_log([*lines, CGROUP], was_killed=True)
    assert killed is not None
    assert killed.kind == "out_of_memory"


@pytest.mark.parametrize("lines", [[], ["step 1"], ["Traceback (most recent call last):", "  Fil"]])
def test_a_log_that_says_nothing_or_was_cut_off_proves_nothing(lines: list[str]) -> None:
    assert in_log(lines) is None


SRUN = f"""srun: cluster configuration lacks support for cpu binding
slurmstepd-n1: error: a line that another step has left
srun: Job step aborted: Waiting up to 7 seconds for job step to finish.
{CGROUP}
srun: error: n1: task 0: Out Of Memory
srun: launch/slurm: _step_signal: Terminating StepId=7.0
"""
FAILED = SRUN.replace(CGROUP, "").replace("Out Of Memory", "Killed")


def test_of_all_that_srun_says_the_line_is_told_that_says_why() -> None:
    assert line_of_srun(SRUN) == "srun: error: n1: task 0: Out Of Memory"
    assert line_of_srun(FAILED) == "slurmstepd-n1: error: a line that another step has left"
    assert line_of_srun("srun: got SIGCONT\nsrun: forcing job termination\n") == ""
    assert line_of_srun("") == ""


def test_that_memory_was_wanted_is_told_once_and_with_how_much_there_was(tmp_path: Path) -> None:
    attempt = Attempt(number=1, dir=tmp_path)
    outcome = judge([], ranks=1, told=None, srun_log=line_of_srun(SRUN))
    said = "srun: error: n1: task 0: Out Of Memory"
    assert _said(outcome, in_srun(SRUN), attempt) == said
    (tmp_path / "attempt.json").write_text('{"memory": 1536}')
    assert _said(outcome, in_srun(SRUN), attempt) == f"needs more than 1536M of memory: {said}"

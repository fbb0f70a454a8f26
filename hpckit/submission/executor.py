"""submitit, wrapped: one pickle and one script for all links of an array, complete before sbatch.

submitit moves a job's pickle to its place after sbatch has answered: whoever is killed in
between leaves a job that cannot start. Here everything stands before sbatch is called, and each
task of the array links itself to the one pickle, which holds a function and a path.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# submitit costs 84 ms: whoever imports this file has decided to submit.
from submitit import SlurmExecutor
from submitit.core.utils import DelayedSubmission

from hpckit.run import STARTS

PICKLE = "job.pkl"
SCRIPT = "submission.sh"
MOST_STARTS = 3
# Between links whose node is bad: the next one shall find another, not burn the chain on it.
PAUSE_S = 60
# Under the local scheduler the number may be that of somebody's job on a real Slurm.
_IS_LOCAL = '[ "${HPCKIT_SCHEDULER:-}" = local ]'
_POINT = ('bad_node() { echo "hpckit: $1" >&2; exit 1; }',)
# What the first link cannot do is wrong for all; what worked before, another node may do.
_CHAIN = (
    'give_up() { echo "hpckit: $1" >&2; '
    f'{_IS_LOCAL} || scancel --state=PENDING "$SLURM_JOB_ID" ${{SLURM_ARRAY_JOB_ID:-}}; exit 1; }}',
    'bad_node() { [ "${SLURM_ARRAY_TASK_ID:-1}" != 1 ] || give_up "$1"; echo "hpckit: $1" >&2; '
    f"{_IS_LOCAL} || sleep {PAUSE_S}; exit 1; }}",
)


class ArrayExecutor(SlurmExecutor):
    """submitit's Slurm executor for arrays whose tasks all read one pickle."""

    def __init__(self, folder: Path, *, stops_chain: bool) -> None:
        # `exec` makes the function run in the batch step itself, where Slurm's B: signals arrive.
        self.interpreter = shlex.quote(sys.executable)
        self.stops_chain = stops_chain
        super().__init__(folder, python=f"exec {self.interpreter}")

    @classmethod
    def affinity(cls) -> int:
        """Rendering needs no Slurm on the machine; whoever submits has looked before."""
        return 2

    def script(self, header: dict[str, Any]) -> str:
        """The whole text that sbatch gets."""
        self.update_parameters(
            use_srun=False,
            stderr_to_stdout=True,
            wckey=None,
            setup=self._prelude(),
            additional_parameters={"output": "%A_%a.log", **header},
        )
        text: str = self._make_submission_file_text(self._submitit_command_str, uid="")
        return text

    def _prelude(self) -> list[str]:
        folder = shlex.quote(str(self.folder))
        lines = [
            *(_CHAIN if self.stops_chain else _POINT),
            f'[ -x {self.interpreter} ] || bad_node "this node has no "{self.interpreter}',
            f"cd {folder} || bad_node 'the run directory is gone'",
            f'ln -sf {PICKLE} "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}_submitted.pkl" '
            "|| bad_node 'the run directory cannot be written'",
        ]
        if self.stops_chain:
            lines.append(
                f'echo "$SLURM_ARRAY_TASK_ID" >> {STARTS} '
                "|| bad_node 'the run directory cannot be written'; "
                f'[ "$(wc -l < {STARTS})" -le {MOST_STARTS} ] || '
                f"give_up 'the worker did not come up {MOST_STARTS} times: see the logs before'"
            )
        return lines

    def write_pickle(self, function: Callable[[str], None], argument: str) -> None:
        """Put the pickle where every task finds it."""
        submission = DelayedSubmission(function, argument)
        submission.set_timeout(0, 0)
        submission.dump(self.folder / PICKLE)

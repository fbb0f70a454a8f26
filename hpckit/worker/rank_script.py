"""The shell script that each rank runs: environment, setup, program, and the exit code it leaves.

It needs bash and nothing of hpckit, so that it runs in anybody's environment or container.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.worker.command import fill, values_of

if TYPE_CHECKING:
    from hpckit.spec import Environment, JobSpec

RANK = "rank.sh"
INSIDE = "inside.sh"
# Where sites keep the definition of `module`, which a script that is no login shell lacks.
MODULE_FILES = (
    "/etc/profile.d/lmod.sh",
    "/etc/profile.d/z00_lmod.sh",
    "/etc/profile.d/modules.sh",
    "/usr/share/lmod/lmod/init/bash",
    "/usr/share/modules/init/bash",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How many processes a launch starts, and where they meet."""

    nodes: int
    per_node: int
    master_address: str
    master_port: int

    @property
    def world_size(self) -> int:
        return self.nodes * self.per_node


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """The folders and files of one launch."""

    run: Path
    home: Path
    work: Path
    logs: Path
    params: Path
    trainer_starter: Path


def program_lines(spec: JobSpec, places: Places, known: Mapping[str, Any]) -> list[str]:
    """What is started: the values it needs, and one shell line under the program's own bash."""
    if spec.program.trainer is not None:
        return [shlex.join(["python", str(places.trainer_starter), spec.program.trainer])]
    assert spec.program.command is not None
    line, values = fill(spec.program.command, {**values_of(spec.params), **known})
    exports = [f"export {name}={_q(value)}" for name, value in values.items()]
    return [*exports, f"bash -o pipefail -c {_q(line)}"]


def render(
    spec: JobSpec, *, layout: Layout, places: Places, known: Mapping[str, Any], python: str
) -> dict[str, str]:
    """The scripts of one launch by file name; ranks differ by SLURM_PROCID alone."""
    program = _program(spec, places, known, python)
    opening = [*_opening(layout, places, known), *_modules(spec.environment.modules)]
    if spec.environment.container is None:
        return {RANK: _text(opening + program)}
    outside = [*opening, "set +e", "stage=program", _in_container(spec, places)]
    return {RANK: _text(outside), INSIDE: _text(["#!/bin/bash", *program])}


def _text(lines: Sequence[str]) -> str:
    return "\n".join([*lines, ""])


def _opening(layout: Layout, places: Places, known: Mapping[str, Any]) -> list[str]:
    exported = {
        "WORLD_SIZE": layout.world_size,
        "LOCAL_WORLD_SIZE": layout.per_node,
        "MASTER_ADDR": layout.master_address,
        "MASTER_PORT": layout.master_port,
        "HPCKIT_RUN": known["run"],
        "HPCKIT_RUN_DIR": places.run,
        "HPCKIT_ATTEMPT": known["attempt"],
        "HPCKIT_PARAMS": places.params,
        "PYTHONUNBUFFERED": 1,
    }
    return [
        "#!/bin/bash",
        f"logs={_q(places.logs)}",
        'export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" NODE_RANK="$SLURM_NODEID"',
        *(f"export {name}={_q(value)}" for name, value in exported.items()),
        "stage=setup",
        # The exit code is the rank's own word: srun's is 143 for all once one has died.
        'trap \'code=$?; echo "$code $stage" > "$logs/rank-$RANK.exit"\' EXIT',
        # A program gets the signal itself and may save; bash must live to write its exit code.
        "trap : TERM HUP INT USR1 USR2",
        '[ "$RANK" = 0 ] && echo "${SLURM_STEP_ID:-}" > "$logs/step"',
        "set -e",
    ]


def _modules(modules: Sequence[str]) -> list[str]:
    if not modules:
        return []
    files = " ".join(MODULE_FILES)
    return [
        "if ! type module >/dev/null 2>&1; then",
        f'  for file in {files}; do if [ -r "$file" ]; then . "$file"; break; fi; done',
        "fi",
        *(_told(f"module load {_q(name)}") for name in modules),
    ]


def _told(line: str) -> str:
    """A line that stops the launch where it fails, and says which it was."""
    return f"{line} || {{ echo {_q('hpckit: failed: ' + line)} >&2; exit 1; }}"


def _program(spec: JobSpec, places: Places, known: Mapping[str, Any], python: str) -> list[str]:
    environment = spec.environment
    lines = ["set -e"]
    lines += [f"export {name}={_q(value)}" for name, value in environment.variables.items()]
    lines += _python_environment(environment, python)
    lines.append(_told(f"cd {_q(places.work)}"))
    lines += environment.setup
    return [*lines, "set +e", "stage=program", *program_lines(spec, places, known)]


def _python_environment(environment: Environment, python: str) -> list[str]:
    if environment.conda is not None:
        return [
            'conda_base="$(conda info --base)"',
            '. "$conda_base/etc/profile.d/conda.sh"',
            _told(f"conda activate {_q(environment.conda)}"),
        ]
    if environment.venv is not None:
        return [_told(f". {_q(environment.venv)}/bin/activate")]
    if environment.container is not None:
        return []
    # Nothing was named: `python` is the one that ran hpckit submit, activated or not.
    return [f'export PATH={_q(Path(python).parent)}:"$PATH"']


def _in_container(spec: JobSpec, places: Places) -> str:
    container = spec.environment.container
    assert container is not None
    arguments = ["apptainer", "exec", *(["--nv"] if spec.resources.gpus else [])]
    for bind in (str(places.home), *container.bind):
        arguments += ["--bind", bind]
    arguments += ["--pwd", str(places.work), container.image, "bash", str(places.logs / INSIDE)]
    return shlex.join(arguments)


def _q(value: object) -> str:
    return shlex.quote(str(value))

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
KEEP_ALIVE = "trap : TERM HUP INT USR1 USR2 ABRT"
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
    # Nodes of the job that have no part in it.
    without: tuple[str, ...] = ()

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
    sources: tuple[str, ...] = ()
    # Of a program that is attached: what runs it, see hpckit/worker/archive.py.
    archive: Path | None = None


def render(
    spec: JobSpec, *, layout: Layout, places: Places, known: Mapping[str, Any], python: str
) -> dict[str, str]:
    """The scripts of one launch by file name; ranks differ by SLURM_PROCID alone.

    The outer one says how it ended, whatever a setup line or the program does to its own shell;
    the inner one, in the container where there is one, sets up and runs the program.
    """
    inner = ["#!/bin/bash", *_inside(spec, places, known, python)]
    outer = [*_opening(layout, places, known), *_modules(spec.environment.modules)]
    start = [f"bash {_q(places.logs / INSIDE)}"]
    if spec.environment.container is not None:
        enter = f"cd {_q(places.work)}"
        start = [enter, _or_stop(enter, "say_how_it_ended"), _in_container(spec, places)]
    return {RANK: _text([*outer, *start, "say_how_it_ended $?"]), INSIDE: _text(inner)}


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
        "HPCKIT_LAUNCH": known["launch"],
        "HPCKIT_PARAMS": places.params,
        "PYTHONUNBUFFERED": 1,
        # What hangs is asked by SIGABRT where it is; and a crash in C says so, too.
        "PYTHONFAULTHANDLER": 1,
    }
    return [
        "#!/bin/bash",
        'export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" NODE_RANK="$SLURM_NODEID"',
        *(f"export {name}={_q(value)}" for name, value in exported.items()),
        f"here={_q(places.logs)}/rank-$RANK",
        'export HPCKIT_PULSE="$here.pulse"',
        # The exit code is the rank's own word: srun's is 143 for all once one has died.
        "say_how_it_ended() {",
        '  when="${EPOCHREALTIME:--} ${SLURMD_NODENAME:-}"',
        '  if [ -e "$here.started" ]; then stage=program; else stage=setup; fi',
        # A disk may be full for a while: the word of a long training is worth some patience.
        # Not if the folder was deleted: nobody reads it there, but once may be a filesystem's mood.
        "  for try in {1..24}; do",
        f"    if [ -d {_q(places.logs)} ]; then",
        '      echo "$1 $stage ${told:-untold} $when" > "$here.exit" && break',
        "    elif [ $try -gt 1 ]; then break; fi",
        "    sleep 5",
        "  done",
        # Told to end, ranks do so each in its time: a code would have the others killed.
        '  if [ -n "$told" ]; then exit 0; fi; exit "$1"',
        "}",
        # The program gets the signal itself and may save; bash must live to say how it ended.
        "told=; trap told=told TERM; trap : HUP INT USR1 USR2 ABRT",
        f'[ "$RANK" != 0 ] || echo "${{SLURM_STEP_ID:-}}" > {_q(places.logs / "step")}',
    ]


def _modules(modules: Sequence[str]) -> list[str]:
    if not modules:
        return []
    files = " ".join(MODULE_FILES)
    loads = [
        line
        for name in modules
        for line in (f"module load {_q(name)}", _or_stop(f"module load {name}", "say_how_it_ended"))
    ]
    return [
        "if ! type module >/dev/null 2>&1; then",
        f'  for file in {files}; do if [ -r "$file" ]; then . "$file"; break; fi; done',
        "fi",
        *loads,
    ]


def _or_stop(line: str, stop: str) -> str:
    said = _q(f"hpckit: failed: {line}")
    return f"code=$?; if [ $code != 0 ]; then echo {said} >&2; {stop} $code; fi"


def _inside(spec: JobSpec, places: Places, known: Mapping[str, Any], python: str) -> list[str]:
    environment = spec.environment
    variables = [f"export {name}={_q(value)}" for name, value in environment.variables.items()]
    setup = [
        # First, so that `venv: .venv` is the one beside the spec.
        f"cd {_q(places.work)}",
        *_python_environment(environment, python),
        *environment.setup,
    ]
    return [
        KEEP_ALIVE,
        "trap 'echo \"hpckit: setup ended at: $hpckit_line\" >&2' EXIT",
        "set -eo pipefail",
        *variables,
        # `set -e` alone passes over `cd /nowhere && export X=1`.
        *(f"hpckit_line={_q(line)}\n{line}\n[ $? = 0 ] || exit 1" for line in setup),
        f"touch {_q(places.logs)}/rank-$RANK.started",
        "trap - EXIT; set +e +o pipefail",
        *_program(spec, places, known),
    ]


def _program(spec: JobSpec, places: Places, known: Mapping[str, Any]) -> list[str]:
    """The values that the program needs, and one shell line under a bash of its own."""
    if spec.program.trainer is not None:
        return [shlex.join(["python", str(places.trainer_starter), spec.program.trainer])]
    assert spec.program.line is not None
    line, values = fill(spec.program.line, {**values_of(spec.params), **known})
    if spec.program.python is not None:
        python = ["python"] if places.archive is None else ["python", _q(places.archive)]
        line = " ".join([*python, line])
    exports = [f"export {name}={_q(value)}" for name, value in values.items()]
    # Told to end, what runs may save, and what would come after it is not begun.
    script = f"trap 'exit 143' TERM; trap : HUP INT USR1 USR2 ABRT\n{line}"
    return [*exports, f"bash -o pipefail -c {_q(script)}"]


def _python_environment(environment: Environment, python: str) -> list[str]:
    if environment.conda is not None:
        return [
            'conda_base="$(conda info --base)"',
            '. "$conda_base/etc/profile.d/conda.sh"',
            f"conda activate {_at_home(environment.conda)}",
        ]
    if environment.venv is not None:
        return [f". {_at_home(environment.venv)}/bin/activate"]
    if environment.container is not None:
        return []
    # Nothing was named: `python` is the one that ran hpckit submit, activated or not.
    return [f'export PATH={_q(Path(python).parent)}:"$PATH"']


def _in_container(spec: JobSpec, places: Places) -> str:
    container = spec.environment.container
    assert container is not None
    words = ["apptainer", "exec", *(["--nv"] if spec.resources.gpus else [])]
    # The job's own folder too: what was left out of the copy is linked there.
    for bind in (str(places.home), *places.sources):
        words += ["--bind", _q(bind)]
    for bind in container.bind:
        words += ["--bind", _at_home(bind)]
    words += ["--pwd", _q(places.work), _at_home(container.image)]
    return " ".join([*words, "bash", _q(places.logs / INSIDE)])


def _at_home(path: str) -> str:
    """A path for a shell; `~/` is the home of whoever runs it, as a person means it."""
    return f'"$HOME"/{_q(path[2:])}' if path.startswith("~/") else _q(path)


def _q(value: object) -> str:
    return shlex.quote(str(value))

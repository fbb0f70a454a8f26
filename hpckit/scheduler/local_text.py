"""Reading a batch script's #SBATCH lines the way sbatch does, as far as one machine goes."""

from __future__ import annotations

import argparse
import re
import shlex
import signal
from typing import NamedTuple, NoReturn

from hpckit.errors import SubmissionRefused
from hpckit.scheduler.slurm_text import tasks_of

TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")
SIGNAL = re.compile(r"((?:[BR]{1,2}:)?)([A-Za-z0-9]+)(?:@(\d+))?")
DEFAULT_LEAD_S = 60.0


class Asked(NamedTuple):
    """What a script asks for, each in the unit that its name says."""

    name: str | None
    tasks: list[int]
    is_array: bool
    at_most: int
    limit_s: float | None
    signal: int | None
    lead_s: float
    batch_only: bool
    output: str
    error: str
    append: bool
    gpus: int
    cpus: int
    after: list[str]
    singleton: bool


class _Options(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SubmissionRefused(f"#SBATCH: {message}")


def command_of(script: str) -> list[str]:
    """The interpreter that the first line names, as the kernel reads it."""
    first = script.split("\n", 1)[0]
    words = first[2:].strip().split(None, 1) if first.startswith("#!") else []
    if not words:
        raise SubmissionRefused(
            "this does not look like a batch script",
            "its first line must be #! and the path of an interpreter, such as #!/bin/bash",
        )
    return words


def asked(script: str) -> Asked:
    """What the #SBATCH lines ask for; what only a cluster understands is passed over."""
    options, _ = _parser().parse_known_args(_words(script))
    nodes = options.nodes.split("-")[0]
    if nodes != "1":
        hint = "set resources.nodes=1 with -s, or submit to a cluster"
        raise SubmissionRefused(f"asks for {nodes} nodes; this machine is one", hint)
    number, lead_s, batch_only = _signal(options.signal)
    after, singleton = _dependency(options.dependency)
    expression, _, throttle = (options.array or "").partition("%")
    tasks = sorted(set(tasks_of(expression))) if options.array else [0]
    if not tasks or not (throttle or "1").isdecimal():
        raise SubmissionRefused(f"array {options.array!r} is none: write it as 1-12 or 1-12%1")
    default = "slurm-%A_%a.out" if options.array else "slurm-%j.out"
    return Asked(
        name=options.job_name,
        tasks=tasks,
        is_array=bool(options.array),
        at_most=int(throttle or 0) or len(tasks),
        limit_s=seconds(options.time),
        signal=number,
        lead_s=lead_s,
        batch_only=batch_only,
        output=options.output or default,
        error=options.error or "",
        append=options.open_mode.startswith("a"),
        gpus=_count(options.gpus_per_node),
        cpus=_count(options.cpus_per_task) or 1,
        after=after,
        singleton=singleton,
    )


def _parser() -> _Options:
    parser = _Options(prog="sbatch", add_help=False, allow_abbrev=False)
    add = parser.add_argument
    add("-J", "--job-name")
    add("-a", "--array")
    add("-t", "--time", default="")
    add("--signal", default="")
    add("-o", "--output")
    add("-e", "--error")
    add("--open-mode", default="truncate")
    add("-N", "--nodes", default="1")
    add("--gpus-per-node", default="0")
    add("-c", "--cpus-per-task", default="1")
    add("-d", "--dependency", default="")
    return parser


def _words(script: str) -> list[str]:
    """The options of all #SBATCH lines before the first command, as sbatch takes them."""
    words: list[str] = []
    for line in script.split("\n"):
        if not line.startswith("#"):
            if line.strip():
                break
            continue
        if not line.startswith("#SBATCH"):
            continue
        try:
            found = shlex.split(line.removeprefix("#SBATCH"))
        except ValueError as error:
            raise SubmissionRefused(f"cannot read {line!r}: {error}") from error
        comment = next((i for i, word in enumerate(found) if word.startswith("#")), len(found))
        words += found[:comment]
    return words


def seconds(text: str) -> float | None:
    """Slurm's ways to write a duration: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S; None is no limit."""
    if text.upper() in ("", "0", "UNLIMITED", "INFINITE", "-1"):
        return None
    if not TIME.fullmatch(text):
        raise SubmissionRefused(
            f"time {text!r} is none", "write minutes, or hours:minutes:seconds, or days-hours"
        )
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, secs = (*parts, 0, 0)[:3]
    else:
        hours, minutes, secs = parts if len(parts) == 3 else (0, *parts, 0)[:3]
    return float(((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs)


def _signal(text: str) -> tuple[int | None, float, bool]:
    if not text:
        return None, DEFAULT_LEAD_S, False
    match = SIGNAL.fullmatch(text)
    if match is None:
        raise SubmissionRefused(f"signal {text!r} is none", "write it as B:USR2@60")
    flags, name, lead = match.groups()
    try:
        upper = name.upper()
        number = (
            int(name) if name.isdecimal() else signal.Signals[f"SIG{upper.removeprefix('SIG')}"]
        )
    except KeyError:
        raise SubmissionRefused(f"there is no signal {name!r}") from None
    return int(number), float(lead or DEFAULT_LEAD_S), "B" in flags


def _dependency(text: str) -> tuple[list[str], bool]:
    after: list[str] = []
    singleton = False
    for part in text.split(",") if text else []:
        kind, *ids = part.split(":")
        if kind == "singleton":
            singleton = True
        elif kind == "afterany" and ids and "?" not in text:
            after += ids
        else:
            # To pass over it would run beside each other what must not.
            hint = "afterany and singleton are known, all of which must hold"
            raise SubmissionRefused(f"dependency {text!r}: not on this machine", hint)
    return after, singleton


def _count(text: str) -> int:
    """A count such as "4" or "a100:4"."""
    number = text.rpartition(":")[2]
    if not number.isdecimal():
        raise SubmissionRefused(f"{text!r} is no count")
    return int(number)

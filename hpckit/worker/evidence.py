"""What the end of a log says about why a program ended: pure, from its last lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

# So much of a log is looked at, and so many lines of a traceback are shown.
LINES = 400
SHOWN = 12
LAST = 20
# Of a line that is quoted.
LONGEST = 300
TRACEBACK = "Traceback (most recent call last):"
FRAME = re.compile(r'\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
ERROR = re.compile(r"(?P<type>[A-Za-z_][\w.]*)(?:: .*)?$")
# A launcher may put the rank before each line: `[rank1]: Traceback ...`.
PREFIX = re.compile(r"^\[rank\d+\]:\s?")
OTHERS_CODE = re.compile(r"/(?:site-packages|dist-packages|lib/python3[\d.]*)/|^<frozen ")

GPU_MEMORY = re.compile(r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED")
HOST_MEMORY = re.compile(
    r"exceeded (?:step |job )?memory limit|oom[-_ ]?kill|out[- ]of[- ]memory"
    r"|^MemoryError|DefaultCPUAllocator: (?:can't allocate|not enough) memory"
    r"|Cannot allocate memory",
    re.IGNORECASE,
)
BAD_NODE = re.compile(
    r"no CUDA-capable device is detected|CUDA driver initialization failed"
    r"|uncorrectable (?:NVLink|ECC) error|Unable to determine the device handle"
    r"|GPU is lost|has fallen off the bus|CUDA unknown error"
)
# What srun says of how it goes about it.
COURSE_OF_SRUN = re.compile(
    r"lacks support for cpu binding|Job step aborted|got SIG|forcing job termination"
    r"|_step_signal|step creation temporarily disabled|Step created for job"
)
DEVICE = re.compile(
    r"CUDA error: [^\n]*|cuDNN error: [^\n]*|CUBLAS_STATUS_\w+|nccl\w*Error[^\n]*|NCCL error[^\n]*"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """The kind of trouble, what it was in a line, and where in the program it came from."""

    kind: str
    said: str
    # Of what a program raises by itself: what comes back there is no accident.
    place: str | None = None
    lines: tuple[str, ...] = ()


def in_log(
    lines: Sequence[str], *, was_killed: bool = False, has_gpus: bool = True
) -> Evidence | None:
    """What the last lines of a program's log say; None where that is nothing.

    Without a traceback words about memory mean something only where somebody killed it, and those
    about a bad node nothing: torch warns in them, and goes on. Who asked for no GPU has none.
    """
    lines = [PREFIX.sub("", line) for line in lines[-LINES:]]
    trace = _last_traceback(lines)
    text = "\n".join(trace or lines)
    if found := GPU_MEMORY.search(text):
        return _of("crash", _error_line(trace) or found.group(), trace, place=_place(trace))
    if has_gpus and (found := BAD_NODE.search("\n".join(trace))):
        return _of("node_failure", found.group(), trace, place=_place(trace))
    if found := DEVICE.search(text):
        return _of("crash", found.group(), trace)
    if words := _line_with(HOST_MEMORY, trace or (lines[-LAST:] if was_killed else ())):
        return _of("out_of_memory", words, trace)
    if trace:
        return _of("crash", _error_line(trace), trace, place=_place(trace))
    return None


def in_srun(text: str) -> Evidence | None:
    """What Slurm's own words say of a step that it ended."""
    found = _line_with(HOST_MEMORY, text.splitlines())
    return Evidence(kind="out_of_memory", said=found[:LONGEST]) if found else None


def line_of_srun(text: str) -> str:
    """The one line of srun's that says why a step ended; the others are in its log."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    worth = [line for line in lines if not COURSE_OF_SRUN.search(line)]
    errors = [line for line in worth if "error" in line]
    found = _line_with(HOST_MEMORY, worth) or next(iter([*errors, *reversed(worth)]), "")
    return found[:LONGEST]


def _of(kind: str, said: str, trace: Sequence[str], place: str | None = None) -> Evidence:
    return Evidence(kind=kind, said=said[:LONGEST], place=place, lines=tuple(trace[-SHOWN:]))


def _line_with(pattern: re.Pattern[str], lines: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(lines) if pattern.search(line)), "")


def _last_traceback(lines: Sequence[str]) -> list[str]:
    """The last traceback with its error's line; what was printed after it is left out."""
    starts = [place for place, line in enumerate(lines) if line.strip() == TRACEBACK]
    if not starts:
        return []
    first = starts[-1]
    indent = len(lines[first]) - len(lines[first].lstrip())
    for place in range(first + 1, len(lines)):
        line = lines[place]
        own = line[indent:]
        if own and not own.startswith((" ", "\t")):
            # The error's own message may go on over lines; its first one is what is quoted.
            return [each[indent:] for each in lines[first : place + 1]]
    return []


def _error_line(trace: Sequence[str]) -> str:
    return trace[-1].strip() if trace else ""


def _place(trace: Sequence[str]) -> str | None:
    """Where it came from: the innermost line of the program itself, not of a library."""
    frames = [found for line in trace if (found := FRAME.match(line))]
    if not frames:
        return None
    own = [each for each in frames if not OTHERS_CODE.search(each["file"])]
    frame = (own or frames)[-1]
    error = ERROR.match(_error_line(trace))
    kind = error["type"] if error else "error"
    return f"{PurePath(frame['file']).name}:{frame['line']} in {frame['function']}: {kind}"

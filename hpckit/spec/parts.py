"""The sections of a job spec."""

# ruff: noqa: RUF009 (setting is dataclasses.field with a help text)
from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from hpckit import units, yamlio
from hpckit.errors import Problem
from hpckit.model.fields import Section, setting
from hpckit.model.kinds import (
    BAD,
    Anything,
    Choice,
    Duration,
    Kind,
    MapOf,
    Number,
    Plain,
    Schema,
    Size,
    Text,
    Whole,
    anchored,
    complain,
    described,
)
from hpckit.spec.health import ACTING, OWN, RULES

# Sections are looked for here, whichever file they stand in.
from hpckit.spec.monitoring import Clip as Clip
from hpckit.spec.monitoring import GroupClip as GroupClip
from hpckit.spec.monitoring import Log as Log
from hpckit.spec.monitoring import Monitor as Monitor
from hpckit.spec.monitoring import Optimizer as Optimizer

# The longest chain that a spec may ask for.
MOST_ATTEMPTS = 1000
NUMERIC = ("non_finite", "bad_batch", "explosion", "drift", "clip_saturation", "loss_lost")
# Of these and of the rules: something is done about them. The others are told, or skipped.
ACTED_ON = ("non_finite", "explosion", "loss_lost", *ACTING)
SKIPPED = "bad_batch"
INFRASTRUCTURE = (
    "hang", "crash", "out_of_memory", "node_failure", "time_limit", "preemption"
)  # fmt: skip
KINDS = tuple(dict.fromkeys((*NUMERIC, *RULES, *INFRASTRUCTURE)))
EVENTS = ("incident", "restart", "stopped", "failed", "cancelled", "done")

# Slurm's and the launcher's own: a value set here would start the wrong ranks.
OWNED_VARIABLES = (
    r"SLURM_\w*|SBATCH_\w*|SRUN_\w*|HPCKIT_\w*|PMI_\w*|PMIX_\w*|RANK|WORLD_SIZE|LOCAL_RANK"
    r"|LOCAL_WORLD_SIZE|NODE_RANK|GROUP_RANK|MASTER_ADDR|MASTER_PORT"
)

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
Name = Annotated[
    str,
    Text(
        pattern=NAME_PATTERN,
        expected="a letter or digit, then up to 63 letters, digits, dots, dashes or underscores",
    ),
]
Line = Annotated[str, Text(one_line=True)]
# What becomes an argument of a command: one that begins with a dash would be an option of it.
Word = Annotated[
    str,
    Text(
        pattern=r"[^-\x00-\x1f\x7f][^\x00-\x1f\x7f]*", expected="one line that begins with no dash"
    ),
]
Seconds = Annotated[int, Duration()]
Megabytes = Annotated[int, Size()]
Count = Annotated[int, Whole(min=0)]
Positive = Annotated[int, Whole(min=1)]
Above0 = Annotated[float, Number(above=0)]
Commands = tuple[str, ...]
# What stands for something else in a shell's word, or in one that hpckit fills in.
SHELLS_OWN = re.compile(r"[$`{*?\[]")


class Gpus(Kind):
    """How many GPUs, or of which type and how many: `a100:4`."""

    many = Whole(min=0)
    typed = Text(
        pattern=r"[A-Za-z][A-Za-z0-9_.-]*:[1-9][0-9]{0,3}",
        expected="a number, or a type and a number such as a100:4",
    )

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        if isinstance(node, yamlio.Scalar) and node.plain and _is_number(node):
            return self.many.read(node, problems, path)
        return self.typed.read(node, problems, path)

    def schema(self) -> Schema:
        typed = {**self.typed.schema(), "type": "string"}
        return {"anyOf": [self.many.schema(), typed]}


class VariableNames(Text):
    """Names of environment variables that hpckit and Slurm leave to the spec."""

    def complaint(self, text: str) -> str:
        if re.fullmatch(OWNED_VARIABLES, text):
            return "is set by Slurm or hpckit for each process and cannot be given"
        return super().complaint(text)


def first_word(line: str) -> str | None:
    """A shell line's first word without its quotes; None where there is none, or no end to it."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split, words.commenters = True, ""
    try:
        return words.get_token()
    except ValueError:
        return None


@dataclass(frozen=True, kw_only=True)
class Program:
    """What runs: a command line, a Python script, or a trainer class in a file."""

    command: str | None = setting(default=None, help="A command line for the shell.")
    trainer: (
        Annotated[
            str,
            Text(
                pattern=OWN,
                expected="a file and a class, such as train.py:MyTrainer",
            ),
        ]
        | None
    ) = setting(default=None, help="A Trainer: file.py:Name.")
    python: str | None = setting(
        default=None, help="A Python script and its arguments, or -m and a module."
    )
    attach: Literal["optimizers"] | None = setting(
        default=None, help="Watch, gate and clip the PyTorch optimizers of `python`, unedited."
    )
    processes: Literal["per_node", "per_gpu", "one"] | None = setting(
        default=None, help="How many processes it starts as; asked for beyond one GPU."
    )

    @property
    def line(self) -> str | None:
        """What a shell reads, of `command` or `python`."""
        return self.command if self.python is None else self.python

    @property
    def script(self) -> str | None:
        """The file that `python` runs; None where that is a module, or the shell alone knows."""
        word = first_word(self.python or "")
        return None if not word or word.startswith("-") or SHELLS_OWN.search(word) else word


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What each attempt asks of the cluster."""

    nodes: Positive = setting(default=1, help="How many nodes.")
    min_nodes: Positive | None = setting(
        default=None,
        help="With how few of them a launch is enough, when a node of the job turns out bad.",
    )
    gpus_per_node: Annotated[int | str, Gpus()] = setting(
        default=0, help="GPUs on each node: 4, or a100:4."
    )
    cpus_per_gpu: Positive | None = setting(default=None, help="CPU cores for each GPU.")
    cpus_per_node: Positive | None = setting(default=None, help="CPU cores on each node.")
    memory: Megabytes | None = setting(default=None, help="Memory of each node, such as 64G.")
    time: Annotated[int, Duration(min=60)] = setting(
        default=3600, help="Time limit of one attempt, such as 24h."
    )
    partition: Word | None = setting(default=None, help="Slurm's partition.")
    account: Word | None = setting(default=None, help="Slurm's account.")

    @property
    def gpus(self) -> int:
        """GPUs on each node, as a number."""
        return int(str(self.gpus_per_node).rpartition(":")[2])


@dataclass(frozen=True, kw_only=True)
class Container:
    """An image that the program runs in; the worker stays outside."""

    image: Word = setting(help="An image, such as a.sif.")
    bind: tuple[Word, ...] = setting(default=(), help="Folders to bind: /data or /data:/inside.")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What the program finds around it."""

    modules: tuple[Word, ...] = setting(default=(), help="Modules to load, in order.")
    conda: Word | None = setting(default=None, help="A conda environment's name or path.")
    venv: Word | None = setting(default=None, help="A virtual environment's folder.")
    container: Container | None = setting(default=None, help="A container image.")
    variables: Annotated[
        dict[str, str],
        MapOf(
            item=Text(empty=True),
            key=VariableNames(
                pattern=rf"(?!(?:{OWNED_VARIABLES})$)[A-Za-z_][A-Za-z0-9_]*",
                expected="a variable's name",
            ),
        ),
    ] = setting(default_factory=dict, help="Environment variables.")
    setup: Commands = setting(default=(), help="Shell lines to run before the program.")


@dataclass(frozen=True, kw_only=True)
class Every:
    """How often: after so much time, so many steps, or so many epochs."""

    seconds: int | None = None
    steps: int | None = None
    epochs: int | None = None


class Often(Kind):
    """`10m`, `500 steps` or `1 epoch`."""

    counted = r"[1-9][0-9]{0,11} (?:steps?|epochs?)"
    duration = Duration(min=1)

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        if isinstance(node, yamlio.Scalar) and re.fullmatch(self.counted, node.text):
            count, unit = node.text.split()
            return Every(**{unit.rstrip("s") + "s": int(count)})
        if isinstance(node, yamlio.Scalar) and not _is_duration(node.text):
            message = f"must be 10m, 500 steps or 1 epoch, not {described(node)}"
            return complain(problems, node, path, message)
        value = self.duration.read(node, problems, path)
        return value if value is BAD else Every(seconds=value)

    def schema(self) -> Schema:
        counted = {"type": "string", "pattern": anchored(self.counted)}
        return {"anyOf": [counted, self.duration.schema()]}

    def write(self, value: Any) -> Any:
        if value.seconds is not None:
            return self.duration.write(value.seconds)
        count, unit = (value.steps, "step") if value.steps else (value.epochs, "epoch")
        return f"{count} {unit}{'s' * (count > 1)}"


def _is_duration(text: str) -> bool:
    try:
        units.parse_duration(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """When state is saved, and from which state a restart goes on."""

    every: Annotated[Every, Often()] = setting(
        default=Every(seconds=600), help="How often to save: 10m, 500 steps, or 1 epoch."
    )
    keep: Positive = setting(default=3, help="How many checkpoints to keep.")
    keep_every: Positive | None = setting(
        default=None, help="Keep one of every so many steps for good."
    )
    confirm_steps: Count = setting(
        default=100, help="Healthy steps after which a checkpoint is good."
    )
    before_end: Annotated[int, Duration(min=1)] | None = setting(
        default=None, help="How long before the time limit the program is told to save and end."
    )
    files: tuple[Line, ...] = setting(
        default=(),
        help="The files or folders of one checkpoint of a self-resuming program: cp/g_{step}.",
    )
    resume: Literal["newest", "argument"] | None = setting(
        default=None,
        help="How the program finds its checkpoint: newest, by itself, or argument, by "
        "{checkpoint}, which is so without a word where the command has that.",
    )


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change to one setting: times a factor, or to a value, within bounds."""

    times: Above0 | None = setting(default=None, help="A factor.")
    to: Annotated[Any, Plain()] = setting(default=None, help="The new value.")
    min: Annotated[Any, Plain()] = setting(default=None, help="Never below.")
    max: Annotated[Any, Plain()] = setting(default=None, help="Never above.")


class Changes(Kind):
    """`x0.5`, `=0.5`, or a mapping with bounds."""

    pattern = r"x(?=[0-9.]*[1-9])(?:[0-9]{1,9}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})|=\S(?:[^\x00-\x1f]*)"
    full = Section(Change)

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        if not isinstance(node, yamlio.Scalar):
            return self.full.read(node, problems, path)
        text = node.text
        if not re.fullmatch(self.pattern, text):
            message = (
                f"must be a factor such as x0.5 or a value such as =0.5, not {described(node)}"
            )
            if _is_number(node):
                message += f": write x{text} to multiply, or ={text} to set"
            return complain(problems, node, path, message)
        if text.startswith("x"):
            return Change(times=float(text[1:]))
        value = yamlio.Scalar(node.file, node.line, node.column, text[1:], True)
        return Change(to=Anything().read(value, problems, path))

    def schema(self) -> Schema:
        short = {"type": "string", "pattern": anchored(self.pattern)}
        return {"anyOf": [short, self.full.schema()]}

    def write(self, value: Any) -> Any:
        return self.full.write(value)


class AutoOrDuration(Duration):
    """A duration, or `auto`, which is None."""

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        if isinstance(node, yamlio.Scalar) and node.text == "auto":
            return None
        return super().read(node, problems, path)

    def schema(self) -> Schema:
        return {"anyOf": [{"const": "auto"}, super().schema()]}


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """What is done about one kind of incident."""

    do: Literal["rollback", "relaunch", "resubmit", "tell", "stop"] | None = setting(
        default=None, help="What to do."
    )
    change: (
        Annotated[
            dict[str, Change],
            MapOf(
                item=Changes(),
                key=Text(
                    pattern=r"clip|lr|params\.[^\x00]+|resources\.[a-z_]+",
                    expected="clip, lr, params.<name> or resources.<name>",
                ),
            ),
        ]
        | None
    ) = setting(default=None, help="What to change: clip, lr, params.x, resources.x.")
    of: Line | None = setting(
        default=None, help="Whose clip and lr: blamed, all, or an optimizer's name."
    )
    skip_batches: Count | None = setting(
        default=None, help="Batches to leave out after going back."
    )
    limit: Count | None = setting(default=None, help="How often, until progress refills it.")
    after: Annotated[int, AutoOrDuration(min=1)] | None = setting(
        default=None, help="How long without a step is a hang; auto learns it."
    )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a run may spend in all; never refilled."""

    attempts: Annotated[int, Whole(min=1, max=MOST_ATTEMPTS)] = setting(
        default=12, help="How many attempts."
    )
    gpu_hours: Above0 | None = setting(default=None, help="GPU hours over all attempts.")
    total: Annotated[int, Duration(min=1)] | None = setting(
        default=None, help="Time from submission to the end, such as 10d."
    )


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Shell commands to run when something happens."""

    on_incident: Commands = setting(default=(), help="After an incident.")
    before_launch: Commands = setting(default=(), help="Before the processes are started.")
    on_restart: Commands = setting(default=(), help="When another attempt begins.")
    on_stop: Commands = setting(default=(), help="When the run is stopped by policy.")
    on_finish: Commands = setting(default=(), help="When the run is done.")


@dataclass(frozen=True, kw_only=True)
class Notify:
    """Whom to tell, and of what."""

    mail: (
        Annotated[
            str,
            Text(
                pattern=r"[A-Za-z0-9_.+][A-Za-z0-9_.+-]*@[A-Za-z0-9][A-Za-z0-9.-]*",
                expected="a mail address",
            ),
        ]
        | None
    ) = setting(default=None, help="A mail address.")
    on: tuple[Annotated[str, Choice(EVENTS)], ...] = setting(
        default=("stopped", "failed", "done"), help="The events to tell of."
    )


def _is_number(node: yamlio.Scalar) -> bool:
    try:
        return isinstance(yamlio.resolve(node), (int, float))
    except ValueError:
        return True

"""What must hold between the sections of a spec; each rule looks at what could be read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpckit import units, yamlio
from hpckit.errors import Problem
from hpckit.model.kinds import complain, did_you_mean
from hpckit.model.regex import problem_with
from hpckit.spec import resuming
from hpckit.spec import sweep as sweeps
from hpckit.spec.changes import CHANGEABLE, by_path, wrong
from hpckit.spec.parts import (
    ACTED_ON,
    INFRASTRUCTURE,
    SKIPPED,
    GroupClip,
    Optimizer,
    Program,
    Remedy,
    Resources,
    first_word,
)

# The names that hpckit fills in; all other braces belong to the shell.
PLACEHOLDER = re.compile(r"\{(params\.[A-Za-z0-9_.-]+|checkpoint|attempt|run)\}")
# What sbatch takes in --signal.
LEAD_MOST_S = 65_535


def placeholders(command: str) -> list[tuple[str, int]]:
    """The names between braces that hpckit fills in, with their offsets in the command."""
    return [(found[1], found.start()) for found in PLACEHOLDER.finditer(command)]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The sections that could be read, and the nodes they came from."""

    parts: Mapping[str, Any]
    root: yamlio.Node
    problems: list[Problem]
    # A run has it already: what only promises too much must not end that.
    is_resolved: bool = False

    def given(self, *steps: str) -> bool:
        """Whether the spec says something there, right or wrong."""
        node = yamlio.find(self.root, *steps[:-1])
        there = node.pairs.get(steps[-1]) if isinstance(node, yamlio.Mapping) else None
        return there is not None and not yamlio.is_null(there)

    def is_bad(self, path: str) -> bool:
        """Whether a value there was refused, so that a default stands in for it."""
        return any(each.path == path for each in self.problems)

    def complain(self, message: str, *steps: str) -> None:
        complain(self.problems, yamlio.find(self.root, *steps), ".".join(steps), message)


def check(draft: Draft) -> None:
    """Every rule, one after the other."""
    _program(draft)
    _resources(draft)
    _environment(draft)
    _checkpoint(draft)
    _monitor(draft)
    sweep = draft.parts.get("sweep")
    if sweep is not None:
        node = yamlio.find(draft.root, "sweep")
        sweeps.check(sweep, draft.parts["params"], node, draft.problems, _named(draft))
    _placeholders(draft)
    for kind, remedy in draft.parts["heal"].items():
        _remedy(draft, kind, remedy)


def _program(draft: Draft) -> None:
    program = draft.parts.get("program")
    if not isinstance(program, Program):
        return
    is_line = isinstance(yamlio.find(draft.root, "program"), yamlio.Scalar)
    kinds = ("command", "trainer", "python")
    given = ["command"] if is_line else [each for each in kinds if draft.given("program", each)]
    if len(given) != 1:
        draft.complain("needs one of command, python and trainer", "program")
    _python(draft, program)
    resources: Resources = draft.parts["resources"]
    if program.line is None or draft.given("program", "processes"):
        return
    if resources.nodes * max(resources.gpus, 1) > 1:
        of = f"{resources.nodes} nodes" if resources.nodes > 1 else "1 node"
        of += f" x {resources.gpus} GPUs" if resources.gpus else ""
        draft.complain(
            f"must say how many processes it starts as on {of}: "
            f"program: {{{given[0]}: ..., processes: per_gpu}}, or per_node, or one",
            "program",
        )


def _python(draft: Draft, program: Program) -> None:
    if program.attach is not None and not draft.given("program", "python"):
        draft.complain("goes with python alone: program: {python: train.py}", "program", "attach")
    if program.python is None:
        return
    word = first_word(program.python)
    is_module = word == "-m" and len(program.python.split()) > 1
    if not word or (word.startswith("-") and not is_module):
        found = "" if not word else f", not {word}"
        draft.complain(
            f"must begin with a script, such as train.py, or with -m and a module{found}",
            "program",
            "python",
        )


def _resources(draft: Draft) -> None:
    if draft.given("resources", "cpus_per_gpu") and draft.given("resources", "cpus_per_node"):
        draft.complain("excludes cpus_per_gpu: give one of them", "resources", "cpus_per_node")
    resources: Resources = draft.parts["resources"]
    if (resources.min_nodes or 1) > resources.nodes:
        draft.complain(f"is more than nodes, {resources.nodes}", "resources", "min_nodes")


def _environment(draft: Draft) -> None:
    if draft.given("environment", "conda") and draft.given("environment", "venv"):
        draft.complain("excludes conda: give one of them", "environment", "venv")


def _checkpoint(draft: Draft) -> None:
    checkpoint, resources = draft.parts["checkpoint"], draft.parts["resources"]
    lead = checkpoint.before_end
    if lead is not None and lead >= resources.time and not draft.is_bad("resources.time"):
        limit = units.format_duration(resources.time)
        draft.complain(f"must be less than the time limit of {limit}", "checkpoint", "before_end")
    elif lead is not None and lead > LEAD_MOST_S:
        most = units.format_duration(LEAD_MOST_S)
        draft.complain(f"Slurm can tell at most {most} ahead", "checkpoint", "before_end")
    resuming.check(draft)


def _monitor(draft: Draft) -> None:
    for name, optimizer in draft.parts["monitor"].optimizers.items():
        _clip(draft, name, optimizer)
    _log(draft)


def _clip(draft: Draft, name: str, optimizer: Optimizer) -> None:
    clip, steps = optimizer.clip, ("monitor", "optimizers", name, "clip")
    if clip is None or any(each.path.startswith(".".join(steps)) for each in draft.problems):
        return
    if message := _clip_complaint(clip, may_be_none=bool(clip.groups)):
        draft.complain(message, *steps)
    elif clip.groups and clip.percentile is not None:
        # A percentile of the whole's norms says nothing of a part's.
        draft.complain("gives each group its own percentile, not all of them one", *steps)
    for group, part in clip.groups.items():
        if message := _clip_complaint(part, may_be_none=False):
            draft.complain(message, *steps, "groups", group)


def _clip_complaint(clip: GroupClip, *, may_be_none: bool) -> str:
    given = [each for each in ("norm", "value", "percentile") if getattr(clip, each) is not None]
    if len(given) > 1:
        return f"clips by {' and by '.join(given)}: give one of them"
    if not given and not may_be_none:
        return "needs norm, value or percentile"
    if clip.percentile is None and (clip.at_most is not None or clip.of != GroupClip.of):
        return "has of and at_most only with a percentile"
    return ""


def _log(draft: Draft) -> None:
    log = draft.parts["monitor"].log
    if log is None:
        return
    steps = ("monitor", "log")
    names = log.name is not None or draft.is_bad("monitor.log.name")
    if names == bool(log.patterns):
        draft.complain("needs either patterns or the name of a ready set", *steps)
    for number, pattern in enumerate(log.patterns):
        if message := problem_with(pattern):
            node = yamlio.find(draft.root, *steps, "patterns")
            if isinstance(node, yamlio.Sequence):
                node = node.items[number]
            complain(draft.problems, node, f"monitor.log.patterns[{number}]", message)


def _placeholders(draft: Draft) -> None:
    program, params = draft.parts.get("program"), draft.parts["params"]
    if not isinstance(program, Program) or program.line is None:
        return
    swept = _swept(draft)
    known = dict.fromkeys((*dict(by_path(params)), *swept))
    varied = sweeps.Paths(swept)
    where = "command" if program.python is None else "python"
    steps = ("program", where) if draft.given("program", where) else ("program",)
    for name in dict.fromkeys(name for name, _ in placeholders(program.line)):
        path = name.removeprefix("params.")
        if path == name or path in known or varied.overlap(path):
            continue
        suggestion = did_you_mean(path, list(known)).replace("known here", "params has")
        draft.complain(f"{{{name}}} names no parameter{suggestion}", *steps)


def _named(draft: Draft) -> set[str]:
    """The parameters that the program's line names."""
    program = draft.parts.get("program")
    line = program.line if isinstance(program, Program) else None
    return {name.removeprefix("params.") for name, _ in placeholders(line or "")}


def _swept(draft: Draft) -> list[str]:
    """What the sweep varies, as far as it can be told where the sweep itself is wrong."""
    found: list[str] = []
    for part in ("grid", "zip"):
        node = yamlio.find(draft.root, "sweep", part)
        if draft.given("sweep", part) and isinstance(node, yamlio.Mapping):
            found += node.pairs
    return [*found, "seed"] if draft.given("sweep", "seeds") else found


def _remedy(draft: Draft, kind: str, remedy: Remedy) -> None:
    values, varied = dict(by_path(draft.parts["params"])), sweeps.Paths(_swept(draft))
    never = _never_acted_on(draft, kind)
    if never and remedy.do not in (None, "tell"):
        draft.complain(f"must be tell, not {remedy.do}: {never}", "heal", kind, "do")
    for key, change in (remedy.change or {}).items():
        steps = ("heal", kind, "change", key)
        message = f"nothing would apply it: {never}" if never else ""
        message = message or _wrong_place(kind, remedy, key) or _not_given(draft, key)
        if not message and (change.times is None) == (change.to is None):
            message = "needs either times or to"
        if message or (message := wrong(key, change, values, varied)):
            draft.complain(message, *steps)
    optimizers = draft.parts["monitor"].optimizers
    known = ("blamed", "all", *optimizers)
    if remedy.of is not None and optimizers and remedy.of not in known:
        draft.complain(f"names no optimizer{did_you_mean(remedy.of, known)}", "heal", kind, "of")


def _never_acted_on(draft: Draft, kind: str) -> str:
    """Why a remedy of this kind would never be carried out, or nothing."""
    rules = draft.parts["monitor"].rules
    may_be_own = rules.get(kind) is False and any(":" in name for name in rules)
    if draft.is_resolved or kind in (*ACTED_ON, *INFRASTRUCTURE) or may_be_own:
        return ""
    is_so = "only leaves out its one update" if kind == SKIPPED else "is only ever told"
    return f"{kind} {is_so}; acted on are {', '.join(ACTED_ON)}"


def _wrong_place(kind: str, remedy: Remedy, key: str) -> str:
    """A change that nobody would carry out."""
    is_resource = key.startswith("resources.")
    if kind in INFRASTRUCTURE and not is_resource:
        return f"{kind} says nothing about the model: only resources may change"
    if remedy.do in ("tell", "stop"):
        return f"nothing would apply it: {remedy.do} changes nothing"
    if is_resource and remedy.do in ("rollback", "relaunch"):
        return f"resources change only between attempts: do: resubmit, not {remedy.do}"
    return ""


def _not_given(draft: Draft, key: str) -> str:
    section, _, name = key.partition(".")
    if section != "resources" or name not in CHANGEABLE or name in ("nodes", "time"):
        return ""
    return "" if draft.given("resources", name) else "is not given, so there is nothing to change"

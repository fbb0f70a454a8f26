"""JobSpec: what a person writes, read once, with every problem told at once."""

# ruff: noqa: RUF009 (setting is dataclasses.field with a help text)
from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from hpckit import yamlio
from hpckit.errors import Problem, SpecError
from hpckit.model import fields as model
from hpckit.model.fields import Section, setting
from hpckit.model.kinds import BAD, Choice, Either, Kind, ListOf, MapOf, Schema, Text, complain
from hpckit.spec import named, resuming
from hpckit.spec import rules as spec_rules
from hpckit.spec import sources as spec_sources
from hpckit.spec.parts import (
    KINDS,
    MOST_ATTEMPTS,
    Checkpoint,
    Environment,
    Hooks,
    Limits,
    Line,
    Monitor,
    Name,
    Notify,
    Program,
    Remedy,
    Resources,
)
from hpckit.spec.sbatch_options import SlurmOptions
from hpckit.spec.sweep import Sweep

T = TypeVar("T")


class Included(Kind):
    """One file or profile, or a list of them."""

    one = Text()
    many = ListOf(item=Text())

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        if isinstance(node, yamlio.Sequence):
            return self.many.read(node, problems, path)
        value = self.one.read(node, problems, path)
        return BAD if value is BAD else (value,)

    def schema(self) -> Schema:
        return {"anyOf": [self.one.schema(), self.many.schema()]}

    def write(self, value: Any) -> Any:
        return list(value)


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A training run as a person asks for it."""

    name: Name = setting(help="The run's name.")
    program: Annotated[Program, Either(Text(), Section(Program), "command")] = setting(
        help="What runs: a command line, {python: train.py}, or {trainer: file.py:Name}."
    )
    params: dict[str, Any] = setting(
        default_factory=dict, help="Parameters that reach the program; sweeps vary them."
    )
    resources: Resources = setting(default_factory=Resources, help="What each attempt asks for.")
    slurm: Annotated[dict[str, str | bool], SlurmOptions()] = setting(
        default_factory=dict, help="Any other option of sbatch, by its long name."
    )
    environment: Environment = setting(
        default_factory=Environment, help="What the program finds around it."
    )
    checkpoint: Checkpoint = setting(
        default_factory=Checkpoint, help="When state is saved, and how a restart goes on."
    )
    monitor: Monitor = setting(default_factory=Monitor, help="What is watched.")
    heal: Annotated[dict[str, Remedy], MapOf(item=Section(Remedy), key=Choice(KINDS))] = setting(
        default_factory=dict, help="What is done about each kind of incident."
    )
    limits: Limits = setting(default_factory=Limits, help="What the run may spend in all.")
    sweep: Sweep | None = setting(default=None, help="Parameters to vary, one run a point.")
    hooks: Hooks = setting(default_factory=Hooks, help="Shell commands on events.")
    notify: Notify = setting(default_factory=Notify, help="Whom to tell.")
    env: tuple[
        Annotated[str, Text(pattern="[A-Za-z_][A-Za-z0-9_]*", expected="a variable's name")], ...
    ] = setting(default=(), help="Environment variables that ${NAME} may stand for.")
    scratch: Line | None = setting(default=None, help="Where runs live by default.")
    include: Annotated[tuple[str, ...], Included()] = setting(
        default=(), help="Files or cluster profiles to build on; empty once they are read."
    )

    def to_json(self) -> dict[str, Any]:
        """The resolved spec as plain values; spec_from_json makes an equal one."""
        return model.to_json(self)

    @property
    def resume(self) -> resuming.Resume | None:
        """How the program finds its own checkpoints; None for one that has none of its own."""
        return resuming.resume_of(self.program, self.checkpoint)

    def missing(self, folder: Path) -> list[tuple[str, str]]:
        """What it names beside itself and is not in a folder: where it is named, and what."""
        return list(named.missing(self.program, self.environment, self.monitor, folder))


def load_spec(
    path: str | Path,
    overrides: Sequence[str] = (),
    includes: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> JobSpec:
    """The spec in a file, with settings put over it and profiles under it; SpecError tells all."""
    path = Path(path)
    problems: list[Problem] = []
    spec = None
    with contextlib.suppress(yamlio.TooManyProblems):
        node = spec_sources.Sources(environ, problems).spec(path, includes)
        if isinstance(node, yamlio.Mapping):
            for text in overrides:
                node = spec_sources.override(node, text, problems)
            node = spec_sources.fill_variables(node, environ, problems)
        spec = _built(node, problems)
        if spec is not None and node is not None:
            named.names_are_right(spec.program, spec.monitor, path.parent, node, problems)
    return _sure(spec, problems, str(path))


def spec_from_json(source: str | bytes | Mapping[str, Any]) -> JobSpec:
    """The spec in its resolved form, where nothing is included or filled in any more."""
    problems: list[Problem] = []
    spec = None
    with contextlib.suppress(yamlio.TooManyProblems):
        node = yamlio.from_json(source, "spec.json", problems)
        spec = _built(node, problems, is_resolved=True)
    return _sure(spec, problems, "spec.json")


def load_limits(path: str | Path) -> Limits:
    """The ceilings in a site's file, under `limits`; what it does not name is not limited."""
    problems: list[Problem] = []
    node = yamlio.read(Path(path))
    if yamlio.is_null(node):
        return Limits(attempts=MOST_ATTEMPTS)
    site = _sure(model.build(_Site, node, problems), problems, str(path))
    above = yamlio.find(node, "limits")
    given = above.pairs.get("attempts") if isinstance(above, yamlio.Mapping) else None
    if given is not None and not yamlio.is_null(given):
        return site.limits
    return dataclasses.replace(site.limits, attempts=MOST_ATTEMPTS)


@dataclass(frozen=True, kw_only=True)
class _Site:
    limits: Limits = setting(default_factory=Limits, help="Ceilings above every spec and flag.")


def _built(
    node: yamlio.Node | None, problems: list[Problem], *, is_resolved: bool = False
) -> JobSpec | None:
    if node is None:
        return None
    if yamlio.is_null(node):
        complain(problems, node, "", "is empty: a spec needs at least name and program")
        return None
    values = model.read_fields(JobSpec, node, problems, "")
    if values is None:
        return None
    if values.get("include"):
        complain(problems, yamlio.find(node, "include"), "include", "nothing is included here")
    usable = {name: value for name, value in values.items() if value is not BAD}
    parts = {**_defaults(), **usable}
    draft = spec_rules.Draft(parts=parts, root=node, problems=problems, is_resolved=is_resolved)
    spec_rules.check(draft)
    return None if problems else JobSpec(**values)


def _defaults() -> dict[str, Any]:
    return {
        "params": {},
        "resources": Resources(),
        "checkpoint": Checkpoint(),
        "monitor": Monitor(),
        "heal": {},
    }


def _sure(value: T | None, problems: list[Problem], file: str) -> T:
    if value is None or problems:
        raise SpecError(_arranged(problems, file))
    return value


def _arranged(problems: list[Problem], first: str) -> list[Problem]:
    """In the order of reading: the spec itself, then what it includes, each from the top."""
    found = sorted(
        dict.fromkeys(problems),
        key=lambda each: (each.file != first, each.file, each.line, each.column),
    )
    if len(problems) >= yamlio.PROBLEMS_LIMIT:
        last = found[-1]
        told = f"{len(problems)} problems so far; what comes after was not looked at"
        found.append(Problem(last.file, last.line, last.column, "", told))
    return found

"""The spec's section on what is watched: optimizers, health rules, logs."""

# ruff: noqa: RUF009 (setting is dataclasses.field with a help text)
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from hpckit import yamlio
from hpckit.errors import Problem
from hpckit.model.fields import Section, setting
from hpckit.model.kinds import (
    BAD,
    Choice,
    Either,
    MapOf,
    Number,
    Schema,
    Whole,
    complain,
)
from hpckit.spec.health import HealthRules

# The ready sets of patterns for logs.
LOGS = ("founding", "tqdm", "lightning", "huggingface", "keras", "megatron")

Above0 = Annotated[float, Number(above=0)]


class Percent(Number):
    """A number above 0, up to 100."""

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        value = super().read(node, problems, path)
        if value is not BAD and not 0 < value <= 100:
            message = f"must be above 0 and at most 100, not {value}"
            return complain(problems, node, path, message)
        return value

    def schema(self) -> Schema:
        return {"type": "number", "exclusiveMinimum": 0, "maximum": 100}


@dataclass(frozen=True, kw_only=True)
class GroupClip:
    """How gradients are clipped: by norm, by value, or by a percentile of the last norms."""

    norm: Above0 | None = setting(default=None, help="The gradient norm to clip to.")
    value: Above0 | None = setting(default=None, help="The largest value of a single gradient.")
    percentile: Annotated[float, Percent()] | None = setting(
        default=None, help="Clip to this percentile of the last accepted norms."
    )
    of: Annotated[int, Whole(min=16)] = setting(
        default=1000, help="Of how many norms the percentile is."
    )
    at_most: Above0 | None = setting(default=None, help="What the percentile may not exceed.")


class Clipping(Either):
    """A norm, or the clip in full."""

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        if isinstance(node, yamlio.Scalar) and yamlio.is_null(node):
            return complain(problems, node, path, "must be a norm or a mapping, not nothing")
        return super().read(node, problems, path)


@dataclass(frozen=True, kw_only=True)
class Clip(GroupClip):
    """How one optimizer's gradients are clipped, and parameter groups of it apart."""

    groups: Annotated[
        dict[str, GroupClip], MapOf(item=Clipping(Number(above=0), Section(GroupClip), "norm"))
    ] = setting(
        default_factory=dict, help="Clips of parameter groups, by the group's name or number."
    )


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What is known about one optimizer, by the name given to register."""

    clip: Annotated[Clip, Clipping(Number(above=0), Section(Clip), "norm")] | None = setting(
        default=None, help="The gradient norm to clip to, or another way to clip."
    )


@dataclass(frozen=True, kw_only=True)
class Log:
    """How readings are found in what the program prints."""

    name: Annotated[str, Choice(LOGS)] | None = setting(
        default=None, help="A ready set of patterns."
    )
    patterns: tuple[str, ...] = setting(
        default=(), help="Regular expressions with groups such as (?P<loss>...)."
    )


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """What is watched."""

    optimizers: dict[str, Optimizer] = setting(default_factory=dict, help="Optimizers by name.")
    rules: Annotated[dict[str, bool | dict[str, float]], HealthRules()] = setting(
        default_factory=dict, help="Health rules: on, off, or with settings; file.py:Class too."
    )
    log: Annotated[Log, Either(Choice(LOGS), Section(Log), "name")] | None = setting(
        default=None, help="Readings from the program's log."
    )

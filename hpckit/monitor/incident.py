"""A detected problem: what, when, how bad, since when, and who is to blame."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hpckit.monitor.reading import MAIN

Answer = Literal["tell", "skip", "act"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Division:
    """A place in the program that divides, and what that came to."""

    # `model.py:84 in Stage.forward (cascade_stages.2)`, and what stands there.
    place: str
    line: str
    # Of what is divided by, and of what comes of it.
    smallest: float
    largest: float

    def __str__(self) -> str:
        least, most = number(self.smallest), number(self.largest)
        return f"{self.place}: `{self.line}`, was by as little as {least} and gave up to {most}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Incident:
    """One problem, in numbers and in a sentence."""

    kind: str
    step: int
    # `tell`: a person should know. `skip`: this update was worth nothing. `act`: go back.
    answer: Answer
    # For a person, without the step, the optimizer, the parameter and the onset.
    said: str
    optimizer: str | None = None
    value: float | None = None
    usual: float | None = None
    # The first step that shows it: what was saved before it is not damaged by it.
    onset: int | None = None
    parameter: str | None = None
    # The parameter's part of the squared norm.
    share: float | None = None
    # The one beside the parameter, where divisions were looked at.
    division: Division | None = None
    # Of a program's end: where it failed, `train.py:12 in loss: ValueError`, and on which node.
    place: str | None = None
    node: str | None = None
    # No step was done since the attempt began.
    early: bool = False

    @property
    def acts(self) -> bool:
        """Whether it asks for more than to be told."""
        return self.answer == "act"

    @property
    def sentence(self) -> str:
        """The whole of it for a person, but for the step."""
        parts = [self.said]
        if self.parameter is not None:
            share = "" if self.share is None else f" ({self.share:.0%} of it)"
            parts.append(f"worst parameter {self.parameter}{share}")
        if self.onset is not None and self.onset < self.step:
            grew = self.kind in ("explosion", "drift")
            since = "growing since step" if grew else "what is newer than this may be damaged: step"
            parts.append(f"{since} {self.onset}")
        # Of several optimizers one must know which.
        whose = "" if self.optimizer in (None, MAIN) else f"{self.optimizer}: "
        return whose + "; ".join(parts)

    def __str__(self) -> str:
        return f"step {self.step}: {self.sentence}"

    def to_json(self) -> dict[str, Any]:
        """As JSON has it, which knows no NaN and no infinity: they are words."""
        fields = _words(dataclasses.asdict(self))
        return {**fields, "acts": self.acts, "sentence": self.sentence}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Incident:
        """The incident again; what another version wrote beside it is passed over."""
        names = [each.name for each in dataclasses.fields(cls)]
        known = {name: fields[name] for name in names if name in fields}
        for name in ("value", "usual", "share"):
            if isinstance(known.get(name), str):
                known[name] = float(known[name])
        if (division := known.get("division")) is not None:
            numbers = {name: float(division[name]) for name in ("smallest", "largest")}
            known["division"] = Division(place=division["place"], line=division["line"], **numbers)
        return cls(**known)


def _words(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _word(value) for name, value in fields.items()}


def _word(value: Any) -> Any:
    if isinstance(value, dict):
        return _words(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def number(value: float | None) -> str:
    """Two digits and no more, as a person says a number: 620, 6.6, 4.1e6."""
    if value is None:
        return "unknown"
    text = f"{float(f'{value:.2g}'):g}"
    return text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")

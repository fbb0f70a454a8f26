"""Changes as a person types them: `clip=x0.5`, `params.lr=1e-4`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hpckit import yamlio
from hpckit.errors import Problem, SpecError, UsageError
from hpckit.model.kinds import BAD
from hpckit.spec.parts import Change, Changes

FACTOR = re.compile(r"x[0-9.]+")


def read_changes(given: Sequence[str]) -> dict[str, Change]:
    """Each change by its name; `x0.5` multiplies, anything else is the new value."""
    found: dict[str, Change] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise UsageError(f"--set {text}: write KEY=VALUE, or KEY=x0.5 for a factor")
        found[name.strip()] = _change(name.strip(), value.strip())
    return found


def _change(name: str, value: str) -> Change:
    problems: list[Problem] = []
    text = value if FACTOR.fullmatch(value) or value.startswith("=") else f"={value}"
    node = yamlio.Scalar("--set", 1, 1, text, False)
    change = Changes().read(node, problems, name)
    if problems or change is BAD:
        raise SpecError(problems)
    assert isinstance(change, Change)
    return change

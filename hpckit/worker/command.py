"""Filling values into a command line without letting them change what it means."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hpckit.spec.rules import PLACEHOLDER

PLAIN = re.compile(r"[A-Za-z0-9_./:=@%+,-]+")


def fill(command: str, values: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The command with its placeholders filled in, and the shell variables that it then needs.

    A plain word is put in as it is. Anything else goes through a shell variable, which no shell
    ever reads as code, whatever quotes or substitutions the placeholder stands in.
    """
    out, sign, index = "", "", 0
    # What we stand in, the innermost last: quotes, and substitutions that begin quoting anew.
    within = [""]
    variables: dict[str, str] = {}
    while index < len(command):
        found = PLACEHOLDER.match(command, index)
        if found is not None:
            out += _placed(as_word(values[found.group(1)]), within[-1], variables)
            sign, index = "", found.end()
            continue
        before, length = sign, 2 if command[index] == "\\" and within[-1] != "'" else 1
        sign = command[index : index + length]
        _step(sign, before == "$", within)
        out, index = out + sign, index + length
    return out, variables


def _step(sign: str, after_dollar: bool, within: list[str]) -> None:
    """Go into or out of what a sign opens or closes."""
    inner = within[-1]
    if sign == {"(": ")"}.get(inner, inner):
        within.pop()
    elif inner == "'":
        return
    elif (
        sign in ("`", '"')
        or (inner != '"' and sign in ("'", "("))
        or (after_dollar and sign == "(")
    ):
        within.append(sign)


def _placed(word: str, inner: str, variables: dict[str, str]) -> str:
    if PLAIN.fullmatch(word):
        return word
    name = f"HPCKIT_VALUE_{len(variables) + 1}"
    variables[name] = word
    return {'"': f"${{{name}}}", "'": f"'\"${{{name}}}\"'"}.get(inner, f'"${{{name}}}"')


def as_word(value: Any) -> str:
    """A parameter as a program reads it from its command line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def values_of(params: Mapping[str, Any], prefix: str = "params.") -> dict[str, Any]:
    """Every parameter by its dotted path, branches included."""
    found: dict[str, Any] = {}
    for key, value in params.items():
        found[prefix + key] = value
        if isinstance(value, Mapping):
            found |= values_of(value, f"{prefix}{key}.")
    return found

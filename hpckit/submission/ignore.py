"""Which files of a folder a person has told git, or hpckit, to pass over."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

FILES = (".gitignore", ".hpckitignore")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One line of an ignore file.

    Paths are told relative to the job's folder. A rule from a folder below it speaks only of
    paths that begin with `below`; one from a folder above sees them with `above` in front.
    """

    pattern: re.Pattern[str]
    keeps: bool
    folders_only: bool
    below: str = ""
    above: str = ""


def read_rules(folder: Path, *, below: str = "", above: str = "") -> list[Rule]:
    """The rules in a folder's own ignore files."""
    rules = []
    for name in FILES:
        try:
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found = (_rule(line) for line in text.splitlines())
        rules += [replace(rule, below=below, above=above) for rule in found if rule is not None]
    return rules


def inherited_rules(folder: Path) -> list[Rule]:
    """The rules of the folders above, up to the one that holds .git; none outside a repository."""
    if (folder / ".git").exists():
        return []
    for top in folder.parents:
        if (top / ".git").exists():
            between = [place for place in folder.parents if place.is_relative_to(top)]
            rules: list[Rule] = []
            for place in reversed(between):
                rules += read_rules(place, above=f"{folder.relative_to(place).as_posix()}/")
            return rules
    return []


def ignored(path: str, is_folder: bool, rules: list[Rule]) -> bool:
    """Whether the last rule that speaks of a path passes it over."""
    for rule in reversed(rules):
        if rule.folders_only and not is_folder:
            continue
        if path.startswith(rule.below):
            seen = rule.above + path.removeprefix(rule.below)
            if rule.pattern.fullmatch(seen):
                return not rule.keeps
    return False


def _rule(line: str) -> Rule | None:
    line = line.rstrip()
    if not line or line.startswith("#"):
        return None
    keeps = line.startswith("!")
    line = line.removeprefix("!").removeprefix("\\")
    folders_only = line.endswith("/")
    line = line.rstrip("/")
    anchored = "/" in line
    expression = _expression(line.removeprefix("/"))
    prefix = "" if anchored else "(?:.*/)?"
    try:
        pattern = re.compile(prefix + expression, re.DOTALL)
    except re.error:
        return None
    return Rule(pattern=pattern, keeps=keeps, folders_only=folders_only)


def _expression(glob: str) -> str:
    """A git glob as a regular expression."""
    out, index = "", 0
    while index < len(glob):
        rest = glob[index:]
        if rest.startswith("**/"):
            out, index = out + "(?:.*/)?", index + 3
        elif rest.startswith("**"):
            out, index = out + ".*", index + 2
        elif rest[0] == "*":
            out, index = out + "[^/]*", index + 1
        elif rest[0] == "?":
            out, index = out + "[^/]", index + 1
        elif (found := re.match(r"\[!?\]?[^\]]*\]", rest)) is not None:
            out, index = out + found.group().replace("[!", "[^", 1), index + found.end()
        elif rest[0] == "\\" and len(rest) > 1:
            out, index = out + re.escape(rest[1]), index + 2
        else:
            out, index = out + re.escape(rest[0]), index + 1
    return out

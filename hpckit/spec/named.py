"""What a spec names in files beside itself: whether it is there, and defines what it should."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

from hpckit import yamlio
from hpckit.errors import Problem
from hpckit.model.kinds import complain, did_you_mean
from hpckit.spec.parts import Environment, Monitor, Program


def missing(
    program: Program, environment: Environment, monitor: Monitor, folder: Path
) -> Iterator[tuple[str, str]]:
    """What a spec names beside itself and is not there: where it is named, and what."""
    named = {
        "program.trainer": (program.trainer or "").partition(":")[0],
        "program.python": program.script,
        "environment.venv": environment.venv,
    }
    container = environment.container
    if container is not None and "://" not in container.image:
        named["environment.container.image"] = container.image
    for rule in _own_rules(monitor):
        named[f"monitor.rules.{rule}"] = rule.partition(":")[0]
    for path, file in named.items():
        if file and not (folder / os.path.expanduser(file)).exists():
            yield path, f"there is no {file} in {folder}"


def names_are_right(
    program: Program, monitor: Monitor, folder: Path, root: yamlio.Node, problems: list[Problem]
) -> None:
    """Whether files define what is to run: better now than after a night in the queue."""
    if program.trainer is not None:
        node = yamlio.find(root, "program", "trainer")
        if message := _undefined(program.trainer, folder):
            complain(problems, node, "program.trainer", message)
    rules = yamlio.find(root, "monitor", "rules")
    for rule in _own_rules(monitor):
        if message := _undefined(rule, folder):
            node = rules.keys[rule] if isinstance(rules, yamlio.Mapping) else rules
            complain(problems, node, f"monitor.rules.{rule}", message)


def _own_rules(monitor: Monitor) -> list[str]:
    """The user's own rules that are on."""
    return [name for name, value in monitor.rules.items() if ":" in name and value is not False]


def _undefined(named: str, folder: Path) -> str:
    """What is wrong with `file.py:Name`, or nothing."""
    file, _, name = named.partition(":")
    try:
        tree = ast.parse((folder / file).read_bytes(), filename=file)
    except OSError:
        # Whether it must be there already, who submits knows.
        return ""
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"{file} is not valid Python: {error}"
    names = _top_names(tree)
    if names is None or name in names:
        return ""
    return f"{file} defines no {name}{did_you_mean(name, sorted(names))}"


def _top_names(tree: ast.Module) -> set[str] | None:
    """The names that a file gives at its top; None where it cannot be told without running it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            if any(alias.name == "*" for alias in node.names):
                return None
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names

"""A user's own rule: a class in a file of the job's folder."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from hpckit.errors import UsageError
from hpckit.monitor.rules.base import Rule


def own_rule(named: str, folder: Path) -> type[Rule]:
    """The class that `rules.py:LossTooHigh` names."""
    file, _, name = named.rpartition(":")
    module = _loaded(folder / file, file)
    found = getattr(module, name, None)
    if found is None:
        from hpckit.model.kinds import did_you_mean

        known = [key for key, value in vars(module).items() if inspect.isclass(value)]
        raise UsageError(f"{file} defines no {name}{did_you_mean(name, known)}")
    if not (inspect.isclass(found) and issubclass(found, Rule)):
        raise UsageError(
            f"{named} is no health rule", "derive it from hpckit.monitor.Rule, and write `observe`"
        )
    return found


def _loaded(path: Path, file: str) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no {file} in {path.parent}", "a rule is named file.py:Class")
    name = "hpckit_rules_" + "".join(c if c.isalnum() else "_" for c in file)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while they are made.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        what = f"{type(error).__name__}: {error}"
        raise UsageError(f"{file}, which holds a health rule, cannot be loaded: {what}") from error
    return module

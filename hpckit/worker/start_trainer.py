"""Starts a trainer, `file.py:Name`, with the run's parameters; copied beside a launch.

It runs in the program's own environment, where hpckit may not be installed: standard library only.
"""

import importlib.util
import inspect
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any


def load(reference: str) -> Any:
    """The function or class that a reference names."""
    file, _, name = reference.partition(":")
    path = Path(file).absolute()
    if not path.exists():
        sys.exit(f"hpckit: program.trainer: there is no {file} in the job's folder")
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Classes that are pickled, by data loaders for one, are looked up by their module's name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        sys.exit(f"hpckit: program.trainer: {file} has no {name}")
    return getattr(module, name)


def tell(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """An error; what hpckit itself refuses with the program's own lines alone."""
    if "hpckit.errors" not in {each.__module__ for each in kind.__mro__}:
        return sys.__excepthook__(kind, error, trace)
    ours = __file__, os.path.dirname(sys.modules["hpckit.errors"].__file__ or "") + os.sep
    told = traceback.TracebackException(kind, error, trace)
    own = [frame for frame in told.stack if not frame.filename.startswith(ours)]
    told.stack, told.__cause__ = traceback.StackSummary.from_list(own), None
    told.__suppress_context__ = True
    print("".join(told.format()), end="", file=sys.stderr)


def main() -> None:
    """Call it with the parameters, or with nothing where it takes nothing."""
    trainer = load(sys.argv[1])
    params = json.loads(Path(os.environ["HPCKIT_PARAMS"]).read_text(encoding="utf-8"))
    takes = inspect.signature(trainer).parameters
    made = trainer(params) if takes else trainer()
    if inspect.isclass(trainer):
        made.run()


if __name__ == "__main__":
    sys.excepthook = tell
    main()

"""Runs a script as `python train.py` would, with hpckit at hand as soon as torch is imported.

It is the `__main__` of an archive that holds hpckit, and runs in the program's own environment, in
whatever Python there is: standard library only, and words that an old one understands.
"""

from __future__ import annotations

import atexit
import builtins
import importlib.util
import os
import runpy
import sys
import types
import zipimport
from importlib.machinery import SourceFileLoader
from typing import Any

# What the modules that watch are written for.
NEEDED = (3, 10)
ATTACHED = "hpckit.integrations.attached"
ARCHIVE = os.path.dirname(os.path.abspath(__file__))


def main() -> None:
    """Attach once torch is there, and run what is asked for."""
    if ARCHIVE in sys.path:
        sys.path.remove(ARCHIVE)
    if sys.version_info < NEEDED:
        _say(f"python {sys.version.split()[0]} is older than 3.10")
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    if "torch" in sys.modules:
        _attach()
    else:
        sys.meta_path.insert(0, AfterTorch())
    # Registered first, it is called last: nothing of the program's own end is left out.
    atexit.register(_leave)
    try:
        _run(sys.argv[1:])
    except BaseException:
        _hide_from_tracebacks()
        raise


class AfterTorch:
    """Waits in the import system until the program imports torch, and attaches then."""

    def __init__(self) -> None:
        self._is_asking = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find torch where everybody finds it, and be told when it is there."""
        if name != "torch" or self._is_asking:
            return None
        self._is_asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._is_asking = False
        load = getattr(spec and spec.loader, "exec_module", None)
        if spec is not None and load is not None:
            loader: Any = spec.loader

            def exec_module(module: Any) -> None:
                load(module)
                vars(loader).pop("exec_module", None)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    _attach()

            loader.exec_module = exec_module
        return spec


def _attach() -> None:
    """Whatever is wrong with it, the program runs."""
    try:
        if "hpckit" not in sys.modules:
            _import_ours()
        importlib.import_module(ATTACHED).install()
    except Exception as error:
        _say(f"{type(error).__name__}: {error}")


def _import_ours() -> None:
    """The hpckit that wrote this run's files, and nothing more on the program's path."""
    spec = zipimport.zipimporter(ARCHIVE).find_spec("hpckit")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hpckit"] = module
    spec.loader.exec_module(module)


def _leave() -> None:
    """The very last: leave with the code that was decided on, where one was."""
    attached = sys.modules.get(ATTACHED)
    if attached is not None:
        attached.leave()


def _say(why: str) -> None:
    print(f"hpckit: attach: {why}; the program runs unattached", file=sys.stderr, flush=True)


def _run(arguments: list[str]) -> None:
    """As Python itself does it; what it leaves to C is done here by hand."""
    main_module: Any = types.ModuleType("__main__")
    main_module.__builtins__ = builtins
    main_module.__annotations__ = {}
    sys.modules["__main__"] = main_module
    script = arguments[0]
    if script == "-m":
        _find_first(os.getcwd())
        sys.argv[:] = ["-m", *arguments[2:]]
        # Named by an underscore, but it is what `python -m` calls.
        runpy._run_module_as_main(arguments[1], True)  # type: ignore[attr-defined]
        return
    sys.argv[:] = arguments
    # As Python writes it, dots and all.
    file = os.path.join(os.getcwd(), script)
    try:
        with open(file, "rb") as stream:
            source = stream.read()
    except OSError as error:
        why = f"[Errno {error.errno}] {error.strerror}"
        print(f"{sys.executable}: can't open file {file!r}: {why}", file=sys.stderr)
        raise SystemExit(2) from None
    _find_first(os.path.dirname(os.path.realpath(file)))
    about: dict[str, Any] = {"__file__": file, "__cached__": None}
    main_module.__dict__.update(about, __loader__=SourceFileLoader("__main__", file))
    exec(compile(source, file, "exec", dont_inherit=True), main_module.__dict__)


def _find_first(folder: str) -> None:
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, folder)


def _hide_from_tracebacks() -> None:
    """A program's traceback begins with the program, whoever prints it."""
    hook = sys.excepthook

    def without_us(kind: Any, error: Any, trace: Any) -> None:
        trace = _below_us(trace)
        hook(kind, error.with_traceback(trace), trace)

    sys.excepthook = without_us


def _below_us(trace: Any) -> Any:
    """Without what runs an archive, and what is in it; the program may call both further down."""
    here = trace
    while here is not None and here.tb_frame.f_code.co_filename != __file__:
        here = here.tb_next
    if here is None:
        return trace
    while here is not None and here.tb_frame.f_code.co_filename == __file__:
        here = here.tb_next
    return here


if __name__ == "__main__":
    main()

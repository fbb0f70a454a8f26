"""hpckit: SLURM training runs that look after themselves."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "attach", "heal", "load_spec", "monitor", "train"]


def __getattr__(name: str) -> Any:
    # Public names load on first use: `import hpckit` alone must cost nothing.
    if name == "load_spec":
        from hpckit.spec import load_spec

        return load_spec
    if name == "attach":
        from hpckit.train.attaching import attach

        return attach
    if name in ("heal", "monitor", "train"):
        import importlib

        return importlib.import_module(f"hpckit.{name}")
    raise AttributeError(f"module 'hpckit' has no attribute {name!r}")

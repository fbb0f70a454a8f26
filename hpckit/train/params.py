"""A run's parameters, which know what was read: a change that nobody reads changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Params(dict[str, Any]):
    """A dict whose parts note when they are read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(
            (key, Params(value) if isinstance(value, Mapping) else value)
            for key, value in values.items()
        )
        self._read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._read.add(key)
        return super().get(key, default)

    # Who takes all of them has read each; without an __iter__ of its own, `f(**params)` asks none.

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def items(self) -> Any:
        self._read.update(self)
        return super().items()

    def values(self) -> Any:
        self._read.update(self)
        return super().values()

    def copy(self) -> dict[str, Any]:
        return dict(self.items())

    def forget(self, path: str) -> None:
        """From now on it counts whether a parameter is read again."""
        part, name = self._place(path)
        part._read.discard(name)

    def was_read(self, path: str) -> bool:
        part, name = self._place(path)
        return name in part._read

    def _place(self, path: str) -> tuple[Params, str]:
        *above, last = path.split(".")
        part = self
        for name in above:
            part = dict.__getitem__(part, name)
        return part, last


def merged(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The run's values over a script's defaults, part by part."""
    found = dict(defaults)
    for key, value in values.items():
        old = found.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        found[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return found

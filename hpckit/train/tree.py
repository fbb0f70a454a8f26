"""State as plain containers with tensors in them: walked, copied, and checked before it is saved.

What is saved must be loadable with `weights_only=True`, by anybody: numbers, texts, lists, dicts
and tensors. That is found out when state is first taken, not when a run has to come back.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from hpckit.errors import UsageError

ARRAY = "__numpy_array__"
PLAIN = (bool, int, float, str, bytes, type(None))


class CannotSave(UsageError):
    """A value that no checkpoint can hold, and where it is."""

    def __init__(self, what: str, hint: str = "", where: str = "") -> None:
        super().__init__(f"{where.removeprefix('.')}: {what}", hint)
        self.what, self.where = what, where

    def inside(self, part: str) -> CannotSave:
        """The same, seen from the container that it is in."""
        return CannotSave(self.what, self.hint, part + self.where)


def mapped(tree: Any, tensor: Callable[[Tensor], Any]) -> Any:
    """The same containers, each anew, with every tensor replaced."""
    kind = type(tree)
    if kind in PLAIN:
        return tree
    if isinstance(tree, Tensor):
        return tensor(tree)
    if isinstance(tree, (dict, Mapping)):
        made = OrderedDict() if isinstance(tree, OrderedDict) else {}
        for key, value in tree.items():
            plain = key if type(key) is str else _key(key)
            # Where it is costs nothing unless somebody has to be told.
            try:
                made[plain] = mapped(value, tensor)
            except CannotSave as error:
                raise error.inside(f".{key}") from None
        return made
    if isinstance(tree, (list, tuple, deque)):
        found = []
        for value in tree:
            try:
                found.append(mapped(value, tensor))
            except CannotSave as error:
                raise error.inside(f"[{len(found)}]") from None
        return tuple(found) if isinstance(tree, tuple) else found
    if isinstance(tree, (set, frozenset)):
        return {mapped(each, tensor) for each in tree}
    return _of_numpy(tree, tensor)


def _key(key: Any) -> Any:
    if type(key) in PLAIN or (isinstance(key, tuple) and all(type(each) in PLAIN for each in key)):
        return key
    raise CannotSave(f"a key of type {type(key).__name__} cannot be saved: use a text")


def _of_numpy(value: Any, tensor: Callable[[Tensor], Any]) -> Any:
    if type(value).__module__.partition(".")[0] == "numpy":
        import numpy
        import torch

        if isinstance(value, numpy.generic):
            return mapped(value.item(), tensor)
        if isinstance(value, numpy.ndarray) and value.dtype.kind in "biufc":
            return {ARRAY: tensor(torch.from_numpy(value.copy()))}
    if isinstance(value, (bool, int, float, str, bytes)):
        # An enum's member, or a subclass of a number: its plain value says the same.
        kinds: tuple[Any, ...] = (int, float, str, bytes)
        return next(kind(value) for kind in kinds if isinstance(value, kind))
    raise CannotSave(
        f"{type(value).__name__} cannot be saved in a checkpoint",
        "save numbers, texts, lists, dicts and tensors, or an object with state_dict made of them",
    )


def unpacked(tree: Any) -> Any:
    """What was loaded, with arrays for what was an array; tensors are the loaded ones."""
    if isinstance(tree, dict):
        if tree.keys() == {ARRAY}:
            return tree[ARRAY].numpy().copy()
        return type(tree)((key, unpacked(value)) for key, value in tree.items())
    if isinstance(tree, list):
        return [unpacked(each) for each in tree]
    return tuple(unpacked(each) for each in tree) if isinstance(tree, tuple) else tree


def tensors_of(tree: Any, where: str = "") -> dict[str, Tensor]:
    """Every tensor by its place: `model.layers.0.weight`."""
    found: dict[str, Tensor] = {}

    def walk(part: Any, place: str) -> None:
        if isinstance(part, Tensor):
            found[place] = part
        elif isinstance(part, Mapping):
            for key, value in part.items():
                walk(value, f"{place}.{key}" if place else str(key))
        elif isinstance(part, (list, tuple)):
            for index, value in enumerate(part):
                walk(value, f"{place}[{index}]")

    walk(tree, where)
    return found

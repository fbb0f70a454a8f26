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
PLAIN = frozenset({bool, int, float, str, bytes, type(None)})
# Containers that come back as what they were, and what the rest comes back as.
EXACT = (dict, OrderedDict, list, tuple, set)
BECOMES: tuple[tuple[type, type], ...] = (
    (Mapping, dict),
    (deque, list),
    (frozenset, set),
    *((kind, kind) for kind in (list, tuple, set, int, float, str, bytes)),
)


class CannotSave(UsageError):
    """A value that no checkpoint can hold, and where it is."""

    def __init__(self, what: str, hint: str = "", where: str = "") -> None:
        super().__init__(f"{where.removeprefix('.')}: {what}", hint)
        self.what, self.where = what, where

    def inside(self, part: str) -> CannotSave:
        """The same, seen from the container that it is in."""
        return CannotSave(self.what, self.hint, part + self.where)


def mapped(tree: Any, tensor: Callable[[Tensor], Any], *, exact: bool = False) -> Any:
    """The same containers, each anew, with every tensor replaced.

    What is like a list or a dict becomes one, a deque or a defaultdict; `exact` refuses these.
    """
    kind = type(tree)
    if kind in PLAIN:
        return tree
    if isinstance(tree, Tensor):
        return tensor(tree)
    if exact and kind not in EXACT:
        _refuse_changed(tree)
    # Lists first: to ask whether something is a Mapping takes longer than all the rest.
    if isinstance(tree, (list, tuple, deque)):
        found = []
        for value in tree:
            try:
                found.append(mapped(value, tensor, exact=exact))
            except CannotSave as error:
                raise error.inside(f"[{len(found)}]") from None
        return tuple(found) if isinstance(tree, tuple) else found
    if isinstance(tree, (dict, Mapping)):
        made = OrderedDict() if isinstance(tree, OrderedDict) else {}
        for key, value in tree.items():
            plain = key if type(key) is str else _key(key)
            # Where it is costs nothing unless somebody has to be told.
            try:
                made[plain] = value if type(value) in PLAIN else mapped(value, tensor, exact=exact)
            except CannotSave as error:
                raise error.inside(f".{key}") from None
        return made
    if isinstance(tree, (set, frozenset)):
        return {mapped(each, tensor, exact=exact) for each in tree}
    return _of_numpy(tree, tensor, exact)


def as_they_are(values: Mapping[str, Any]) -> dict[str, Any]:
    """A person's own values, refused where they would come back as something else."""
    try:
        found: dict[str, Any] = mapped(dict(values), lambda each: each, exact=True)
    except CannotSave as error:
        raise error.inside("run.values") from None
    return found


def _refuse_changed(value: Any) -> None:
    kind = type(value)
    if kind.__module__ == "numpy":
        # A number of numpy's is as good as the plain one that it becomes.
        return
    for of, plain in BECOMES:
        if isinstance(value, of):
            raise CannotSave(f"{_a(kind)} would come back as {_a(plain)}", f"make it {_a(plain)}")


def _a(kind: type) -> str:
    name = kind.__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def _key(key: Any) -> Any:
    if type(key) in PLAIN:
        return key
    if isinstance(key, tuple) and all(type(each) in PLAIN for each in key):
        # One whose parts have names is equal to it, and no checkpoint could be loaded with it.
        return tuple(key)
    raise CannotSave(f"a key of type {type(key).__name__} cannot be saved: use a text")


def _of_numpy(value: Any, tensor: Callable[[Tensor], Any], exact: bool) -> Any:
    if type(value).__module__.partition(".")[0] == "numpy":
        import numpy
        import torch

        if isinstance(value, numpy.generic):
            return mapped(value.item(), tensor)
        is_plain = type(value) is numpy.ndarray or not exact
        if is_plain and isinstance(value, numpy.ndarray) and value.dtype.kind in "biufc":
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

"""The random generators that a loader's parts own, and what must know the epoch's number."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

import torch

from hpckit.train.random_states import of_numpy, of_python, to_numpy, to_python

PARTS = ("batch_sampler", "sampler", "dataset")


def parts(loader: Any) -> Iterator[tuple[str, Any]]:
    """The loader, its samplers and datasets and theirs, each once, with the path to it."""
    seen: set[int] = set()
    waiting = [("loader", loader)]
    while waiting:
        path, part = waiting.pop(0)
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield path, part
        inside = getattr(part, "__dict__", {})
        waiting += [(f"{path}.{name}", inside[name]) for name in PARTS if name in inside]


def set_epoch(loader: Any, number: int) -> None:
    """Tell all that want to know it, as DistributedSampler does."""
    for _, part in parts(loader):
        if callable(tell := getattr(part, "set_epoch", None)):
            tell(number)


def find(loader: Any) -> dict[str, Any]:
    """The generators among the attributes of the loader's parts, by their paths."""
    kinds = _kinds()
    return {
        f"{path}.{name}": value
        for path, part in parts(loader)
        for name, value in getattr(part, "__dict__", {}).items()
        # That of the system has no state.
        if isinstance(value, kinds) and not isinstance(value, random.SystemRandom)
    }


def _kinds() -> tuple[type, ...]:
    numpy = sys.modules.get("numpy")
    more = (numpy.random.Generator, numpy.random.RandomState) if numpy else ()
    return (torch.Generator, random.Random, *more)


def capture(loader: Any) -> dict[str, Any]:
    """Where the found generators stand, as plain data."""
    return {path: _state(generator) for path, generator in find(loader).items()}


def restore(loader: Any, states: dict[str, Any]) -> None:
    """Put them back there; those that nothing is known of are left as they are."""
    for path, generator in find(loader).items():
        if path in states:
            _set_state(generator, states[path])


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return of_python(generator)
    if hasattr(generator, "bit_generator"):
        return of_numpy(generator.bit_generator.state)
    return of_numpy(generator.get_state(legacy=False))


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        to_python(generator, state)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = to_numpy(state)
    else:
        generator.set_state(to_numpy(state))

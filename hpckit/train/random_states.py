"""The states of all random generators a training draws from, as plain data."""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import torch


def capture() -> dict[str, Any]:
    """Python's, NumPy's (where it is imported), torch's and CUDA's (where it is in use).

    What comes back can be saved with torch.save and loaded with weights_only=True.
    """
    state: dict[str, Any] = {"python": of_python(random), "torch": torch.get_rng_state()}
    if (numpy := sys.modules.get("numpy")) is not None:
        state["numpy"] = of_numpy(numpy.random.get_state(legacy=False))
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore(state: Mapping[str, Any]) -> None:
    """Go on drawing where `capture` was called; what it did not hold is left as it is."""
    to_python(random, state["python"])
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        import numpy

        numpy.random.set_state(to_numpy(state["numpy"]))
    # A run may go on with fewer GPUs than it began with.
    if "cuda" in state and torch.cuda.is_available():
        for device, each in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(each, device)


def of_python(generator: Any) -> list[Any]:
    """The state of the module `random`, or of a random.Random."""
    version, words, gauss = generator.getstate()
    # Through an array: torch.tensor takes four times as long for 625 numbers.
    return [version, torch.frombuffer(array("q", words), dtype=torch.int64), gauss]


def to_python(generator: Any, state: list[Any]) -> None:
    version, words, gauss = state
    generator.setstate((version, tuple(words.tolist()), gauss))


def of_numpy(state: Any) -> Any:
    """A NumPy bit generator's state without NumPy's own types."""
    if isinstance(state, Mapping):
        return {str(key): of_numpy(value) for key, value in state.items()}
    if not hasattr(state, "dtype"):
        return state
    if state.dtype == "uint32" and state.ndim:
        return torch.from_numpy(state.astype("int64"))
    return state.tolist()  # 64 bits without a sign, which no tensor of int64 holds


def to_numpy(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {key: to_numpy(value) for key, value in state.items()}
    return state.numpy() if isinstance(state, torch.Tensor) else state


def seed_for(name: str) -> None:
    """Seed Python's, NumPy's and torch's generators on the CPU with what this name gives."""
    # Three numbers: NumPy and torch run the same algorithm, and one seed would tie them together.
    digest = blake2b(name.encode(), digest_size=16).digest()
    random.seed(int.from_bytes(digest[:8], "little"))
    torch.default_generator.manual_seed(int.from_bytes(digest[8:12], "little"))
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(int.from_bytes(digest[12:], "little"))


@contextmanager
def apart(name: str) -> Iterator[None]:
    """Draw from numbers of its own in here: those of the training stay as they are."""
    outside = capture()
    seed_for(name)
    try:
        yield
    finally:
        restore(outside)

"""A checkpoint's weights as a .safetensors file, for programs that know nothing of hpckit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.checkpoint import safetensors
from hpckit.checkpoint.manifest import Checkpoint
from hpckit.errors import HpckitError, NotFound, UsageError

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

STATE = "state.pt"
# What each rank has of its own: an average of the weights that is no module, for one.
OWN = "rank-0.pt"
SHARDED = "sharded"
MODULE = "module"


def export(checkpoint: Checkpoint, out: Path, part: str | None = None) -> list[str]:
    """Write the weights; the names of what was written.

    Without `part` all modules are written, under their registered names where there are several.
    """
    items = _items(checkpoint)
    chosen = [name for name, item in items.items() if item.get("kind") == MODULE]
    if part is not None:
        if part not in items:
            raise UsageError(
                f"{checkpoint.name} has no part {part!r}", f"it has: {', '.join(items) or 'none'}"
            )
        chosen = [part]
    found = {name: _tensors(checkpoint, items[name]) for name in chosen}
    flat = _named(found)
    if not flat:
        what = f"part {part!r} of {checkpoint.name}" if part else checkpoint.name
        raise UsageError(f"{what} holds no tensors", f"its parts: {', '.join(items) or 'none'}")
    safetensors.save(flat, out, {"format": "pt", "step": str(checkpoint.step)})
    return sorted(flat)


def _named(found: Mapping[str, Tensors]) -> Tensors:
    """Plain names for a single module, else each under its own."""
    if len(found) == 1:
        return next(iter(found.values()))
    return {f"{part}.{key}": value for part, each in found.items() for key, value in each.items()}


def _items(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """What was registered, by name, with its kind and its state, or where in the shards that is."""
    items = _read(checkpoint.path / STATE)
    if OWN in checkpoint.files:
        items = {**_read(checkpoint.path / OWN), **items}
    if (checkpoint.path / SHARDED).is_dir():
        items = {**_in_shards(checkpoint.path / SHARDED), **items}
    return items


def _read(path: Path) -> dict[str, dict[str, Any]]:
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise NotFound(f"{path} is missing", "hpckit checkpoint ls shows the others") from error
    except Exception as error:
        # torch has no one exception for what it cannot read.
        raise HpckitError(f"{path} cannot be read: {error}") from error
    items = state.get("items") if isinstance(state, dict) else None
    if not isinstance(items, dict):
        raise HpckitError(f"{path} holds no items: another program wrote it")
    return items


def _tensors(checkpoint: Checkpoint, item: Mapping[str, Any]) -> Tensors:
    if "keys" in item:
        return _put_together(checkpoint.path / SHARDED, item["keys"])
    return dict(_flat(item.get("state")))


def _flat(state: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a nested state, each under its path; a module's state has them flat."""
    import torch

    if isinstance(state, torch.Tensor):
        yield path, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(state, (list, tuple)):
        for index, value in enumerate(state):
            yield from _flat(value, f"{path}.{index}" if path else str(index))


def _in_shards(folder: Path) -> dict[str, dict[str, Any]]:
    """The models and optimizers that all ranks together have written, with their tensors' keys."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    stored = FileSystemReader(folder).read_metadata()
    found: dict[str, dict[str, Any]] = {}
    for key, (name, *rest) in (stored.planner_data or {}).items():
        item = found.setdefault(str(name), {"kind": MODULE, "keys": {}})
        if rest[:1] == ["param_groups"]:
            item["kind"] = "optimizer"
        if isinstance(stored.state_dict_metadata.get(key), TensorStorageMetadata):
            item["keys"][".".join(map(str, rest))] = key
    return found


def _put_together(folder: Path, keys: Mapping[str, str]) -> Tensors:
    """Whole tensors from the parts that the ranks have written."""
    import torch
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(folder)
    stored: Any = reader.read_metadata().state_dict_metadata
    wanted: dict[str, Any] = {
        key: torch.empty(stored[key].size, dtype=stored[key].properties.dtype)
        for key in keys.values()
    }
    with warnings.catch_warnings():
        # That there is no process group is what we want.
        warnings.simplefilter("ignore", UserWarning)
        load(wanted, storage_reader=reader, no_dist=True)
    return {name: wanted[key] for name, key in keys.items()}

"""Writing .safetensors: a header of names, dtypes and places, and the tensors' plain bytes."""

from __future__ import annotations

import ctypes
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hpckit.errors import HpckitError
from hpckit.files import fsync_folder, told_apart

if TYPE_CHECKING:
    import torch

# torch's names, because torch is not imported here.
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "complex64": "C64",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
ALIGNMENT = 8


def save(tensors: Mapping[str, torch.Tensor], out: Path, about: Mapping[str, str]) -> None:
    """Write tensors to a file in one step; shared ones are written under each of their names."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.{os.urandom(3).hex()}.tmp")
    # Wide types first, as the format's own writer does it: all are aligned then.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    with told_apart(out, "choose another place with -o"):
        try:
            with open(temporary, "wb") as stream:
                stream.write(_header({name: tensors[name] for name in names}, about))
                for name in names:
                    _write(stream, tensors[name])
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, out)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_folder(out.parent)


def _header(tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(about)}
    place = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _dtype(name, tensor),
            "shape": list(tensor.shape),
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _dtype(name: str, tensor: torch.Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in DTYPES or str(tensor.layout) != "torch.strided" or tensor.is_quantized:
        raise HpckitError(
            f"{name} is a tensor of {kind}, {tensor.layout}: .safetensors has no word for it",
            "choose another part with --part, or read state.pt with torch.load",
        )
    return DTYPES[kind]


def _write(stream: IO[bytes], tensor: torch.Tensor) -> None:
    whole = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    size = whole.numel() * whole.element_size()
    # Plain memory, and not numpy's: it has no bfloat16, and torch works without it.
    stream.write(memoryview((ctypes.c_char * size).from_address(whole.data_ptr())))

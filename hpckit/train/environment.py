"""What a training found around it: python, torch, GPUs, the packages that it uses."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from hpckit import __version__
from hpckit.files import write_json
from hpckit.paint import counted

# Of those that are imported by the first step; asking for others would import them.
PACKAGES = (
    "numpy",
    "torchaudio",
    "torchvision",
    "transformers",
    "lightning",
    "pytorch_lightning",
    "accelerate",
    "datasets",
    "deepspeed",
    "flash_attn",
    "triton",
    "librosa",
    "soundfile",
    "scipy",
)


def write_down(folder: Path, launch: int, ranks: int) -> None:
    """A small file of the launch's own; a training does not end for want of it."""
    with contextlib.suppress(Exception):
        folder.mkdir(exist_ok=True)
        about = {"processes": ranks, **environment()}
        write_json(folder / f"launch-{launch}.json", about, durable=False)


def environment() -> dict[str, Any]:
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if gpus else None,
        "cudnn": _cudnn() if gpus else None,
        "gpus": counted([torch.cuda.get_device_name(each) for each in gpus]),
        "threads": torch.get_num_threads(),
        "cpus": len(os.sched_getaffinity(0)),
        "hpckit": __version__,
        "packages": {
            name: str(version)
            for name in PACKAGES
            if (version := getattr(sys.modules.get(name), "__version__", None)) is not None
        },
    }


def _cudnn() -> int | None:
    found = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return None if found is None else int(found)

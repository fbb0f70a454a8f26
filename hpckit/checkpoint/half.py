"""Files that were cut off while they were written, told by cheap signs of their formats.

A program that is killed leaves half of what it was writing, under its final name.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ZIP = b"PK\x03\x04"
ZIP_END = b"PK\x05\x06"
ZIP_END_SIZE = 22
ZIP_COMMENT_MOST = 0xFFFF
# What the format itself allows.
HEADER_MOST = 100_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What was seen of a file or a folder: when it was last written, and what of it is half."""

    when: float
    half: tuple[Path, ...] = ()


def look(path: Path) -> Look | None:
    """A file, or a folder with all in it; None where it is neither.

    Links are passed over. An OSError where something cannot be read: that is no damage.
    """
    about = os.lstat(path)
    if stat.S_ISREG(about.st_mode):
        return Look(when=about.st_mtime, half=(path,) if is_half(path, about.st_size) else ())
    if not stat.S_ISDIR(about.st_mode):
        return None
    files = list(_files(path))
    if not any(each.st_size for _, each in files):
        return Look(when=about.st_mtime, half=(path,))
    return Look(
        when=max(each.st_mtime for _, each in files),
        half=tuple(
            file
            for file, each in files
            if not _is_mark(file, each.st_size) and is_half(file, each.st_size)
        ),
    )


def is_half(path: Path, size: int) -> bool:
    """Whether a file is surely not whole: it is empty, or its format says that more should come.

    Formats without such a sign are taken to be whole.
    """
    if size == 0:
        return True
    with open(path, "rb") as stream:
        if path.suffix == ".safetensors":
            return not _has_all_tensors(stream, size)
        return stream.read(len(ZIP)) == ZIP and not _has_zip_end(stream, size)


def _is_mark(path: Path, size: int) -> bool:
    """Programs put empty files such as DONE or .lock beside what they save."""
    return size == 0 and not path.suffix


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path), entry.stat(follow_symlinks=False)


def _has_zip_end(stream: IO[bytes], size: int) -> bool:
    """torch.save's files are zip files, whose directory is written last; zipfile.is_zipfile says
    the same, and takes a file that cannot be read for one that is no zip file."""
    most = ZIP_END_SIZE + ZIP_COMMENT_MOST
    stream.seek(max(0, size - most))
    tail = stream.read(most)
    at = tail.rfind(ZIP_END)
    if at < 0 or len(tail) - at < ZIP_END_SIZE:
        return False
    comment_size = int.from_bytes(tail[at + 20 : at + 22], "little")
    return at + ZIP_END_SIZE + comment_size == len(tail)


def _has_all_tensors(stream: IO[bytes], size: int) -> bool:
    """Its header stands first, and says where the last tensor ends."""
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > min(size - 8, HEADER_MOST):
        return False
    try:
        header = json.loads(stream.read(length))
        ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
        return bool(size == 8 + length + max(ends, default=0))
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return False

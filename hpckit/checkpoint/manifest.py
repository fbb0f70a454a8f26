"""One checkpoint: what its manifest says, whether its files are whole, and its marks on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpckit.checkpoint.names import Segment
from hpckit.clock import now_iso
from hpckit.files import fsync_folder, read_json, write_json

FORMAT = 1
MANIFEST = "manifest.json"
GOOD = "good.json"
ABANDONED = "abandoned.json"
CHUNK = 4 << 20
# Of what is put aside: nobody damages one folder more often.
MOST_DAMAGED = 1000

# What else a manifest may hold; another version's keys, and what makes no sense, are passed over.
KINDS: dict[str, type] = {
    **dict.fromkeys(("epoch", "batch", "world_size", "params", "bytes", "changes"), int),
    **dict.fromkeys(("created", "why", "bad"), str),
    **dict.fromkeys(("finite", "best"), bool),
    **dict.fromkeys(("metrics", "tensors"), dict),
}

# A file's name in the folder -> {"size", "crc32"}.
Files = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A whole checkpoint, as its manifest tells it; nobody has looked at its other files."""

    path: Path
    step: int
    segment: Segment
    epoch: int = 0
    batch: int = 0
    world_size: int = 1
    created: str = ""
    why: str = ""
    files: Files = field(default_factory=dict)
    finite: bool | None = None
    bad: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    best: bool = False
    params: int | None = None
    bytes: int = 0
    changes: int = 0
    tensors: dict[str, Any] = field(default_factory=dict)
    confirmed_at: int | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def is_good(self) -> bool:
        """Enough healthy steps came after it, and nothing in it is known to be non-finite."""
        return self.confirmed_at is not None and self.finite is not False

    @property
    def order(self) -> tuple[int, Segment]:
        """Oldest first."""
        return self.step, self.segment

    def to_json(self) -> dict[str, Any]:
        """What manifest.json holds."""
        told = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del told["path"], told["segment"], told["confirmed_at"]
        return {"format": FORMAT, **dataclasses.asdict(self.segment), **told}


def write(checkpoint: Checkpoint) -> None:
    """Make a folder a checkpoint: the last thing that is written of it."""
    write_json(checkpoint.path / MANIFEST, checkpoint.to_json())


def read(folder: Path, name: str = MANIFEST) -> Checkpoint | None:
    """The checkpoint in a folder; None where there is no whole manifest."""
    try:
        found = read_json(folder / name)
    except OSError:
        # A filesystem that is away for a moment: others may be readable.
        return None
    if not isinstance(found, dict):
        return None
    try:
        segment = Segment(
            int(found["attempt"]), int(found["launch"]), int(found.get("rollbacks", 0))
        )
        step = int(found["step"])
        files = {str(file): dict(about) for file, about in found["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    rest = {key: found[key] for key, kind in KINDS.items() if isinstance(found.get(key), kind)}
    return Checkpoint(
        path=folder,
        step=step,
        segment=segment,
        files=files,
        confirmed_at=_confirmed_at(folder),
        **rest,
    )


def _confirmed_at(folder: Path) -> int | None:
    try:
        found = read_json(folder / GOOD)
    except OSError:
        return None
    step = found.get("confirmed_at") if isinstance(found, dict) else None
    return step if isinstance(step, int) else None


def measure(path: Path) -> dict[str, int]:
    """A file's size and checksum, as a manifest holds them."""
    size = crc = 0
    buffer = memoryview(bytearray(CHUNK))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            crc = zlib.crc32(buffer[:count], crc)
            size += count
    return {"size": size, "crc32": crc}


def problem(checkpoint: Checkpoint) -> str | None:
    """What is wrong with which file, after reading all of them; None if nothing is."""
    # Sizes first: what was cut off is found without reading gigabytes.
    for look in (_size_problem, _checksum_problem):
        for name, about in sorted(checkpoint.files.items()):
            path = checkpoint.path / name
            try:
                wrong = look(path, about)
            except (FileNotFoundError, NotADirectoryError):
                wrong = "is missing"
            except OSError as error:
                wrong = f"cannot be read: {error.strerror or error}"
            if wrong is not None:
                return f"{name} {wrong}"
    return None


def _size_problem(path: Path, about: Mapping[str, int]) -> str | None:
    size = os.stat(path).st_size
    return None if size == about.get("size", size) else f"has {size} of {about['size']} bytes"


def _checksum_problem(path: Path, about: Mapping[str, int]) -> str | None:
    if "crc32" not in about or measure(path)["crc32"] == about["crc32"]:
        return None
    return "has a wrong checksum"


def confirm(checkpoint: Checkpoint, step: int) -> Checkpoint:
    """Write down that enough healthy steps came after it; one that is gone stays gone."""
    with contextlib.suppress(FileNotFoundError):
        write_json(checkpoint.path / GOOD, {"confirmed_at": step, "time": now_iso()})
    return dataclasses.replace(checkpoint, confirmed_at=step)


def abandon(checkpoint: Checkpoint) -> None:
    """Make it no checkpoint any more, by a rename: that works on a full disk, too."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(checkpoint.path / MANIFEST, checkpoint.path / ABANDONED)
        fsync_folder(checkpoint.path)


def set_aside(checkpoint: Checkpoint) -> Path | None:
    """Rename a damaged one, so that nobody tries it again; None if another process was faster."""
    for number in range(1, MOST_DAMAGED):
        more = f"-{number}" if number > 1 else ""
        aside = checkpoint.path.with_name(f"{checkpoint.name}.damaged{more}")
        if aside.exists():
            continue
        try:
            checkpoint.path.rename(aside)
        except FileNotFoundError:
            return None
        except FileExistsError:
            continue
        except OSError:
            # Not empty: made since we looked.
            if aside.exists():
                continue
            raise
        return aside
    raise FileExistsError(f"{checkpoint.path}.damaged-{MOST_DAMAGED}")


@dataclass(frozen=True, kw_only=True)
class Word:
    """A rank's word on its own files, written after them."""

    files: Files
    finite: bool = True
    bad: str | None = None
    # Why there are no files: nobody need wait for them.
    failed: str | None = None

    def write(self, folder: Path, rank: int) -> None:
        about = {
            "files": self.files,
            "finite": self.finite,
            "bad": self.bad,
            "failed": self.failed,
        }
        write_json(folder / _word_name(rank), about)

    @classmethod
    def read(cls, folder: Path, rank: int) -> Word | None:
        """What a rank said; None while it has not."""
        found = read_json(folder / _word_name(rank))
        if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
            return None
        return cls(
            files=found["files"],
            finite=bool(found.get("finite", True)),
            bad=found.get("bad"),
            failed=found.get("failed"),
        )


def _word_name(rank: int) -> str:
    return f"rank-{rank}.json"

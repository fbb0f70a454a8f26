"""One checkpoint: what its manifest says, whether its files are whole, and its marks on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hpckit.checkpoint.names import Segment, nth
from hpckit.clock import now_iso
from hpckit.files import fsync_folder, read_json, write_json

FORMAT = 1
MANIFEST = "manifest.json"
GOOD = "good.json"
ABANDONED = "abandoned.json"
CHUNK = 4 << 20
# Of what is put aside: nobody damages one folder more often.
MOST_DAMAGED = 1000
# Pauses before what a filesystem refused is read again.
PAUSES_S = (0.2, 1.0, 2.0)
# No filesystem in trouble: there is no such file.
GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

# What else a manifest may hold; another version's keys, and what makes no sense, are passed over.
KINDS: dict[str, type] = {
    **dict.fromkeys(("epoch", "batch", "world_size", "params", "bytes", "changes"), int),
    **dict.fromkeys(("created", "why", "bad"), str),
    **dict.fromkeys(("finite", "best"), bool),
    **dict.fromkeys(("metrics", "tensors"), dict),
}

# A file's name in the folder -> {"size", "crc32"}.
Files = Mapping[str, Mapping[str, int]]
T = TypeVar("T")


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
    def order(self) -> tuple[int, Segment, int]:
        """Oldest first."""
        return self.step, self.segment, nth(self.name)

    def to_json(self) -> dict[str, Any]:
        """What manifest.json holds."""
        told = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del told["path"], told["segment"], told["confirmed_at"]
        return {"format": FORMAT, **dataclasses.asdict(self.segment), **told}


def write(checkpoint: Checkpoint) -> None:
    """Make a folder a checkpoint: the last thing that is written of it."""
    write_json(checkpoint.path / MANIFEST, checkpoint.to_json())


def read(folder: Path, name: str = MANIFEST) -> Checkpoint | None:
    """The checkpoint in a folder; None where there is no whole manifest, or none to be had now."""
    try:
        found = _parsed(folder / name)
    except (OSError, ValueError):
        # A filesystem that is away for a moment: others may be readable.
        return None
    with contextlib.suppress(OSError):
        return _marked(found)
    return found


def load(folder: Path) -> Checkpoint:
    """The same for who goes on from it, and must know why there is none.

    A ValueError where the manifest is damaged; an OSError where it is not there (one of `GONE`),
    or cannot be read, which says nothing of what is in it.
    """
    found = patiently(folder / MANIFEST, _parsed)
    return patiently(folder / GOOD, lambda _: _marked(found))


def makes_no_sense(folder: Path) -> bool:
    """Whether there is a manifest that is cut off or lacks what is most needed."""
    try:
        _parsed(folder / MANIFEST)
    except OSError:
        return False
    except ValueError:
        return True
    return False


def patiently(path: Path, read: Callable[[Path], T]) -> T:
    """What `read` makes of a path, asked again where a filesystem is away for a moment.

    The error that stays names the path: one in the midst of a file does not.
    """
    pauses = iter(PAUSES_S)
    while True:
        try:
            return read(path)
        except GONE:
            raise
        except OSError as error:
            pause_s = next(pauses, None)
            if pause_s is None:
                what = error.strerror or str(error)
                raise OSError(error.errno, what, str(path)) from error
            time.sleep(pause_s)


def _parsed(path: Path) -> Checkpoint:
    """What a manifest says; a ValueError where it is cut off or lacks what is most needed."""
    found = json.loads(path.read_text(encoding="utf-8"))
    try:
        segment = Segment(
            int(found["attempt"]), int(found["launch"]), int(found.get("rollbacks", 0))
        )
        step = int(found["step"])
        files = {str(file): dict(about) for file, about in found["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no manifest") from error
    rest = {key: found[key] for key, kind in KINDS.items() if isinstance(found.get(key), kind)}
    return Checkpoint(path=path.parent, step=step, segment=segment, files=files, **rest)


def _marked(checkpoint: Checkpoint) -> Checkpoint:
    """With the mark of a good one, where it has that; a torn one marks nothing."""
    try:
        found = json.loads((checkpoint.path / GOOD).read_text(encoding="utf-8"))
    except (*GONE, ValueError):
        return checkpoint
    step = found.get("confirmed_at") if isinstance(found, dict) else None
    return dataclasses.replace(checkpoint, confirmed_at=step if isinstance(step, int) else None)


def measure(path: Path) -> dict[str, int]:
    """A file's size and checksum, as a manifest holds them."""
    size = crc = 0
    buffer = memoryview(bytearray(CHUNK))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            crc = zlib.crc32(buffer[:count], crc)
            size += count
    return {"size": size, "crc32": crc}


def damage(checkpoint: Checkpoint) -> str | None:
    """What is wrong with which file, after reading all of them; None if nothing is.

    An OSError where one cannot be read: that is no damage, it may be readable again.
    """
    # Sizes first: what was cut off is found without reading gigabytes.
    for look in (_size_problem, _checksum_problem):
        for name, about in sorted(checkpoint.files.items()):
            try:
                wrong = patiently(checkpoint.path / name, partial(look, about=about))
            except GONE:
                wrong = "is missing"
            if wrong is not None:
                return f"{name} {wrong}"
    return None


def problem(checkpoint: Checkpoint) -> str | None:
    """The same for who only looks: that a file cannot be read is told like damage."""
    try:
        return damage(checkpoint)
    except OSError as error:
        return unread(error)


def unread(error: OSError) -> str:
    """Which file could not be read, and why."""
    return f"{os.path.basename(error.filename or 'a file')} cannot be read: {error.strerror}"


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

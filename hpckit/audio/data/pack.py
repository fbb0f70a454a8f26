"""A pack: what one package became, a folder of decoded clips with a manifest that says it all.

    <language>/manifest.json   package, licence, speaker, each clip's length and checksum
    <language>/LICENCE.txt     the package's own words on it
    <language>/clips/...       16 kHz, mono, FLAC

The folder appears under its name in one step, once everything in it is on the disk. A file that is
missing or of another size makes it no pack any more, and it is made anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One decoded sound; `path` is below the pack's folder."""

    name: str
    path: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """What a manifest says."""

    language: str
    speaker: str
    licence: str
    package: str
    version: str
    package_sha256: str
    # apt's name or the mirror's address: where the package came from.
    fetched_from: str
    rate: int
    clips: tuple[Clip, ...]

    @property
    def minutes(self) -> float:
        return sum(clip.samples for clip in self.clips) / self.rate / 60

    def manifest(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


def read(folder: Path) -> Pack | None:
    """The pack in a folder, None where there is none that is whole."""
    from hpckit.files import read_json

    pack = _parsed(read_json(folder / MANIFEST))
    if pack is None or any(_size(folder / clip.path) != clip.bytes for clip in pack.clips):
        return None
    return pack


def damaged(folder: Path, pack: Pack) -> list[str]:
    """The clips whose content is not what was written."""
    return [clip.name for clip in pack.clips if _sha256(folder / clip.path) != clip.sha256]


def _parsed(value: Any) -> Pack | None:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        return None
    fields = {name: each for name, each in value.items() if name != "format"}
    try:
        return Pack(**{**fields, "clips": tuple(Clip(**clip) for clip in fields["clips"])})
    except (TypeError, KeyError):
        return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _sha256(path: Path) -> str | None:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None

"""Where sounds come from: the files of a folder, the speech that was fetched, or nowhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpckit.audio.generated import kind_of, voice_of
from hpckit.errors import NotFound
from hpckit.settings import at_home

ENDINGS = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """One sound before it is read."""

    # The same on every machine, whatever the folder is called there.
    name: str
    speaker: str
    # None for what is generated.
    path: Path | None = None
    number: int = 0


def origins(source: str | Path, clips: int) -> list[Origin]:
    """All that a source has, by name."""
    if source == "generated":
        return [_generated(number) for number in range(clips)]
    if source == "speech":
        return _speech()
    # Whole, for a run works in a folder of its own: what stands there is not what stood at submit.
    return _in_folder(at_home(str(source)).absolute())


def _generated(number: int) -> Origin:
    voice = f"{kind_of(number)}-{voice_of(number)}"
    return Origin(name=f"{voice}/{number:05d}", speaker=voice, number=number)


def _speech() -> list[Origin]:
    from hpckit.audio.data import place, speech

    folder = place.data_folder() / speech.NAME
    found = [
        Origin(
            name=f"{pack.language}/{clip.name}",
            speaker=pack.speaker,
            path=folder / pack.language / clip.path,
        )
        for pack in speech.packs(folder)
        for clip in pack.clips
    ]
    if not found:
        hint = "fetch it once, where there is a network: hpckit data speech"
        raise NotFound(f"no speech under {folder}", hint)
    return sorted(found, key=lambda origin: origin.name)


def _in_folder(folder: Path) -> list[Origin]:
    if not folder.is_dir():
        hint = "sounds are 'speech', 'generated', or a folder of wav, flac, ogg or mp3 files"
        raise NotFound(f"{folder}: no such folder", hint)
    paths = sorted(_files(folder))
    # A link and what it leads to are one sound: they must not end up on both sides of a split.
    own = {path.resolve(): path for path in reversed(paths) if _is_sound(path)}
    if not own:
        endings = ", ".join(ending[1:] for ending in ENDINGS)
        raise NotFound(f"{folder}: none of its {len(paths)} files is of {endings}")
    return [_file(folder, path) for path in sorted(own.values())]


def _files(folder: Path) -> Iterator[Path]:
    """All files, also below links to folders; each folder once, so that no link leads in a ring."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place) / name for name in names)


def _is_sound(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def _file(folder: Path, path: Path) -> Origin:
    """A file whose speaker is the folder that it lies in, or itself where it lies in none."""
    name = path.relative_to(folder)
    speaker = name.parent if name.parent.parts else name
    return Origin(name=name.as_posix(), speaker=speaker.as_posix(), path=path)

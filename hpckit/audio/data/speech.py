"""Real speech: prompts of the Asterisk telephone exchange, read by people in studios.

Debian has them as packages, one a language. Each becomes a pack: see `pack.py`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hpckit.audio.data import debian, g722, pack
from hpckit.audio.data.debian import ELSEWHERE, Fetched, Package, Unfetched
from hpckit.audio.data.pack import Clip, Pack
from hpckit.errors import UsageError
from hpckit.files import fsync_folder, told_apart, write_atomic, write_json

NAME = "speech"
ABOUT = "prompts of the Asterisk telephone exchange, read in studios, as Debian packages them"
# Shorter ones are single words, half of them numbers.
SHORTEST_S = 2.0
SOUNDS = "usr/share/asterisk/sounds/"
# What a process that was killed has left; nobody works that long on one language.
LEFT_AFTER_S = 3600
TRIES = 3
POOL = "pool/main/a/asterisk-core-sounds"
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """One language: who speaks, on which terms, in which package."""

    language: str
    speaker: str
    licence: str
    package: Package


def _recording(language: str, speaker: str, licence: str, sha256: str) -> Recording:
    name = f"asterisk-core-sounds-{language}-g722"
    package = Package(name=name, version="1.6.1-1", pool=POOL, sha256=sha256)
    return Recording(language=language, speaker=speaker, licence=licence, package=package)


# Speakers and licences are those of the packages' copyright files.
RECORDINGS = (
    _recording(
        "en",
        "Allison Smith",
        "CC BY-SA 3.0",
        "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806",
    ),
    _recording(
        "es",
        "Allison Smith",
        "CC BY-SA 3.0",
        "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8",
    ),
    _recording(
        "fr",
        "June Wallack",
        "CC BY-SA 3.0",
        "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0",
    ),
    _recording(
        "it",
        "Carlo Flora",
        "CC BY 3.0",
        "46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016",
    ),
    _recording(
        "ru",
        "ivrvoice.ru",
        "CC BY 3.0",
        "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b",
    ),
)


def packs(folder: Path) -> list[Pack]:
    """What is there and whole, by language."""
    found = (pack.read(folder / recording.language) for recording in RECORDINGS)
    return [each for each in found if each is not None]


def chosen(only: str | None) -> list[Recording]:
    """The recordings of the languages that are asked for, as en,fr; all where none is."""
    languages = [each.language for each in RECORDINGS]
    wanted = only.replace(",", " ").split() if only is not None else languages
    for each in wanted or [""]:
        if each not in languages:
            raise UsageError(f"no speech in {each!r}", f"there is {', '.join(languages)}")
    return [each for each in RECORDINGS if each.language in wanted]


def missing(folder: Path, recordings: Sequence[Recording], *, verify: bool) -> list[Recording]:
    """Those that are not there whole; to verify means to read all that is there."""
    return [each for each in recordings if not _is_whole(folder / each.language, verify)]


def _is_whole(folder: Path, verify: bool) -> bool:
    found = pack.read(folder)
    return found is not None and not (verify and pack.damaged(folder, found))


def make(
    folder: Path, recording: Recording, mirror: str | None, tell: Tell, *, anew: bool = False
) -> Pack:
    """Fetch and decode one language, unless another process was quicker.

    `anew` makes it even so: what is there has the right sizes, and is damaged nevertheless.
    """
    with told_apart(folder, ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        for tries_left in reversed(range(TRIES)):
            try:
                return _make(folder, recording, mirror, tell, anew)
            except FileNotFoundError:
                # The quicker one removes the package once it is done.
                if not tries_left:
                    raise
    raise AssertionError("unreachable")


def _make(folder: Path, recording: Recording, mirror: str | None, tell: Tell, anew: bool) -> Pack:
    target = folder / recording.language
    if not anew and (found := pack.read(target)):
        return found
    tell(f"{recording.language}: fetching {recording.package.name}")
    fetched = debian.fetch(recording.package, folder, mirror)
    tell(f"{recording.language}: decoding what came by {fetched.source}")
    with _workplace(folder, recording.language) as place:
        made = _fill(place, recording, fetched)
        _put(place, target, anew)
    fetched.path.unlink(missing_ok=True)
    tell(f"{recording.language}: {len(made.clips)} clips, {made.minutes:.1f} minutes")
    return made


@contextlib.contextmanager
def _workplace(folder: Path, language: str) -> Iterator[Path]:
    """A folder that nobody takes for a pack, and that nobody else works in."""
    with tempfile.TemporaryDirectory(prefix=f".{language}.", suffix=".tmp", dir=folder) as place:
        inner = Path(place) / "new"
        inner.mkdir()
        yield inner


def _fill(place: Path, recording: Recording, fetched: Fetched) -> Pack:
    """Write clips, licence and manifest, and have them all on the disk."""
    clips = []
    for path, content in debian.contents(fetched.path):
        if path.endswith("/copyright"):
            write_atomic(place / "LICENCE.txt", content)
        elif _is_wanted(path, content):
            clips.append(_clip(place, _name(path), content))
    if not clips:
        raise Unfetched(f"{fetched.path.name}: no speech in it")
    made = Pack(
        language=recording.language,
        speaker=recording.speaker,
        licence=recording.licence,
        package=recording.package.name,
        version=fetched.version,
        package_sha256=fetched.sha256,
        fetched_from=fetched.source,
        rate=g722.RATE,
        clips=tuple(sorted(clips, key=lambda clip: clip.name)),
    )
    write_json(place / pack.MANIFEST, made.manifest())
    return made


def _is_wanted(path: str, content: bytes) -> bool:
    is_sound = path.startswith(SOUNDS) and path.endswith(".g722")
    return is_sound and g722.samples(content) >= SHORTEST_S * g722.RATE


def _name(path: str) -> str:
    """What a clip is called: its path below the voice's folder, which leads nowhere else."""
    parts = PurePosixPath(path.removeprefix(SOUNDS)).with_suffix("").parts[1:]
    if not parts or ".." in parts:
        raise Unfetched(f"{path}: a package with such a path is not to be trusted")
    return "/".join(parts)


def _clip(place: Path, name: str, content: bytes) -> Clip:
    flac = g722.to_flac(content)
    path = place / "clips" / f"{name}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, flac)
    return Clip(
        name=name,
        path=path.relative_to(place).as_posix(),
        samples=g722.samples(content),
        bytes=len(flac),
        sha256=hashlib.sha256(flac).hexdigest(),
    )


def _put(place: Path, target: Path, anew: bool) -> None:
    """Give a finished pack its name, unless one that another process made has it by now."""
    while place.exists():
        try:
            os.rename(place, target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            if not anew and pack.read(target):
                return
            with contextlib.suppress(FileNotFoundError):
                os.rename(target, place.with_name(f"old-{time.monotonic_ns()}"))
    fsync_folder(target.parent)


def _sweep(folder: Path) -> None:
    """Remove what killed processes have left."""
    for path in (*folder.glob(".*.tmp"), *folder.glob("*.deb")):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFT_AFTER_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

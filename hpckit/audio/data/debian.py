"""A package of Debian's, fetched without root: by apt where it knows it, else from a mirror."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpckit.errors import HpckitError, UsageError
from hpckit.files import told_apart

MIRROR = "https://deb.debian.org/debian"
SILENT_S = 60
ELSEWHERE = "choose another place with --to or HPCKIT_DATA"
BY_HAND = (
    "where there is a network: hpckit data speech --to FOLDER; then copy FOLDER here and set "
    "HPCKIT_DATA to it. Another mirror: --mirror URL"
)


class Unfetched(HpckitError):
    """A package that could not be had."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A package as mirrors have it; apt may know another version, and that one's checksum."""

    name: str
    version: str
    pool: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A package on this disk, with the checksum that it ought to have."""

    path: Path
    version: str
    sha256: str
    source: str


def fetch(package: Package, folder: Path, mirror: str | None) -> Fetched:
    """The package's file in a folder; one that is there and right is not fetched again."""
    if not mirror and (known := _known_to_apt(package.name)):
        with contextlib.suppress(Unfetched):
            return _by_apt(package.name, *known, folder)
    return _from_mirror(package, folder, mirror or MIRROR)


def _known_to_apt(name: str) -> tuple[str, str] | None:
    """Version and checksum, by apt's index, of what it would install."""
    if not (shutil.which("apt-get") and shutil.which("apt-cache")):
        return None
    shown = _run(["apt-cache", "show", "--no-all-versions", name]).stdout
    fields = dict(line.split(": ", 1) for line in shown.splitlines() if ": " in line)
    version, sha256 = fields.get("Version"), fields.get("SHA256")
    return (version, sha256) if version and sha256 else None


def _by_apt(name: str, version: str, sha256: str, folder: Path) -> Fetched:
    target = folder / f"{name}_{version}.deb"
    if _sha256(target) != sha256:
        with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder) as place:
            # Its patience is not needed: the mirror is asked next.
            once = ["-o", "Acquire::Retries=0"]
            _run(["apt-get", *once, "download", f"{name}={version}"], Path(place))
            found = [path for path in Path(place).glob("*.deb") if _sha256(path) == sha256]
            if not found:
                raise Unfetched(f"apt-get cannot download {name}")
            os.replace(found[0], target)
    return Fetched(path=target, version=version, sha256=sha256, source="apt")


def _run(command: list[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


def _from_mirror(package: Package, folder: Path, mirror: str) -> Fetched:
    target = folder / f"{package.name}_{package.version}.deb"
    if _sha256(target) != package.sha256:
        file = f"{package.name}_{package.version}_all.deb"
        _download(f"{mirror.rstrip('/')}/{package.pool}/{file}", target, package.sha256)
    return Fetched(path=target, version=package.version, sha256=package.sha256, source=mirror)


def _download(url: str, target: Path, sha256: str) -> None:
    """What stands at an address, under its name once it is whole and right."""
    found = hashlib.sha256()
    with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=target.parent) as place:
        half = Path(place) / target.name
        with told_apart(half, ELSEWHERE), open(half, "wb") as stream:
            for piece in _pieces(url):
                found.update(piece)
                stream.write(piece)
        if found.hexdigest() != sha256:
            raise Unfetched(
                f"{url}: what came is not what was meant: its checksum differs", BY_HAND
            )
        os.replace(half, target)


def _pieces(url: str) -> Iterator[bytes]:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=SILENT_S) as answer:
            while piece := answer.read(1 << 18):
                yield piece
    except ValueError as error:
        raise UsageError(f"{url}: {error}", "a mirror is an address such as " + MIRROR) from error
    except (OSError, http.client.HTTPException) as error:
        is_answer = isinstance(error, urllib.error.HTTPError)
        reason = error if is_answer else getattr(error, "reason", error)
        raise Unfetched(f"cannot fetch {url}: {reason}", BY_HAND) from error


def _sha256(path: Path) -> str | None:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def contents(deb: Path) -> Iterator[tuple[str, bytes]]:
    """The plain files of a package by their paths, without unpacking it on the disk."""
    with tarfile.open(fileobj=io.BytesIO(_data(deb))) as archive:
        for member in archive:
            if member.isfile() and (stream := archive.extractfile(member)):
                yield member.name.removeprefix("./"), stream.read()


def _data(deb: Path) -> bytes:
    """The tar archive within a package; tarfile takes what gzip and xz made of it as it is."""
    for name, content in _members(deb.read_bytes()):
        if name.startswith("data.tar"):
            return _by_dpkg(deb) if name.endswith(".zst") else content
    raise Unfetched(f"{deb}: no Debian package")


def _by_dpkg(deb: Path) -> bytes:
    """Of zstd, which Ubuntu packs with, this Python knows nothing; dpkg does."""
    try:
        return subprocess.check_output(["dpkg-deb", "--fsys-tarfile", deb])
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unfetched(f"{deb}: packed with zstd, which needs dpkg-deb: {error}") from error


def _members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """The members of an ar archive: a head of 60 letters each, and an even number of bytes."""
    at = 8
    while at + 60 <= len(archive):
        name, size = archive[at : at + 16].decode().strip(), int(archive[at + 48 : at + 58])
        yield name.rstrip("/"), archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2

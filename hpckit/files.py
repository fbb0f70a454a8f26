"""Writes that a dying machine cannot tear, and reads that forgive a torn last line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpckit.errors import CannotWrite

ELSEWHERE = "choose another place with --root or HPCKIT_ROOT"


@contextlib.contextmanager
def told_apart(path: Path, instead: str = ELSEWHERE) -> Iterator[None]:
    """Turn an operating system's refusal to write into a sentence about the place."""
    try:
        yield
    except OSError as error:
        what = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        # Of a copy the second name is where it was to go.
        place = error.filename2 or (path if full else error.filename) or path
        hint = f"free some space, or {instead}" if full else instead
        raise CannotWrite(f"cannot write {place}: {what}", hint) from error


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Replace a file in one step: readers see the old content or the new, never half."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        # As root one would replace /dev/null for everybody.
        raise FileExistsError(errno.EEXIST, "it is no plain file", str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(3).hex()}.tmp")
    if isinstance(content, str):
        # A file's name may be no UTF-8: what stands for its bytes becomes those bytes again.
        content = content.encode("utf-8", errors="surrogateescape")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename == str(temporary):
            # Nobody has heard of the temporary one.
            error.filename, error.filename2 = str(path), None
        raise
    if durable:
        fsync_folder(path.parent)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomic(
        path, _utf8(json.dumps(value, indent=1, ensure_ascii=False)) + "\n", durable=durable
    )


def _utf8(text: str) -> str:
    """JSON whose names of files that are no UTF-8 are escaped, as JSON can and UTF-8 cannot."""
    return text.encode(errors="backslashreplace").decode()


def read_json(path: Path) -> Any:
    """The value in a JSON file, or None where it is absent or not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError):
        return None


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON line and make it durable before returning."""
    line = _utf8(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) + "\n"
    is_new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    size = os.fstat(descriptor).st_size
    try:
        data = line.encode()
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    except OSError:
        # Half a line would swallow the next one; a file has one writer, so nobody else's goes.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
            if is_new:
                path.unlink()
        raise
    finally:
        os.close(descriptor)
    if is_new:
        fsync_folder(path.parent)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every whole JSON line of a file; a line cut in half by a dying writer is passed over."""
    found = []
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    for line in data.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found

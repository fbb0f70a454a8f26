"""Made-up Debian packages of speech, and a program that makes a pack of one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np

from hpckit.audio.data import speech

LICENCE = b"You may do what you like.\n"
VOICE = "usr/share/asterisk/sounds/xx_XX_f_Nobody"
MAKE = """
import json, sys
from hpckit.audio.data import debian, speech
from hpckit.audio.data.debian import Package
from hpckit.errors import HpckitError
from pathlib import Path

folder, mirror, default_mirror, package, anew = json.loads(sys.argv[1])
debian.MIRROR = default_mirror or debian.MIRROR
recording = speech.Recording(
    language="it", speaker="Nobody", licence="none", package=Package(**package)
)
try:
    speech.make(
        Path(folder), recording, mirror, lambda text: print(text, flush=True), anew=anew
    )
except HpckitError as error:
    sys.exit(str(error))
"""


def ar(members):
    """An archive as Debian's packages are; what has an odd length is followed by a line's end."""
    parts = [b"!<arch>\n"]
    for name, content in members:
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        parts += [head.encode(), content, b"\n" * (len(content) % 2)]
    return b"".join(parts)


def tree(clips=12, seed=0):
    """The files of a package: sounds of two seconds and more, a short one, and the licence."""
    draw = np.random.default_rng(seed)
    files = {"usr/share/doc/asterisk-core-sounds-it-g722/copyright": LICENCE}
    for number in range(clips):
        # Any bytes are G.722: these are noise of 2 s and a bit.
        path = f"{VOICE}/{'deep/' * (number % 2)}clip{number:02d}.g722"
        files[path] = draw.bytes(16_000 + 2 * number)
    files[f"{VOICE}/short.g722"] = draw.bytes(15_999)
    return files


def tarred(files, compression="xz"):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{compression}") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(f"./{path}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def deb(files, compression="xz"):
    data = tarred(files, compression)
    return ar(
        [("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (f"data.tar.{compression}", data)]
    )


def package(content, name="asterisk-core-sounds-nowhere-g722"):
    return {
        "name": name,
        "version": "1",
        "pool": "pool",
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def serve_in(folder: Path, content: bytes, **about: str) -> dict[str, str]:
    """Put a package where a mirror has it."""
    found = package(content, **about)
    (folder / "pool").mkdir(exist_ok=True, parents=True)
    (folder / "pool" / f"{found['name']}_1_all.deb").write_bytes(content)
    return found


def command(folder, mirror, wanted, *, default_mirror=None, anew=False):
    """The program that makes a pack of a package, and says what it does."""
    question = json.dumps([str(folder), mirror, default_mirror, wanted, anew])
    return [sys.executable, "-c", MAKE, question]


def start(*question, env=None, **more):
    return subprocess.Popen(
        command(*question, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )


def finish(process):
    """What it printed, once it has come to a good end."""
    told, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint
    return told


def packs(folder):
    return speech.packs(Path(folder))

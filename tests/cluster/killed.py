"""hpckit, killed just before its n-th act on the disk or on Slurm.

usage: python killed.py N COUNT_FILE ROOT WORDS...     what stands after `hpckit`
An act is a file opened for writing, a folder made, a file renamed, linked or removed under ROOT,
or a process started. With N = 0 nothing is killed, and the acts are counted into COUNT_FILE.
"""

from __future__ import annotations

import os
import signal
import sys

LIMIT, COUNT_FILE, ROOT, *WORDS = int(sys.argv[1]), *sys.argv[2:]
acts: list[str] = []


def is_act(event: str, args: tuple[object, ...]) -> bool:
    if event == "subprocess.Popen":
        return True
    path = os.fsdecode(args[0]) if args and isinstance(args[0], (str, bytes, os.PathLike)) else ""
    if not path.startswith(ROOT):
        return False
    if event == "open":
        flags = args[2] if len(args) > 2 and isinstance(args[2], int) else 0
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in ("os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir")


def watch(event: str, args: tuple[object, ...]) -> None:
    if is_act(event, args):
        acts.append(f"{event} {args[0]!r}")
        if len(acts) == LIMIT:
            os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(watch)
sys.argv = ["hpckit", *WORDS]

from hpckit.cli import main  # noqa: E402 (the hook must be there first)

try:
    main()
finally:
    with open(COUNT_FILE, "w") as stream:
        stream.write("\n".join(acts))

"""Finding and following what the ranks of a run printed."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpckit.run import Attempt, Run, chain_folder

BLOCK = 65_536
# A follower of a huge log takes it in pieces.
MOST = 8_000_000


def rank_log(attempt: Attempt, rank: int) -> Path | None:
    """What a rank printed in the newest launch of an attempt."""
    launches = attempt.launches()
    return launches[-1] / f"rank-{rank}.log" if launches else None


def worker_log(run: Run, attempt: Attempt) -> Path:
    """What the worker itself, and Slurm, printed for an attempt."""
    about = attempt.about()
    return chain_folder(run.home, about.get("chain", 1)) / str(about.get("log"))


def failed_log(attempt: dict[str, Any]) -> Path | None:
    """The log of the rank that failed first, of an attempt as `show` tells it."""
    rank = (attempt.get("program") or {}).get("rank", 0)
    folder = Attempt(number=attempt["number"], dir=Path(attempt["dir"]))
    log = rank_log(folder, rank)
    return log if log is not None and log.exists() else None


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file, read from its end in blocks until there are enough."""
    data = b""
    with open(path, "rb") as stream:
        at = stream.seek(0, 2)
        while at > 0 and data.count(b"\n") <= lines:
            step = min(at, BLOCK)
            at -= step
            stream.seek(at)
            data = stream.read(step) + data
    found = data.decode("utf-8", errors="replace").split("\n")
    whole = found[:-1] if found[-1] == "" else found
    return whole[-lines:]


class Reader:
    """Reads what has been added to a file since the last look."""

    def __init__(self, path: Path, *, skip_to_last: int | None = None) -> None:
        self.path = path
        self._at = 0
        # A character may arrive in pieces.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        if skip_to_last is not None and path.exists():
            kept = tail(path, skip_to_last)
            size = path.stat().st_size
            self._at = max(0, size - sum(len(line.encode()) + 1 for line in kept))

    def more(self) -> str:
        """The new text, empty where there is none."""
        try:
            with open(self.path, "rb") as stream:
                stream.seek(self._at)
                data = stream.read(MOST)
        except FileNotFoundError:
            return ""
        self._at += len(data)
        return self._decoder.decode(data)


def follow(run: Run, rank: int, *, last_lines: int | None) -> Iterator[tuple[Attempt, str]]:
    """New text of a rank, attempt after attempt; an empty text is a pause."""
    number, reader, attempt = 0, None, None
    while True:
        attempts = run.attempts()
        text = reader.more() if reader is not None else ""
        if text and attempt is not None:
            yield attempt, text
            continue
        newer = [a for a in attempts if a.number > number and rank_log(a, rank) is not None]
        if newer:
            attempt = newer[-1] if number == 0 else newer[0]
            number = attempt.number
            path = rank_log(attempt, rank)
            assert path is not None
            reader = Reader(path, skip_to_last=last_lines)
            last_lines = None
            continue
        yield attempt or Attempt(number=0, dir=run.dir), ""
        time.sleep(0.2)

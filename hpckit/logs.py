"""Finding and following what the ranks of a run printed."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpckit.files import read_json
from hpckit.run import Attempt, Run

BLOCK = 65_536
# A follower of a huge log takes it in pieces.
MOST = 8_000_000
# A progress bar may draw a line of many megabytes; nobody reads more than its end.
LONGEST_LINE = 1_000_000


def rank_log(attempt: Attempt, rank: int) -> Path | None:
    """What a rank printed in the newest launch of an attempt."""
    launches = attempt.launches()
    return launches[-1] / f"rank-{rank}.log" if launches else None


def worker_log(run: Run, attempt: Attempt) -> Path:
    """What the worker itself, and Slurm, printed for an attempt."""
    about = attempt.about()
    return run.chain_folder(about.get("chain", 1)) / str(about.get("log"))


def newest_link_log(run: Run) -> Path | None:
    """What the last task to begin for a run printed, an attempt or not."""
    logs = (path for folder in {run.home, run.dir} for path in folder.glob("chains/*/*.log"))
    found = [path for path in logs if _serves(run, path)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _serves(run: Run, log: Path) -> bool:
    if run.point is None or log.is_relative_to(run.dir):
        return True
    chain = read_json(log.with_name("chain.json")) or {}
    return log.stem.rpartition("_")[2] == str(run.point - int(chain.get("offset", 0)))


def failed_log(attempt: dict[str, Any]) -> Path | None:
    """The log of the rank that failed first, of an attempt as `show` tells it."""
    rank = (attempt.get("program") or {}).get("rank", 0)
    folder = Attempt(number=attempt["number"], dir=Path(attempt["dir"]))
    log = rank_log(folder, rank)
    return log if log is not None and log.exists() else None


def last_words(told: dict[str, Any], lines: int = 12) -> tuple[Path, list[str]] | None:
    """The end of the log of what failed, a run as `show` tells it: most questions end there."""
    if told["state"] != "failed" or not told["attempts"]:
        return None
    log = failed_log(told["attempts"][-1])
    return None if log is None else (log, tail(log, lines))


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file; of a line without an end, such as a progress bar, its end."""
    return _lines(_end_of(path, lines)[1])


def whole(path: Path) -> list[str]:
    """Every line of a file."""
    return _lines(path.read_bytes())


def _lines(data: bytes) -> list[str]:
    text = data.decode("utf-8", errors="replace")
    return text.removesuffix("\n").split("\n") if text else []


def _end_of(path: Path, lines: int) -> tuple[int, bytes]:
    """Where the last lines of a file begin, and what they are, read from its end in blocks."""
    blocks: list[bytes] = []
    with open(path, "rb") as stream:
        at = stream.seek(0, 2)
        # The newline that ends the file ends its last line.
        wanted, barren = lines + 1, 0
        while at > 0 and barren < LONGEST_LINE:
            step = min(at, BLOCK)
            at -= step
            stream.seek(at)
            block = stream.read(step)
            if not blocks and not block.endswith(b"\n"):
                wanted = lines
            found = block.count(b"\n")
            if found >= wanted:
                cut = len(block)
                for _ in range(wanted):
                    cut = block.rindex(b"\n", 0, cut)
                blocks.append(block[cut + 1 :])
                at += cut + 1
                break
            wanted -= found
            barren = 0 if found else barren + step
            blocks.append(block)
    return at, b"".join(reversed(blocks))


class Reader:
    """Reads what has been added to a file since the last look."""

    def __init__(self, path: Path, *, skip_to_last: int | None = None) -> None:
        self.path = path
        self._at = 0
        # A character may arrive in pieces.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        if skip_to_last is not None and path.exists():
            self._at = _end_of(path, skip_to_last)[0]

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
    """New text of a rank, launch after launch and attempt after attempt; no text is a pause."""
    at, reader, attempt = (0, 0), None, None
    while True:
        found = _rank_logs(run, rank)
        text = reader.more() if reader is not None else ""
        if text and attempt is not None:
            yield attempt, text
            continue
        newer = [each for each in found if each[0] > at]
        if newer:
            at, attempt, path = newer[0] if reader is not None else newer[-1]
            reader = Reader(path, skip_to_last=last_lines)
            last_lines = None
            continue
        yield attempt or Attempt(number=0, dir=run.dir), ""
        time.sleep(0.2)


def _rank_logs(run: Run, rank: int) -> list[tuple[tuple[int, int], Attempt, Path]]:
    """What a rank printed, by attempt and launch, in their order."""
    return [
        ((attempt.number, place), attempt, launch / f"rank-{rank}.log")
        for attempt in run.attempts()
        for place, launch in enumerate(attempt.launches())
    ]

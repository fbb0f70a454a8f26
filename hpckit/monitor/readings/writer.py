"""Writing readings to disk, beside a training that does not wait for it.

    writer = ReadingsWriter(run.dir / "attempts/001/readings")
    writer.write(Reading(step=1, values={"train/loss": 2.3}))

A folder of segments of 4,096 rows. The newest rows are all there; the older they are, the more
they are thinned, so that ten million steps take some tens of megabytes.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from hpckit.files import write_atomic
from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.appender import Appender
from hpckit.monitor.readings.background import Background, Item, breathing, tell
from hpckit.monitor.readings.rows import encode, whole_lines
from hpckit.monitor.readings.segments import Segment, counting, in_order, listed, to_merge
from hpckit.monitor.readings.thinning import thinned

SEGMENT_ROWS = 4096
# A row with the norm of each parameter may have a hundred kilobytes.
SEGMENT_BYTES = 4_000_000
# So many segments of a level stay before the oldest two become one of the next.
KEEP = 8


class ReadingsWriter(Background):
    """Writes readings and incidents into a folder that no other process writes into."""

    name = "readings"

    def __init__(
        self, folder: Path, *, rows: int = SEGMENT_ROWS, size: int = SEGMENT_BYTES, keep: int = KEEP
    ) -> None:
        """`rows` and `size`, in bytes: what makes a segment full."""
        self.folder = Path(folder)
        self.rows = rows
        self.size = size
        self.keep = keep
        self._out: Appender | None = None
        self._segment = Segment(0, 0)
        self._rows = 0
        self._bytes = 0
        self._last_step = -1
        self._has_told = False
        super().__init__()

    def consume(self, batch: list[Item]) -> None:
        if not batch and self._out is None:
            return
        out = self._out = self._out or self._begin()
        for item in breathing(batch):
            # Two readings of a step are one in two parts, and stay together.
            if isinstance(item, Reading) and item.step != self._last_step:
                self._turn(out)
                self._last_step = item.step
            line = self._line(item)
            out.add(line)
            self._rows += 1
            self._bytes += len(line)
        out.save()

    def settle(self) -> None:
        if self._out is not None:
            self._out.save(durable=True)

    def finish(self) -> None:
        if self._out is not None and not self._out.save(durable=True):
            tell(f"{self._out.waiting} readings did not reach {self.folder}")

    def _begin(self) -> Appender:
        """A file of its own: what an earlier writer left may end in half a line."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            for rest in self.folder.glob(".*.tmp"):
                rest.unlink()
        with contextlib.suppress(OSError):
            ends = [each.end for each in in_order(self.folder)]
            self._segment = Segment(0, max(ends, default=0))
        return Appender(self.folder / self._segment.file)

    def _line(self, item: Item) -> bytes:
        try:
            return encode(item)
        except (TypeError, ValueError, OverflowError) as error:
            if not self._has_told:
                what = "incident" if isinstance(item, Incident) else "reading"
                tell(f"a {what} of step {item.step} is not numbers and is not written: {error}")
            self._has_told = True
            self.lost += 1
            return b""

    def _turn(self, out: Appender) -> None:
        """Begin the next segment where this one is full and on the disk."""
        if self._rows < self.rows and self._bytes < self.size:
            return
        if not out.save(durable=True):
            return
        self._segment = Segment(0, self._segment.number + 1)
        self._rows = self._bytes = 0
        out.turn_to(self.folder / self._segment.file)
        # A full disk leaves things as they are; the next segment brings the next chance.
        with contextlib.suppress(OSError):
            thin(self.folder, rows=self.rows, keep=self.keep, below=self._segment)


def thin(folder: Path, *, rows: int, keep: int, below: Segment) -> None:
    """Merge what is older than a segment, until no level has more than `keep`.

    The merged file is there before the two are deleted; who dies in between leaves all three, and
    the merged one counts.
    """
    while True:
        there = {each for each in listed(folder) if each.end <= below.begin}
        for each in there - set(counting(there)):
            (folder / each.file).unlink(missing_ok=True)
        old = to_merge(there, keep)
        if not old or old[0].above.end > below.begin:
            return
        lines = [line for each in old for line in whole_lines((folder / each.file).read_bytes())]
        kept = thinned([line for line in lines if line.endswith(b"}")], most_odd=rows // 4)
        text = b"".join(line + b"\n" for line in kept).decode("utf-8", "surrogateescape")
        write_atomic(folder / old[0].above.file, text)

"""The readings of a folder as they come, each read once."""

from __future__ import annotations

from pathlib import Path

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.reader import REPLACED
from hpckit.monitor.readings.rows import decode, decode_incident, step_of, whole_lines
from hpckit.monitor.readings.segments import Segment, in_order

# In one look, a twentieth of a second: whoever comes late reads the newest of it.
MOST_BYTES = 4_000_000


class Following:
    """Reads on where it stood; at first, and where it has fallen behind, the newest part.

    A writer never touches a segment again once the next one is there. Until it is, the last line
    may be half of one.
    """

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._segment: Segment | None = None
        self._at = 0

    def more(self) -> list[Reading | Incident]:
        """What was written since the last look, an incident after its reading."""
        lines: list[bytes] = []
        try:
            if self._segment is None:
                lines = self._newest(in_order(self._folder))
            else:
                lines = self._further(self._segment)
        except OSError as error:
            if error.errno not in REPLACED:
                raise
            # It was merged with others: nobody has looked for long.
            self._segment = None
        found = [decode_incident(line) if step_of(line) is None else decode(line) for line in lines]
        return [each for each in found if each is not None]

    def _newest(self, segments: list[Segment]) -> list[bytes]:
        """As much of the newest segments as is to be read at once."""
        found: list[bytes] = []
        room = self._most_bytes
        for segment in reversed(segments):
            path = self._folder / segment.file
            with open(path, "rb") as stream:
                size = stream.seek(0, 2)
                begin = max(0, size - room)
                stream.seek(begin)
                data = stream.read(size - begin)
            if self._segment is None:
                self._segment, self._at = segment, begin + data.rfind(b"\n") + 1
            # The first line may have begun before.
            found = whole_lines(data)[begin > 0 :] + found
            room -= size
            if room <= 0:
                break
        return found

    def _further(self, segment: Segment) -> list[bytes]:
        """The rest of this segment, and the beginning of the next where there is one."""
        later = Segment(0, segment.end)
        # Asked for first: what is read after that is all there will be of this one.
        has_later = (self._folder / later.file).exists()
        with open(self._folder / segment.file, "rb") as stream:
            is_behind = stream.seek(0, 2) - self._at > self._most_bytes
            stream.seek(self._at)
            data = b"" if is_behind else stream.read()
        if is_behind:
            self._segment = None
            return self._newest(in_order(self._folder))
        lines = whole_lines(data)
        self._at += data.rfind(b"\n") + 1
        if has_later:
            self._segment, self._at = later, 0
            return lines + self._further(later)
        return lines

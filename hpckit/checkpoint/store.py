"""A run's checkpoints on disk: those there are, those that count, and the one to take."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hpckit.checkpoint import manifest, names
from hpckit.checkpoint.lineage import Start, believed, counts, starts
from hpckit.checkpoint.manifest import ABANDONED, GONE, MANIFEST, Checkpoint
from hpckit.checkpoint.names import Segment
from hpckit.checkpoint.search import Search
from hpckit.ledger import Ledger

FOLDER = "checkpoints"
# So many further back is the oldest there is.
OLDEST = 1 << 30
Tell = Callable[[str], None]


class Store:
    """Reads, and sets aside what is damaged. Other processes may do so at the same time."""

    def __init__(self, folder: Path, ledger_folder: Path) -> None:
        self.folder = folder
        self.ledger_folder = ledger_folder

    @classmethod
    def of_run(cls, run_folder: Path) -> Store:
        return cls(run_folder / FOLDER, run_folder / "ledger")

    def all(self) -> list[Checkpoint]:
        """Every whole checkpoint, oldest first."""
        return self._read(MANIFEST)

    def on_branch(self) -> list[Checkpoint]:
        """Those that count, oldest first: what the run as it goes now may go on from."""
        begun = self.begun()
        return [found for found in self.all() if counts(found.step, found.segment, begun)]

    def begun(self) -> list[Start]:
        """Where the segments of the run took up; what a late one says of itself is left out."""
        return starts(believed(Ledger(self.ledger_folder).events()))

    def parted(self) -> tuple[list[Checkpoint], list[Checkpoint]]:
        """Those that count, and those given up in a rollback or written by a late one.

        Both oldest first.
        """
        on: list[Checkpoint] = []
        off = self._read(ABANDONED)
        begun = self.begun()
        for found in self.all():
            (on if counts(found.step, found.segment, begun) else off).append(found)
        return on, sorted(off, key=lambda found: found.order)

    def incomplete(self) -> list[Path]:
        """Folders that are no checkpoint: being written, or left by who died while writing."""
        return [
            folder
            for _, folder in self.folders()
            if all(_is_absent(folder / mark) for mark in (MANIFEST, ABANDONED))
        ]

    @property
    def has_any(self) -> bool:
        """Whether anything was ever saved here, whatever has become of it."""
        try:
            return bool(self._names())
        except OSError:
            # Who cannot look must not say that there is nothing.
            return True

    def unreadable(self) -> list[Path]:
        """Folders whose manifest is there and makes no sense; not those that are away now."""
        return [folder for _, folder in self.folders() if manifest.makes_no_sense(folder)]

    def damaged(self) -> list[Path]:
        """What was set aside."""
        return [self.folder / n for n in self._names() if names.parse_damaged(n) is not None]

    def newest_intact(self, tell: Tell) -> Checkpoint | None:
        """The newest one that counts and is whole, for going on as if nothing had happened.

        An error where there are some, and none can be read now.
        """
        search = Search(self, tell)
        return search.chosen(reversed(search.on_branch()))

    def intact(self, name: str, tell: Tell) -> Checkpoint | None:
        """The one of this name, if it is whole."""
        search = Search(self, tell)
        return search.chosen(each for each in self.all() if each.name == name)

    def newest_good(self, before: int | None, back: int, tell: Tell) -> Checkpoint | None:
        """The newest good one that is not after step `before`, or the one `back` further back.

        Where there are not so many, the oldest good one there is.
        """
        search = Search(self, tell)
        return search.chosen(further(search.good(before), back))

    def folders(self) -> list[tuple[tuple[int, Segment], Path]]:
        """What is named like a checkpoint, whatever it holds, with its step and its segment."""
        named = [(names.parse(name), self.folder / name) for name in self._names()]
        return [(order, folder) for order, folder in named if order is not None]

    def _read(self, mark: str) -> list[Checkpoint]:
        whole = [
            found
            for _, folder in self.folders()
            if (found := manifest.read(folder, mark)) is not None
        ]
        return sorted(whole, key=lambda found: found.order)

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.folder))
        except (FileNotFoundError, NotADirectoryError):
            return []


def further(newest_first: Sequence[Any], back: int) -> list[Any]:
    """The one that is so many further back, and what is taken instead: older, then newer ones."""
    return [*newest_first[back:], *reversed(newest_first[:back])]


def _is_absent(path: Path) -> bool:
    """Whether that is sure: what cannot be looked at may be there."""
    try:
        path.stat()
    except GONE:
        return True
    except OSError:
        return False
    return False

"""A run's checkpoints on disk: those there are, those that count, and the one to take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from hpckit.checkpoint import manifest, names
from hpckit.checkpoint.lineage import Start, believed, counts, starts
from hpckit.checkpoint.manifest import ABANDONED, MANIFEST, Checkpoint
from hpckit.checkpoint.names import Segment
from hpckit.ledger import Ledger

FOLDER = "checkpoints"
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

    def off_branch(self) -> list[Checkpoint]:
        """Those that do not count any more: given up in a rollback, or written by a late one."""
        on = {found.name for found in self.on_branch()}
        late = [found for found in self.all() if found.name not in on]
        return sorted([*late, *self._read(ABANDONED)], key=lambda found: found.order)

    def incomplete(self) -> list[Path]:
        """Folders that are no checkpoint: being written, or left by who died while writing."""
        return [
            self.folder / name
            for name in self._names()
            if names.parse(name) is not None
            and not any((self.folder / name / mark).exists() for mark in (MANIFEST, ABANDONED))
        ]

    @property
    def has_any(self) -> bool:
        """Whether anything was ever saved here, whatever has become of it."""
        return bool(self._names())

    def unreadable(self) -> list[Path]:
        """Folders whose manifest is there and makes no sense."""
        return [
            self.folder / name
            for name in self._names()
            if names.parse(name) is not None
            and (self.folder / name / MANIFEST).exists()
            and manifest.read(self.folder / name) is None
        ]

    def damaged(self) -> list[Path]:
        """What was set aside."""
        return [self.folder / n for n in self._names() if names.parse_damaged(n) is not None]

    def newest_intact(self, tell: Tell) -> Checkpoint | None:
        """The newest one that counts and is whole, for going on as if nothing had happened."""
        for path in self.unreadable():
            nothing = Checkpoint(path=path, step=0, segment=Segment(0, 0))
            _set_aside(nothing, f"{MANIFEST} cannot be read", tell)
        return self._first_intact(reversed(self.on_branch()), tell)

    def newest_good(self, before: int | None, back: int, tell: Tell) -> Checkpoint | None:
        """The newest good one that is not after step `before`, or the one `back` further back.

        Where there are not so many, the oldest good one there is.
        """
        good = [
            found
            for found in reversed(self.on_branch())
            if found.is_good and (before is None or found.step <= before)
        ]
        return self._first_intact([*good[back:], *reversed(good[:back])], tell)

    def _first_intact(self, candidates: Iterable[Checkpoint], tell: Tell) -> Checkpoint | None:
        for found in candidates:
            wrong = manifest.problem(found)
            if wrong is None:
                return found
            if not (found.path / MANIFEST).exists():
                # Not damaged, but deleted or renamed while we read it.
                continue
            _set_aside(found, wrong, tell)
        return None

    def _read(self, mark: str) -> list[Checkpoint]:
        whole = [
            found
            for name in self._names()
            if names.parse(name) is not None
            and (found := manifest.read(self.folder / name, mark)) is not None
        ]
        return sorted(whole, key=lambda found: found.order)

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.folder))
        except (FileNotFoundError, NotADirectoryError):
            return []


def _set_aside(checkpoint: Checkpoint, wrong: str, tell: Tell) -> None:
    try:
        aside = manifest.set_aside(checkpoint)
    except OSError as error:
        reason = error.strerror or error
        tell(f"checkpoint {checkpoint.name} is damaged: {wrong}; it cannot be renamed: {reason}")
        return
    # Gone under our hands: deleted, or set aside and told by another process.
    if aside is not None:
        tell(f"checkpoint {checkpoint.name} is damaged: {wrong}; set aside as {aside.name}")

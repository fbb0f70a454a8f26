"""notify/ in a run's or sweep's folder: which mails were sent, by whom, and what they told.

Several workers of a sweep share it, without locks. A mail is a numbered file that only one can
make, by its name: who makes number n+1 has decided by the n before it, and who comes second looks
again. After that the file is its maker's alone, who replaces it when the mail is sent, or is not.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hpckit.clock import iso, seconds_of
from hpckit.files import read_json, write_json
from hpckit.worker.news import Heard

HOUR_S = 3600.0
# Clocks of the nodes of one cluster do not differ by more; a time further ahead makes no sense.
SKEW_S = 600.0
# Who has not sent what it claimed by then is dead: sending takes no longer than half a minute.
STALE_S = 600.0
# So many workers of a sweep may find within the hour that no mail leaves their node.
MOST_TRIES = 3
WAITING = "waiting-"

Told = Mapping[str, Heard]
Fate = Literal["claimed", "sent", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """One mail: its number, who claimed it and when, what it tells, what became of it."""

    number: int
    fate: Fate
    time: float
    run: str = ""
    by: str = ""
    told: Told = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        told = {name: heard.to_json() for name, heard in self.told.items()}
        return {
            "fate": self.fate,
            "time": iso(self.time),
            "run": self.run,
            "by": self.by,
            "told": told,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Outbox:
    """The folder, as one worker of one run sees it."""

    folder: Path
    run: str
    # A name that no other process has.
    by: str

    def letters(self) -> list[Letter]:
        """What was claimed so far, in order."""
        numbers = [n[:-5] for n in self._names() if n.endswith(".json") and n[:-5].isdecimal()]
        found = [self._letter(int(number)) for number in numbers]
        return sorted((e for e in found if e is not None), key=lambda letter: letter.number)

    def claim(self, letters: Sequence[Letter], told: Told, now: float) -> Letter | None:
        """The next mail, to be sent by us; None where somebody else was faster."""
        self._make_folder()
        number = max((each.number for each in letters), default=0) + 1
        letter = Letter(
            number=number, fate="claimed", time=now, run=self.run, by=self.by, told=told
        )
        try:
            with open(self._path(number), "x", encoding="utf-8") as stream:
                json.dump(letter.to_json(), stream)
                stream.flush()
                os.fsync(stream.fileno())
        except FileExistsError:
            return None
        return letter

    def settle(self, letter: Letter, fate: Fate) -> None:
        """What became of a mail that we claimed."""
        write_json(self._path(letter.number), replace(letter, fate=fate).to_json())

    def is_pending(self, letter: Letter, now: float) -> bool:
        """Whether somebody who may be alive is sending it."""
        if letter.fate != "claimed" or not -SKEW_S < now - letter.time < STALE_S:
            return False
        # A run has one worker at a time: another one of the same run is dead.
        return letter.run != self.run or letter.by == self.by

    def is_due(self, letters: Iterable[Letter], now: float) -> bool:
        """Whether the last mail was sent an hour ago or more, or was tried in vain so long ago."""
        recent = [each for each in letters if -SKEW_S < now - each.time < HOUR_S]
        if any(each.fate == "sent" or self.is_pending(each, now) for each in recent):
            return False
        # On another node there may be a way; that a few have looked for one is enough.
        failed = [each for each in recent if each.fate == "failed"]
        return len(failed) < MOST_TRIES and all(each.by != self.by for each in failed)

    def wait(self, name: str) -> None:
        """Leave a mark for whoever is alive when the hour is over: there is something to tell."""
        self._make_folder()
        (self.folder / f"{WAITING}{name}").touch()

    def waiting(self) -> list[str]:
        return [name for name in self._names() if name.startswith(WAITING)]

    def forget(self, marks: Iterable[str]) -> None:
        for name in marks:
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()

    def _make_folder(self) -> None:
        # Without its parents: a run that was deleted must not come back.
        self.folder.mkdir(exist_ok=True)

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:04d}.json"

    def _letter(self, number: int) -> Letter | None:
        path = self._path(number)
        try:
            made = path.stat().st_mtime
        except OSError:
            return None
        value = read_json(path)
        try:
            return _letter_from(value, number)
        except (ValueError, TypeError, KeyError, AttributeError):
            # Claimed by somebody who is writing it, or died while doing so.
            return Letter(number=number, fate="claimed", time=made)


def _letter_from(value: dict[str, Any], number: int) -> Letter:
    if value["fate"] not in ("claimed", "sent", "failed"):
        raise ValueError(value["fate"])
    return Letter(
        number=number,
        fate=value["fate"],
        time=seconds_of(value["time"]),
        run=str(value["run"]),
        by=str(value["by"]),
        told={name: Heard.from_json(heard) for name, heard in value["told"].items()},
    )


def told_by(letters: Iterable[Letter]) -> Told:
    """What the mails that were sent have told."""
    sent = [each for each in letters if each.fate == "sent"]
    return sent[-1].told if sent else {}

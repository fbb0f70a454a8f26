"""One look for a checkpoint to go on from: past what is damaged, and what cannot be read now."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hpckit.checkpoint import manifest
from hpckit.checkpoint.lineage import counts
from hpckit.checkpoint.manifest import GONE, MANIFEST, Checkpoint, patiently, unread
from hpckit.checkpoint.names import Segment
from hpckit.errors import HpckitError

if TYPE_CHECKING:
    from hpckit.checkpoint.store import Store, Tell

# In the sentence that ends a training; each was told before.
TOLD = 3


class Search:
    """Sets aside what is damaged, and says so.

    A file that the filesystem does not give is not damaged: it may be whole, and readable in a
    minute. Its checkpoint is passed over, and nothing is renamed.
    """

    def __init__(self, store: Store, tell: Tell) -> None:
        self.store = store
        self.tell = tell
        # What could not be read, and why.
        self.unread: list[str] = []

    def on_branch(self, before: int | None = None, least: int = 0) -> list[Checkpoint]:
        """Those that count, of no step after `before` and none under `least`, oldest first."""
        begun = self.store.begun()
        folders = [
            folder
            for (step, segment), folder in self._folders()
            if counts(step, segment, begun) and least <= step and (before is None or step <= before)
        ]
        found = [made for folder in folders if (made := self._load(folder)) is not None]
        return sorted(found, key=lambda each: each.order)

    def good(self, before: int | None, least: int = 0) -> list[Checkpoint]:
        """Those of them that are good, newest first."""
        return [each for each in reversed(self.on_branch(before, least)) if each.is_good]

    def first_intact(self, candidates: Iterable[Checkpoint]) -> Checkpoint | None:
        """The first that is whole."""
        for found in candidates:
            try:
                wrong = manifest.damage(found)
                if wrong is None:
                    return found
                # Else not damaged, but deleted or renamed while we read it.
                is_there = (found.path / MANIFEST).exists()
            except OSError as error:
                self._pass_over(found.path, error)
                continue
            if is_there:
                self._set_aside(found, wrong)
        return None

    def chosen(self, candidates: Iterable[Checkpoint]) -> Checkpoint | None:
        """The first that is whole; None only where that is sure."""
        found = self.first_intact(candidates)
        if found is None:
            self.refuse_to_forget()
        return found

    def refuse_to_forget(self) -> None:
        """Nothing was found: what cannot be read now is no reason to begin anew."""
        if self.unread:
            more = len(self.unread) - TOLD
            named = [*self.unread[:TOLD], *([f"and {more} more"] if more > 0 else [])]
            raise HpckitError(
                f"no checkpoint to go on from can be read: {'; '.join(named)}",
                "they are left as they are, and nothing begins anew; when they can be read again, "
                "hpckit submit --from this run goes on from them",
            )

    def _folders(self) -> list[tuple[tuple[int, Segment], Path]]:
        try:
            return patiently(self.store.folder, lambda _: self.store.folders())
        except OSError as error:
            self.unread.append(unread(error))
            return []

    def _load(self, folder: Path) -> Checkpoint | None:
        try:
            return manifest.load(folder)
        except GONE:
            # Being written, or being deleted.
            return None
        except ValueError:
            nothing = Checkpoint(path=folder, step=0, segment=Segment(0, 0))
            self._set_aside(nothing, f"{MANIFEST} makes no sense")
        except OSError as error:
            self._pass_over(folder, error)
        return None

    def _pass_over(self, folder: Path, error: OSError) -> None:
        self.unread.append(f"{folder.name}: {unread(error)}")
        self.tell(f"checkpoint {folder.name} is passed over, and left as it is: {unread(error)}")

    def _set_aside(self, checkpoint: Checkpoint, wrong: str) -> None:
        name = checkpoint.name
        try:
            aside = manifest.set_aside(checkpoint)
        except OSError as error:
            reason = error.strerror or error
            self.tell(f"checkpoint {name} is damaged: {wrong}; it cannot be renamed: {reason}")
            return
        # Gone under our hands: deleted, or set aside and told by another process.
        if aside is not None:
            self.tell(f"checkpoint {name} is damaged: {wrong}; set aside as {aside.name}")

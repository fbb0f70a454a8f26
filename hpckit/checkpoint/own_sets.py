"""Checkpoints of programs that know nothing of hpckit: sets of files that carry the same step.

Such a program finds its newest checkpoint by itself, so going back to an older one means to move
what is newer out of its sight. Nothing is ever deleted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from hpckit.checkpoint.half import Look, look
from hpckit.checkpoint.manifest import GONE, patiently, unread
from hpckit.checkpoint.put_aside import FOLDER, put_aside
from hpckit.errors import HpckitError, UsageError
from hpckit.model.numbered import NumberedPath, counter_of, problem_with


@dataclass(frozen=True, kw_only=True)
class OwnSet:
    """All that a program saved at one step; paths are told from the working folder."""

    step: int
    # What the patterns name, in their order.
    paths: tuple[str, ...]
    # What is moved: files, or the folders that carry the step and have those files in them.
    tops: tuple[str, ...]
    # When the last of its files was written.
    when: float
    # Patterns that nothing of this step matches.
    missing: tuple[str, ...] = ()
    half: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return not self.missing and not self.half

    @property
    def problem(self) -> str:
        """Why it cannot be gone on from, or nothing."""
        told = [f"nothing matches {each}" for each in self.missing]
        return "; ".join([*told, *(f"{each} is half" for each in self.half)])


def as_argument(found: OwnSet | None) -> str:
    """What `{checkpoint}` stands for: the path that the first pattern names; empty for none."""
    return found.paths[0] if found is not None else ""


class OwnSets:
    """A program's checkpoints in its working folder, and the way back to one of them."""

    def __init__(self, work: Path, patterns: Sequence[str], moved_to: Path) -> None:
        if problem := _problem_with_all(patterns):
            raise UsageError(f"checkpoint.files: {problem}")
        self.work = work
        self.moved_to = moved_to
        # What the number in their names counts: step or epoch.
        self.counter = counter_of(patterns[0])
        self._patterns = [NumberedPath.parse(each) for each in patterns]

    @classmethod
    def of_run(cls, run_folder: Path, patterns: Sequence[str]) -> OwnSets:
        return cls(run_folder / "work", patterns, run_folder / FOLDER)

    def sets(self) -> list[OwnSet]:
        """All of them, whole or not, newest last."""
        by_step: dict[int, list[_Found]] = {}
        try:
            for found in self._found():
                by_step.setdefault(found.step, []).append(found)
        except OSError as error:
            # Who cannot look must not say that there is nothing, or that it is half.
            raise HpckitError(
                f"the program's checkpoints in {self.work} cannot be looked at: {unread(error)}",
                "nothing was moved",
            ) from error
        return [self._set(step, each) for step, each in sorted(by_step.items())]

    def newest(self, before: int | None = None, saved_before: float | None = None) -> OwnSet | None:
        """The newest whole set of no step after `before` that was all written before a time.

        The time stands beside the step as a program's numbers may count otherwise than its log's.
        """
        for found in reversed(self.sets()):
            is_old = before is None or found.step <= before
            was_saved = saved_before is None or found.when < saved_before
            if found.complete and is_old and was_saved:
                return found
        return None

    def named(self, argument: str) -> OwnSet:
        """The whole set of that path, as `{checkpoint}` has it."""
        for found in self.sets():
            if found.complete and as_argument(found) == argument:
                return found
        raise HpckitError(f"{argument} is not there any more, or not whole")

    def go_back(self, to: OwnSet | None, *, why: str) -> list[str]:
        """Leave no set newer than `to` in the program's sight; what was moved, newest first.

        Without one, all are moved, and the program begins anew. One that died while it moved is
        finished by the next.
        """
        going = [each for each in reversed(self.sets()) if _is_in_the_way(each, to)]
        about = {
            "why": why,
            "gone_on_from": as_argument(to) or None,
            "sets": [{"step": each.step, "paths": each.tops} for each in going],
        }
        return put_aside(self.work, [each.tops for each in going], self.moved_to, about)

    def _found(self) -> Iterator[_Found]:
        for pattern in self._patterns:
            folder = self._folder(pattern)
            for name in _names(folder):
                matched = pattern.match(name)
                # A link such as last.ckpt is another name of a set, or leads to somebody else's.
                if matched is not None and not os.path.islink(folder / name):
                    yield _looked_at(pattern, folder, name, *matched)

    def _folder(self, pattern: NumberedPath) -> Path:
        folder = self.work / pattern.folder
        real, work = os.path.realpath(folder), os.path.realpath(self.work)
        if os.path.commonpath([real, work]) != work:
            raise HpckitError(
                f"{folder} leads out of the working folder, to {real}: "
                "what the program saves there is not its run's alone",
                "have it save in a folder that is in the working folder and is no link",
            )
        return folder

    def _set(self, step: int, found: Sequence[_Found]) -> OwnSet:
        there = [each for each in found if each.look is not None]
        looks = [each.look for each in there if each.look is not None]
        named = {each.pattern for each in there}
        half = (path.relative_to(self.work) for each in looks for path in each.half)
        return OwnSet(
            step=step,
            paths=tuple(each.path for each in there),
            tops=_without_doubles(each.top for each in found),
            when=max((each.when for each in looks), default=0.0),
            missing=tuple(each.pattern for each in self._patterns if each.pattern not in named),
            half=_without_doubles(map(str, half)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What one pattern found at one step: the name that carries the step, and what is in it."""

    step: int
    pattern: str
    top: str
    path: str
    # None where the name is there, and what the pattern wants in it is not.
    look: Look | None


def _looked_at(pattern: NumberedPath, folder: Path, name: str, step: int, below: str) -> _Found:
    seen = None
    # A link further down may lead anywhere.
    if not any(os.path.islink(folder / each) for each in PurePath(below).parents):
        with contextlib.suppress(*GONE):
            seen = patiently(folder / below, look)
    return _Found(
        step=step,
        pattern=pattern.pattern,
        top=os.path.join(pattern.folder, name),
        path=os.path.join(pattern.folder, below),
        look=seen,
    )


def _is_in_the_way(found: OwnSet, to: OwnSet | None) -> bool:
    """Whether the program could trip over it.

    An older one from which something is missing stays: programs thin out their own checkpoints.
    """
    return to is None or found.step > to.step or bool(found.half)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(patiently(folder, os.listdir))
    except GONE:
        return []


def _problem_with_all(patterns: Sequence[str]) -> str | None:
    for pattern in patterns:
        if problem := problem_with(pattern):
            return f"{pattern} {problem}"
    counters = sorted({counter_of(each) for each in patterns})
    if len(counters) == 1:
        return None
    return "needs a pattern such as cp/g_{step}" if not counters else "counts steps and epochs"


def _without_doubles(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))

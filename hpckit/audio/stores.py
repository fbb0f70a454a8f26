"""Where the samples of a training's sounds are: in memory, or on the disk until they are asked for.

Both give the same samples for the same question.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from hpckit.audio import reading
from hpckit.audio.generated import generate
from hpckit.audio.origins import Origin
from hpckit.audio.reading import Head, Unusable, length, resampled, step_of
from hpckit.errors import HpckitError

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One sound that can be used; `samples` are at the wanted rate."""

    origin: Origin
    samples: int
    # Crops begin at multiples of it, where the file has a frame as well.
    step: int = 1


class Store(Protocol):
    def read(self, number: int, start: int, count: int) -> Tensor: ...


class Memory:
    """All sounds one after the other in one tensor, which a loader's workers share."""

    def __init__(self, room: int) -> None:
        self.pool = torch.empty(room)
        self.starts = [0]

    def append(self, sound: Tensor) -> None:
        end = self.starts[-1] + len(sound)
        self.pool[self.starts[-1] : end] = sound
        self.starts.append(end)

    def read(self, number: int, start: int, count: int) -> Tensor:
        first = self.starts[number] + start
        return self.pool[first : first + count].clone()


class Disk:
    """Each sound in its file."""

    def __init__(self, clips: Sequence[Clip], rate: int) -> None:
        self.clips = clips
        self.rate = rate

    def read(self, number: int, start: int, count: int) -> Tensor:
        path = _path(self.clips[number].origin)
        try:
            found = reading.part(path, self.rate, start, count)
        except Unusable as error:
            raise HpckitError(f"{path}: cannot be read any more") from error
        if len(found) < count:
            raise HpckitError(f"{path}: shorter than it was when the training began")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """What became of a source's sounds."""

    store: Store
    clips: list[Clip]
    # By reason, the names of those that were left out.
    left_out: dict[str, list[str]]


def generated(chosen: Sequence[Origin], *, rate: int, seconds: float, seed: int) -> Loaded:
    """Sounds that are made here and now."""
    samples = max(1, round(seconds * rate))
    store = Memory(len(chosen) * samples)
    for origin in chosen:
        made = generate(origin.number, rate=rate, seconds=seconds, seed=seed)
        store.append(torch.from_numpy(made))
    clips = [Clip(origin=origin, samples=samples) for origin in chosen]
    return Loaded(store=store, clips=clips, left_out={})


def load(chosen: Sequence[Origin], *, rate: int, crop: int, memory_gb: float) -> Loaded:
    """Look through every file; keep the samples where all of them fit, at four bytes each."""
    left_out: dict[str, list[str]] = {}

    def usable(look: Callable[[Origin], Result], origins: Iterable[Origin]) -> Iterator[Result]:
        for origin, found in _parallel(look, origins):
            if isinstance(found, Unusable):
                left_out.setdefault(str(found), []).append(origin.name)
            else:
                yield found

    def clip_of(origin: Origin, head: Head, frames: int) -> Clip:
        samples = length(frames, head.rate, rate)
        if samples < crop:
            raise Unusable("too short")
        return Clip(origin=origin, samples=samples, step=step_of(head.rate, rate))

    def by_its_head(origin: Origin) -> tuple[Clip, Head]:
        head = reading.head(_path(origin))
        return clip_of(origin, head, head.frames), head

    def looked_at(origin: Origin) -> Clip:
        return clip_of(origin, heads[origin], reading.looked_at(_path(origin), heads[origin]))

    def whole(origin: Origin) -> tuple[Clip, Tensor]:
        sound = reading.whole(_path(origin), heads[origin])
        return clip_of(origin, heads[origin], len(sound)), resampled(
            sound, heads[origin].rate, rate
        )

    found = list(usable(by_its_head, chosen))
    heads = {clip.origin: head for clip, head in found}
    room = sum(clip.samples for clip, _ in found)
    if room * 4 > memory_gb * 1e9:
        clips = list(usable(looked_at, heads))
        return Loaded(store=Disk(clips, rate), clips=clips, left_out=left_out)
    store, clips = Memory(room), []
    for clip, sound in usable(whole, heads):
        store.append(sound)
        clips.append(clip)
    return Loaded(store=store, clips=clips, left_out=left_out)


def _path(origin: Origin) -> Path:
    assert origin.path is not None
    return origin.path


def _parallel(
    look: Callable[[Origin], Result], origins: Iterable[Origin]
) -> Iterator[tuple[Origin, Result | Unusable]]:
    """Each with what a look at it found, in order; libsndfile works outside Python's lock."""

    def at(origin: Origin) -> tuple[Origin, Result | Unusable]:
        try:
            return origin, look(origin)
        except Unusable as error:
            return origin, error

    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        yield from pool.map(at, origins)

"""Sounds to train on: crops of one length from real speech, from a folder, or from nowhere.

    train = sounds("speech", rate=16_000, seconds=2.0)
    valid = sounds("speech", rate=16_000, seconds=2.0, part="validation")

A crop is a float32 tensor, mono, as loud as it was recorded. Which crop an index gives depends on
the seed, the epoch and the index, and on nothing that happened before: a training that is resumed
sees what it would have seen. `hpckit.attach()`'s loop tells the dataset its epoch; elsewhere call
`set_epoch`. The crops of the validation are the same in every epoch, side by side.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hpckit.audio.origins import Origin, origins
from hpckit.audio.split import Part, number_of, validation
from hpckit.audio.stores import Clip, Loaded, Store, generated, load
from hpckit.errors import NotFound, UsageError
from hpckit.paint import harmless

# What is generated is at least as long.
GENERATED_S = 2.0
NAMED = 3


def sounds(
    source: str | Path,
    *,
    rate: int,
    seconds: float,
    part: Part = "train",
    share: float = 0.1,
    split: Literal["file", "speaker"] = "file",
    seed: int = 0,
    memory_gb: float = 2.0,
    clips: int = 200,
) -> Sounds:
    """The crops of `source`: "speech" (see `hpckit data`), "generated", or a folder of sound files.

    `share` of the files, or of the speakers, is for validation; a speaker of a folder is the folder
    that a file lies in. `clips` is how many are generated. What needs more than `memory_gb` stays
    on the disk. Files that cannot be used are left out, with one warning.
    """
    crop = round(rate * seconds)
    _refuse_nonsense(rate=rate, crop=crop, part=part, share=share, split=split, clips=clips)
    every = origins(source, clips)
    chosen = _of_part(every, part, share, split)
    if not chosen:
        more = "a second speaker, or split: file" if split == "speaker" else "a second sound"
        hint = f"a validation needs a share above 0, and {more}"
        raise NotFound(f"{source}: nothing of its {len(every)} sounds is for {part}", hint)
    if source == "generated":
        found = generated(chosen, rate=rate, seconds=max(seconds, GENERATED_S), seed=seed)
    else:
        found = load(chosen, rate=rate, crop=crop, memory_gb=memory_gb)
    _tell_left_out(found, str(source), seconds)
    return Sounds(found.store, found.clips, rate=rate, crop=crop, seed=seed, moving=part == "train")


class Sounds(Dataset[Tensor]):
    """Crops of one length: of each sound as many as fit into it side by side."""

    def __init__(
        self, store: Store, clips: Sequence[Clip], *, rate: int, crop: int, seed: int, moving: bool
    ) -> None:
        self.store = store
        self.clips = list(clips)
        self.rate = rate
        self.crop = crop
        self.seed = seed
        self.moving = moving
        self._ends = list(accumulate(clip.samples // crop for clip in self.clips))
        # Shared, since a loader's workers may live on over several epochs.
        self._epoch: Tensor = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Have the crops moved to where they are in this epoch."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Tensor:
        if not -len(self) <= index < len(self):
            raise IndexError(f"crop {index} of {len(self)}")
        index %= len(self)
        number = self.clip_of(index)
        return self.store.read(number, self._start(number, index), self.crop)

    def clip_of(self, index: int) -> int:
        """The number of the clip, in `clips`, that this index is a crop of."""
        return bisect_right(self._ends, index)

    def whole(self, number: int) -> Tensor:
        """One clip from its beginning to its end, as scores want it."""
        return self.store.read(number, 0, self.clips[number].samples)

    def _start(self, number: int, index: int) -> int:
        clip = self.clips[number]
        if not self.moving:
            before = self._ends[number - 1] if number else 0
            return (index - before) * self.crop // clip.step * clip.step
        places = (clip.samples - self.crop) // clip.step + 1
        return number_of(self.seed, self._epoch.item(), index) % places * clip.step


def _refuse_nonsense(
    *, rate: int, crop: int, part: str, share: float, split: str, clips: int
) -> None:
    wrong = {
        "rate": (rate, rate > 0, "samples a second, as 16000"),
        "seconds": (crop / max(rate, 1), crop > 0, "longer than one sample"),
        "part": (part, part in ("train", "validation"), "'train' or 'validation'"),
        "share": (share, 0 <= share < 1, "from 0 to below 1"),
        "split": (split, split in ("file", "speaker"), "'file' or 'speaker'"),
        "clips": (clips, clips > 0, "above 0"),
    }
    for name, (value, is_right, valid) in wrong.items():
        if not is_right:
            raise UsageError(f"sounds: {name} is {value!r}; it has to be {valid}")


def _of_part(every: Sequence[Origin], part: Part, share: float, split: str) -> list[Origin]:
    groups = [origin.speaker if split == "speaker" else origin.name for origin in every]
    held_out = validation(groups, share)
    is_wanted = part == "validation"
    return [origin for place, origin in enumerate(every) if (place in held_out) == is_wanted]


def _tell_left_out(found: Loaded, source: str, seconds: float) -> None:
    reasons = _reasons(found.left_out, seconds)
    if not found.clips:
        raise NotFound(f"{harmless(source)}: no sound that can be used: {reasons}")
    if reasons:
        warnings.warn(f"{harmless(source)}: left out {reasons}", stacklevel=3)


def _reasons(left_out: Mapping[str, Sequence[str]], seconds: float) -> str:
    return "; ".join(
        f"{len(names)} {_reason(reason, seconds)} ({_some(names)})"
        for reason, names in sorted(left_out.items())
    )


def _reason(reason: str, seconds: float) -> str:
    return f"shorter than {seconds:g} s" if reason == "too short" else reason


def _some(names: Sequence[str]) -> str:
    shown = [harmless(name) for name in names[:NAMED]]
    return ", ".join(shown) + (f", and {len(names) - NAMED} more" if len(names) > NAMED else "")

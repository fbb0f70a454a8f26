"""Files of sound, read as they are found: mono, at the wanted rate, and looked at for faults."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpckit.errors import HpckitError

# A sound that never leaves this is silent: -80 dB, where 16 bits have three steps left.
SILENCE = 1e-4
# Far more than the filter of a resampling looks at.
MARGIN_S = 0.01
BLOCK_FRAMES = 1 << 20


class Unusable(Exception):
    """A sound that is left out; the text is the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What a file says of itself; it may hold less."""

    frames: int
    rate: int


def head(path: Path) -> Head:
    with _opened(path) as file:
        return Head(frames=file.frames, rate=file.samplerate)


def looked_at(path: Path, head: Head) -> int:
    """How many frames there are, once all of them turned out to be usable."""
    with _opened(path) as file:
        return sum(map(len, _sane(file, head.frames)))


def whole(path: Path, head: Head) -> Tensor:
    """A usable file's frames, as they are."""
    with _opened(path) as file:
        return torch.cat(list(_sane(file, head.frames)))


def part(path: Path, rate: int, start: int, count: int) -> Tensor:
    """What stands at this place of the resampled whole, from these frames of the file alone."""
    with _opened(path) as file:
        # So many frames of the file last as long as so many samples at the wanted rate.
        block, step = _block(file.samplerate, rate), step_of(file.samplerate, rate)
        first = start // step
        margin = min(first, math.ceil(MARGIN_S * rate / step))
        blocks = (
            margin + math.ceil((start % step + count) / step) + math.ceil(MARGIN_S * rate / step)
        )
        file.seek((first - margin) * block)
        frames = torch.cat(list(_blocks(file, blocks * block)))
        sound = resampled(frames, file.samplerate, rate)
    begin = margin * step + start % step
    return sound[begin : begin + count]


def length(frames: int, file_rate: int, rate: int) -> int:
    """How many samples so many frames are once they are resampled."""
    return -(-frames * rate // file_rate)


def step_of(file_rate: int, rate: int) -> int:
    """Of how many samples at the wanted rate one coincides with a frame of the file."""
    return rate // math.gcd(file_rate, rate)


def _block(file_rate: int, rate: int) -> int:
    return file_rate // math.gcd(file_rate, rate)


def resampled(sound: Tensor, file_rate: int, rate: int) -> Tensor:
    """The sound at another rate, without what that rate cannot hold."""
    if file_rate == rate:
        return sound
    from torchaudio.functional import resample

    found: Tensor = resample(sound, file_rate, rate)
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    soundfile = _soundfile()
    try:
        with soundfile.SoundFile(path) as file:
            yield file
    except (soundfile.SoundFileError, OSError) as error:
        raise Unusable("unreadable") from error


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        hint = "pip install 'hpckit[audio]'"
        raise HpckitError(f"reading sound files needs soundfile: {error}", hint) from error
    return soundfile


def _sane(file: Any, frames: int) -> Iterator[Tensor]:
    """The blocks of a file, of which none has a NaN and not all are silent."""
    peak = 0.0
    for block in _blocks(file, frames):
        highest = block.abs().max().item()
        if not math.isfinite(highest):
            raise Unusable("not finite")
        peak = max(peak, highest)
        yield block
    if peak < SILENCE:
        raise Unusable("silent")


def _blocks(file: Any, frames: int) -> Iterator[Tensor]:
    """A file's next frames as mono; fewer where its head promised more than there is."""
    while frames > 0:
        block = torch.from_numpy(file.read(min(frames, BLOCK_FRAMES), "float32", always_2d=True))
        if len(block) == 0:
            return
        frames -= len(block)
        yield block.mean(1)

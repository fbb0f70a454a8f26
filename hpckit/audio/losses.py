"""Losses between sounds: any device, float32 under autocast, finite gradients at digital silence.

Time is the last dimension. What ends in `_loss`, and the modules, give one number; the others give
one value a sound. A loss goes to zero where `estimate` is like `target`, but for `si_sdr`, which is
a score in decibels, and `correlation`.

Silence is why each has a floor: the slope of a root, of a logarithm or of a division grows without
limit where its argument goes to zero, and a generator that begins with near silence goes there.
The floors are added rather than clamped to, so that the gradient below them is small, not gone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

# Of power in one bin of a spectrum: its root, 3e-4, is a tone of amplitude 1e-6 in 1024 samples.
POWER_FLOOR = 1e-7
# Windows of the three spectra of Parallel WaveGAN: size of the transform, hop, window.
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))

P = ParamSpec("P")
R = TypeVar("R")


def in_float32(function: Callable[P, R]) -> Callable[P, R]:
    """Work outside autocast, on float32: a power or a sum of squares does not fit into 16 bits."""

    @functools.wraps(function)
    def at_full_precision(*args: P.args, **kwargs: P.kwargs) -> R:
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(
                *(_widened(each) for each in args),  # type: ignore[arg-type]
                **{name: _widened(each) for name, each in kwargs.items()},  # type: ignore[arg-type]
            )

    return at_full_precision


def _widened(value: object) -> object:
    is_half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if is_half else value  # type: ignore[attr-defined]


# Levels.


@in_float32
def rms(sound: Tensor, *, floor: float = 1e-4) -> Tensor:
    """The root of a sound's mean square: sqrt(mean(x^2) + floor^2), the floor within the root."""
    return torch.sqrt(sound.square().mean(-1) + floor**2)


@in_float32
def rms_loss(estimate: Tensor, target: Tensor, *, floor: float = 1e-4) -> Tensor:
    """How far the levels are apart: mean |rms(estimate) - rms(target)|."""
    return (rms(estimate, floor=floor) - rms(target, floor=floor)).abs().mean()


@in_float32
def envelope(sound: Tensor, *, window: int = 1024, hop: int = 256) -> Tensor:
    """How a sound's level moves: the mean of |x| in windows; a shorter sound is one window."""
    window = min(window, sound.shape[-1])
    return sound.abs().unfold(-1, window, hop).mean(-1)


@in_float32
def envelope_loss(
    estimate: Tensor, target: Tensor, *, window: int = 1024, hop: int = 256
) -> Tensor:
    """How far the envelopes are apart: the mean of their absolute difference."""
    shape = {"window": window, "hop": hop}
    return (envelope(estimate, **shape) - envelope(target, **shape)).abs().mean()


@in_float32
def balance(first: Tensor, second: Tensor, *, floor: float = 1e-3) -> Tensor:
    """How unequal two amounts are: |a - b| / (a + b + floor), 0 for equal ones, 1 for one alone."""
    return (first - second).abs() / (first + second + floor)


# Likeness.


@in_float32
def correlation(first: Tensor, second: Tensor, *, floor: float = 1e-3) -> Tensor:
    """Pearson's r = cov / (s1 s2), where s = sqrt(variance + floor^2): near silence it goes to 0.

    Its gradient is at most about 1/floor; without a floor it is 1/s, a million for s of 1e-6.
    """
    first = first - first.mean(-1, keepdim=True)
    second = second - second.mean(-1, keepdim=True)
    spread = [torch.sqrt(each.square().mean(-1) + floor**2) for each in (first, second)]
    return (first * second).mean(-1) / (spread[0] * spread[1])


@in_float32
def correlation_penalty(
    r: Tensor, *, form: Literal["tangent", "log"] = "tangent", limit: float | None = None
) -> Tensor:
    """The price of two sounds' likeness, -ln(1 - |r|), up to a limit of |r|, and what comes after.

    `tangent` (limit 0.9) goes on straight with the slope 1/(1 - limit). `log` (limit 0.999) stays
    where it is, which is how it is often written: no gradient is left where it is needed most.
    """
    if limit is None:
        limit = 0.9 if form == "tangent" else 0.999
    size = r.abs()
    price = -torch.log1p(-size.clamp(max=limit))
    if form == "log":
        return price
    return price + torch.relu(size - limit) / (1 - limit)


@in_float32
def si_sdr(estimate: Tensor, target: Tensor, *, floor: float = 1e-5) -> Tensor:
    """Scale-invariant ratio of signal to distortion in dB, both without their means.

    10 log10 of (mean (a t)^2 + floor^2) / (mean (e - a t)^2 + floor^2), a = <e, t> / <t, t>.
    """
    estimate = estimate - estimate.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    power = target.square().mean(-1, keepdim=True) + floor**2
    part = (estimate * target).mean(-1, keepdim=True) / power * target
    signal = part.square().mean(-1) + floor**2
    distortion = (estimate - part).square().mean(-1) + floor**2
    return 10 / math.log(10) * (torch.log(signal) - torch.log(distortion))


# Spectra.


@in_float32
def magnitude(sound: Tensor, window: Tensor, *, n_fft: int, hop: int) -> Tensor:
    """The magnitudes of a short-time spectrum, (..., frequency, time): sqrt(power + 1e-7)."""
    flat = sound.reshape(-1, sound.shape[-1])
    # Padded by zeros, which a sound of any length allows; a reflection needs n_fft / 2 samples.
    spectrum = torch.stft(
        flat,
        n_fft,
        hop,
        win_length=window.numel(),
        window=window.to(flat.dtype),
        pad_mode="constant",
        return_complex=True,
    )
    size = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + POWER_FLOOR)
    return size.reshape(*sound.shape[:-1], *size.shape[-2:])


def spectral_convergence(estimate: Tensor, target: Tensor) -> Tensor:
    """How far magnitudes are apart, of the target's whole: |T - E| / |T|, over all of a batch.

    Over all of it, since one silent target by itself would outweigh all others.
    """
    ratio: Tensor = torch.linalg.vector_norm(target - estimate) / torch.linalg.vector_norm(target)
    return ratio


class MultiResolutionSTFT(nn.Module):
    """A distance of spectra, averaged over several sizes of their window.

    `log` is spectral convergence + mean |ln T - ln E|; `linear` is mean |T - E|, which listens to
    what is loud, and has no steep place.
    """

    def __init__(
        self,
        resolutions: tuple[tuple[int, int, int], ...] = RESOLUTIONS,
        *,
        form: Literal["log", "linear"] = "log",
    ) -> None:
        super().__init__()
        self.resolutions = resolutions
        self.form = form
        for number, (_, _, length) in enumerate(resolutions):
            self.register_buffer(f"window_{number}", torch.hann_window(length), persistent=False)

    @in_float32
    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        parts = []
        for number, (n_fft, hop, _) in enumerate(self.resolutions):
            window = self.get_buffer(f"window_{number}")
            pair = [magnitude(each, window, n_fft=n_fft, hop=hop) for each in (estimate, target)]
            parts.append(self._distance(*pair))
        return torch.stack(parts).mean()

    def _distance(self, estimate: Tensor, target: Tensor) -> Tensor:
        if self.form == "linear":
            return (estimate - target).abs().mean()
        apart = (torch.log(estimate) - torch.log(target)).abs().mean()
        return spectral_convergence(estimate, target) + apart


class LogMel(nn.Module):
    """The logarithm of a sound's mel spectrum, (..., mels, time): ln(filters |STFT| + floor)."""

    filters: Tensor
    window: Tensor

    def __init__(
        self,
        rate: int,
        *,
        n_fft: int = 1024,
        hop: int = 256,
        mels: int = 80,
        low_hz: float = 0.0,
        high_hz: float | None = None,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        # Whoever needs no mel does not wait for torchaudio.
        from torchaudio.functional import melscale_fbanks

        self.n_fft, self.hop, self.floor = n_fft, hop, floor
        filters = melscale_fbanks(
            n_fft // 2 + 1,
            low_hz,
            high_hz or rate / 2,
            mels,
            rate,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    @in_float32
    def forward(self, sound: Tensor) -> Tensor:
        size = magnitude(sound, self.window, n_fft=self.n_fft, hop=self.hop)
        return torch.log(self.filters.to(size.dtype) @ size + self.floor)


class MelL1(nn.Module):
    """How far two sounds' logarithmic mel spectra are apart: the mean absolute difference."""

    def __init__(self, mel: LogMel) -> None:
        super().__init__()
        self.mel = mel

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        apart: Tensor = self.mel(estimate) - self.mel(target)
        return apart.abs().mean()

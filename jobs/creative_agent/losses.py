"""What the creative agent is trained for: near to both sounds, as near to the one as to the other,
and no copy of how the target swells, sets in and brightens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hpckit.audio.losses import (
    LogMel,
    MelL1,
    MultiResolutionSTFT,
    correlation,
    correlation_penalty,
    envelope,
    magnitude,
    rms,
)

# As they were at first.
WEIGHTS = {"rms": 0.3, "stft": 0.1, "mel": 0.1, "balance": 15, "correlation": 0.5}


class MixingLoss(nn.Module):
    """The components of the loss by name, each with its weight already."""

    def __init__(
        self,
        *,
        rate: int,
        weights: dict[str, float],
        resolutions: Sequence[Sequence[int]],
        mels: int,
        form: Literal["log", "tangent"] = "tangent",
        limit: float | None = None,
        floor: float = 1e-3,
    ) -> None:
        """`form`, `limit` and `floor` are the correlation penalty's: see hpckit.audio.losses."""
        super().__init__()
        self.weights = weights
        self.form, self.limit, self.floor = form, limit, floor
        sizes = tuple((size, hop, window) for size, hop, window in resolutions)
        self.spectra = MultiResolutionSTFT(sizes)
        n_fft, self.hop, self.window = sizes[len(sizes) // 2]
        self.n_fft = n_fft
        self.mel = MelL1(LogMel(rate, n_fft=n_fft, hop=self.hop, mels=mels))
        self.register_buffer("taper", torch.hann_window(self.window), persistent=False)

    def forward(self, mixed: Tensor, sound: Tensor, target: Tensor) -> dict[str, Tensor]:
        of = self.weights
        to_sound, to_target = rms(mixed - sound), rms(mixed - target)
        apart = (to_sound - to_target) / (rms(sound) + rms(target))
        parts = {
            "rms_sound": of["rms"] * to_sound.mean(),
            "rms_target": of["rms"] * to_target.mean(),
            "stft": of["stft"] / 2 * (self.spectra(mixed, sound) + self.spectra(mixed, target)),
            "mel": of["mel"] / 2 * (self.mel(mixed, sound) + self.mel(mixed, target)),
            "balance": of["balance"] * apart.square().mean(),
        }
        for name, curve in self.curves(mixed).items():
            r = correlation(curve, self.curves(target)[name], floor=self.floor)
            penalty = correlation_penalty(r, form=self.form, limit=self.limit).mean()
            parts[f"correlation_{name}"] = of["correlation"] / 3 * penalty
        return parts

    def curves(self, sound: Tensor) -> dict[str, Tensor]:
        """How a sound moves: its swell, what sets in, and how bright it is."""
        swell = envelope(sound, window=self.window, hop=self.hop)
        sizes = magnitude(sound, self.taper, n_fft=self.n_fft, hop=self.hop)
        heights = torch.linspace(0, 1, sizes.shape[-2], device=sizes.device)[:, None]
        bright = (sizes * heights).sum(-2) / sizes.sum(-2)
        return {"swell": swell, "onset": torch.relu(swell.diff()), "brightness": bright}


def judged_as_real(says: Tensor) -> Tensor:
    """Least squares: 0 where a discriminator takes it for a sound."""
    return (says - 1).square().mean()


def judged_as_mixed(says: Tensor) -> Tensor:
    return says.square().mean()

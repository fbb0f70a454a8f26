"""Which kinds a detector is tuned on and which it is tested on: whole kinds, never single runs."""

from __future__ import annotations

from typing import Literal

Families = Literal["tune", "test", "all"]

SHARED = ("mlp", "gpt", "rnn", "gan")
TUNE_MODELS = ("conv_bn", "char_lstm", "vae", "denoiser", "embedding")
TEST_MODELS = ("encoder", "sn_gan", "res_mlp", "speech", "reinforce", "half_net")
TUNE_SYNTHETIC = ("steady", "decay", "spiky", "levels", "growth", "float16")
TEST_SYNTHETIC = ("heavy", "bursts", "periodic", "oscillating", "quantised", "phases")

TUNE = (*SHARED, *TUNE_MODELS, *TUNE_SYNTHETIC)
TEST = (*TEST_MODELS, *TEST_SYNTHETIC)


def chosen(families: Families) -> tuple[str, ...]:
    """The families of a half, or all."""
    return {"tune": TUNE, "test": TEST, "all": (*TUNE, *TEST)}[families]

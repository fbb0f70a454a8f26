"""Scripts of Lightning and Hugging Face that know nothing of hpckit, nor have its callback."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from tests.integrations.watching import Watching

SETTINGS: dict[str, dict[str, Any]] = {
    # They clip by themselves, and accumulate.
    "lit": {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2},
    "face": {"max_grad_norm": 0.5, "gradient_accumulation_steps": 2},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_frameworks_script_is_watched_unedited(watching: Watching, name: str) -> None:
    pytest.importorskip("pytorch_lightning" if name == "lit" else "transformers")
    framework: Any = importlib.import_module(f"tests.integrations.{name}")
    settings = SETTINGS[name]
    _, alone = framework.train(watching.folder, **settings)
    watching.begin()
    trainer, inside = framework.train(watching.folder, **settings)
    assert inside.losses == alone.losses
    assert framework.steps_of(trainer) == 20
    one, other = inside.state_dict(), alone.state_dict()
    assert all(torch.equal(one[each], other[each]) for each in one)
    readings = watching.readings()
    assert [each.step for each in readings] == list(range(20))
    names = {each for each, _ in inside.named_parameters()}
    assert set(readings[0].parameters["main"]) == names
    # The norm of before the framework clipped, and the loss of one step, of two batches.
    for at, reading in enumerate(readings):
        norm, factor = reading.values["grad/norm/main"], reading.values["grad/clip/main"]
        assert norm > 0.5
        assert factor == pytest.approx(0.5 / norm, rel=1e-3)
        mean = sum(inside.losses[2 * at : 2 * at + 2]) / 2
        # Both frameworks divide a loss by the number of batches.
        assert 2 * reading.values["train/loss"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_frameworks_bad_batch_is_held_back(watching: Watching, name: str) -> None:
    pytest.importorskip("pytorch_lightning" if name == "lit" else "transformers")
    framework: Any = importlib.import_module(f"tests.integrations.{name}")
    watching.begin()
    _, inside = framework.train(watching.folder, disturb={"nan": 20})
    assert all(torch.isfinite(each).all() for each in inside.state_dict().values())
    gated = watching.values("grad/gated/main")
    assert gated == [0.0] * 19 + [1.0] + [0.0] * 20

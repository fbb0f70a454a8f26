"""The creative agent: its model, its losses, what was true of its explosion, its two stories."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from hpckit.spec import load_spec

JOB = Path(__file__).parents[2] / "jobs" / "creative_agent"
BLAMED = "cascade_stages.2.output_proj.weight"
TINY = {"hop": 32, "latent": 32, "width": 48, "layers": 1, "heads": 4, "stage_width": 48}


@pytest.fixture(scope="module")
def job() -> Iterator[SimpleNamespace]:
    """The job's modules, which find each other by the folder they lie in."""
    names = ("amplifier", "losses", "model")
    sys.path.insert(0, str(JOB))
    before = {name: sys.modules.pop(name, None) for name in names}
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(JOB))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if isinstance(module, ModuleType):
                sys.modules[name] = module


def params(spec: str, *changes: str) -> dict[str, Any]:
    found: dict[str, Any] = load_spec(JOB / spec, changes, ()).to_json()["params"]
    return found


def tiny(job: SimpleNamespace, agent: str = "composer", **cascade: Any) -> Any:
    torch.manual_seed(0)
    return job.model.CreativeAgent(job.model.Size(agent=agent, stage_layers=1, **TINY), **cascade)


def loss_of(job: SimpleNamespace, given: dict[str, Any]) -> Any:
    rate = {"rate": given["data"]["rate"], "weights": given["loss"], **given["spectra"]}
    return job.losses.MixingLoss(**rate, **given["penalty"])


def two_sounds(length: int = 2048) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sound, target = torch.randn(2, 4, length, generator=generator)
    return sound, target * torch.linspace(0.2, 1, length)


@pytest.mark.parametrize("agent", ["mask", "composer"])
@pytest.mark.parametrize("length", [2048, 2000])
def test_a_mix_is_as_long_as_the_sounds_it_is_made_of(job, agent, length):
    mixed = tiny(job, agent)(*two_sounds(length))
    assert (4, length) == mixed.shape
    assert mixed.isfinite().all()


@pytest.mark.parametrize(("agent", "millions"), [("mask", 21.0), ("composer", 35.7)])
def test_the_papers_size_is_the_default(job, agent, millions):
    given = params("job.yaml")["size"] | {"agent": agent}
    made = job.model.CreativeAgent(job.model.Size(**given))
    default = job.model.CreativeAgent(job.model.Size(agent=agent))
    assert millions == round(sum(p.numel() for p in made.parameters()) / 1e6, 1)
    shapes = [{n: p.shape for n, p in each.named_parameters()} for each in (made, default)]
    assert shapes[0] == shapes[1]


def test_encoder_and_decoder_lose_nothing_before_they_are_trained(job):
    model = tiny(job)
    sound, _ = two_sounds()
    heard = model.decoder(model.encoder(sound))
    assert torch.allclose(sound[:, 64:-64], heard[:, 64:-64], atol=1e-4)


def test_each_part_of_the_loss_has_a_name_and_its_weight(job):
    given = params("tiny.yaml")
    loss = loss_of(job, given)
    parts = loss(torch.zeros(4, 2048), *two_sounds())
    assert set(parts) == {
        *("rms_sound", "rms_target", "stft", "mel", "balance"),
        *("correlation_swell", "correlation_onset", "correlation_brightness"),
    }
    sound, _ = two_sounds()
    assert 0.3 * sound.square().mean(-1).sqrt().mean() == pytest.approx(
        float(parts["rms_sound"]), rel=1e-3
    )


@pytest.mark.parametrize("spec", ["tiny.yaml", "incident.yaml"])
def test_silence_has_a_finite_gradient(job, spec):
    loss = loss_of(job, params(spec))
    mixed = torch.zeros(4, 2048, requires_grad=True)
    sum(loss(mixed, *two_sounds()).values()).backward()
    assert mixed.grad.isfinite().all()


def norm_of_a_shrunk_stage(job: SimpleNamespace, *changes: str) -> float:
    """The gradient norm where the last projection is a millionth of what it was."""
    given = params("incident.yaml", *changes)
    model = tiny(job, **given["cascade"])
    with torch.no_grad():
        model.cascade_stages[-1].output_proj.weight *= 1e-6
        model.cascade_stages[-1].output_proj.bias *= 1e-6
    sound, target = two_sounds()
    sum(loss_of(job, given)(model(sound, target), sound, target).values()).backward()
    norms = [each.grad.norm() for each in model.parameters() if each.grad is not None]
    return float(torch.stack(norms).norm())


def test_the_fix_that_was_made_leaves_the_amplifier_and_the_right_fix_takes_it_away(job):
    compare = importlib.import_module("jobs.creative_agent.compare")
    found = {name: norm_of_a_shrunk_stage(job, *each) for name, each in compare.SETTINGS.items()}
    assert found["as it was"] > 1e5
    assert found["the fix that was made"] > 0.1 * found["as it was"]
    assert found["the right fix"] < 100


class TestAmplifier:
    def test_small_updates_leave_the_weight_alone(self, job):
        weight = torch.ones(4, 4)
        amplifier = job.amplifier.Amplifier(weight, trust=0.01, power=0.02)
        before, moved = weight.clone(), weight * 1.001
        amplifier.scale(moved, before)
        # Not larger than at first, either.
        assert torch.allclose(before, moved)

    def test_large_ones_make_it_smaller_the_larger_the_more(self, job):
        sizes = []
        for share in (0.02, 0.2):
            weight = torch.ones(4, 4)
            amplifier = job.amplifier.Amplifier(weight, trust=0.01, power=0.1)
            moved = weight * (1 + share)
            amplifier.scale(moved, weight.clone())
            sizes.append(float(moved.norm()))
        assert 4 > sizes[0] > sizes[1]
        assert pytest.approx(sizes[0], rel=1e-5) == 4 * 0.5**0.1

    def test_an_update_that_was_held_back_counts_for_nothing(self, job):
        weight = torch.ones(4, 4)
        amplifier = job.amplifier.Amplifier(weight, trust=1e-9, power=0.1, after=1)
        amplifier.scale(weight, weight.clone())
        assert int(amplifier.updates) == 0
        assert float(weight.norm()) == 4

    def test_what_it_knows_is_state(self, job):
        weight = torch.ones(4, 4)
        one, other = (
            job.amplifier.Amplifier(weight * size, trust=0.01, power=0.1) for size in (1, 3)
        )
        one.scale(weight * 1.5, weight)
        other.load_state_dict(one.state_dict())
        assert (int(other.updates), float(other.size)) == (1, 4)


def test_the_incident_differs_from_what_is_whole_by_its_three_settings_only():
    whole, incident, structural = (
        params(f"{name}.yaml") for name in ("tiny", "incident", "structural")
    )
    changed = {key for key in whole if whole[key] != incident[key]}
    assert {"cascade", "penalty", "amplifier"} == changed
    assert {"amplifier"} == {key for key in whole if incident[key] != structural[key]}


def run(spec: str, root: Path) -> tuple[int, dict[str, Any]]:
    hpckit = [sys.executable, "-m", "hpckit"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*hpckit, "run", spec, "--root", str(root)], cwd=JOB, env=environ, capture_output=True
    )
    shown = subprocess.run([*hpckit, "show", "--root", str(root), "--json"], capture_output=True)
    return done.returncode, json.loads(shown.stdout)


def test_the_incident_is_told_in_epoch_2_acted_on_in_epoch_3_and_healed(tmp_path):
    code, told = run("incident.yaml", tmp_path)
    assert (code, told["state"]) == (0, "done")
    epoch = 253
    first_sign = next(e for e in told["incidents"] if e["parameter"] == BLAMED)
    acted = [each for each in told["incidents"] if each["plan"] == "rollback"]
    assert epoch <= first_sign["step"] < 2 * epoch
    assert 2 * epoch <= acted[0]["step"] < 3 * epoch
    assert {BLAMED} == {each["parameter"] for each in acted}
    assert all(each["applied"] for each in acted)


def test_what_no_clipping_heals_is_stopped_with_the_division_named(tmp_path):
    code, told = run("structural.yaml", tmp_path)
    assert (code, told["state"]) == (3, "stopped")
    acted = [each for each in told["incidents"] if each["plan"] in ("rollback", "stop")]
    assert [each["plan"] for each in acted] == ["rollback", "rollback", "stop"]
    assert {each["parameter"] for each in acted} == {BLAMED}
    assert "structural" in told["reason"]
    assert "scale = wanted / (loudness + 1e-8)" in told["reason"]

"""Programs that know nothing of hpckit explode, and are healed: by their log, and by attachment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hpckit.ledger import Ledger

PROGRAMS = Path(__file__).with_name("programs")
ATTACHED = """name: nano-attached
program:
  python: >-
    nano_gpt_like.py --out_dir=out --resume={checkpoint} --learning_rate={params.lr}
    --grad_clip={params.clip} --seed=1337 --explode_at=250 --max_iters=400 --save_interval=100
  attach: optimizers
params: {lr: 0.002, clip: 1.0}
resources: {time: 10m}
checkpoint: {files: ["out/ckpt_{step}.pt"]}
heal: {explosion: {change: {params.lr: x0.5, params.clip: x0.5}}}
"""


def healed(cli, folder, spec_text):
    """What is told of a program that explodes once, from submit to its end."""
    for path in PROGRAMS.glob("*_like.*"):
        if path.suffix != ".yaml":
            shutil.copy(path, folder)
    (folder / "job.yaml").write_text(spec_text)
    cli("submit", "--cluster", "local", "--follow", cwd=folder)
    return json.loads(cli("show", "--json", cwd=folder).stdout)


@pytest.mark.parametrize("name", ["hifi_like", "nano_gpt_like", "attached"])
def test_a_program_that_explodes_goes_on_from_a_set_of_its_own_with_tightened_arguments(
    cli, tmp_path, name
):
    spec = ATTACHED if name == "attached" else (PROGRAMS / f"{name}.yaml").read_text()
    told = healed(cli, tmp_path, spec)
    assert (told["state"], len(told["attempts"])) == ("done", 1)
    (acted,) = [each for each in told["incidents"] if each["plan"] == "rollback"]
    assert acted["kind"] in ("explosion", "loss_lost")
    assert acted["applied"]
    assert 0 < acted["resumed_step"] < acted["step"]
    # The arguments that it was started with, and what of its work was for nothing.
    assert "params.lr 0.002 -> 0.001" in told["attempts"][0]["changes"]
    assert told["gpu_hours"]["lost"] > 0
    line = (Path(told["attempts"][0]["dir"]) / "logs/launch-2/inside.sh").read_text()
    assert "0.001" in line
    # What was newer than the trouble is out of its sight, and not gone.
    aside = list(Path(told["dir"], "set-aside").rglob("why.json"))
    assert len(aside) <= 1
    events = Ledger(Path(told["dir"], "ledger")).events()
    went_on = [each.data["step"] for each in events if each.kind == "resumed"]
    assert went_on[0] == 0
    assert acted["resumed_step"] in went_on[1:]


def test_without_checkpoints_to_go_back_to_it_is_only_told(cli, tmp_path):
    spec = ATTACHED.replace('checkpoint: {files: ["out/ckpt_{step}.pt"]}\n', "")
    told = healed(cli, tmp_path, spec.replace("--max_iters=400", "--max_iters=300"))
    assert told["state"] in ("done", "failed")
    assert {each["plan"] for each in told["incidents"]} <= {None, "tell"}
    assert "explosion" in {each["kind"] for each in told["incidents"]}
    assert len(list(Path(told["attempts"][0]["dir"], "logs").glob("launch-*"))) == 1

"""hpckit checkpoint and what hpckit show tells of checkpoints."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hpckit.checkpoint import manifest
from hpckit.checkpoint.manifest import Checkpoint
from hpckit.files import write_json
from hpckit.ledger import Ledger
from hpckit.run import identity
from hpckit.spec import load_spec
from tests.checkpoint.made import SECOND, begin, make
from tests.conftest import Cli

NAME = "agent/0720-kbc"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / NAME
    (folder / "ledger").mkdir(parents=True)
    spec = tmp_path / "job.yaml"
    spec.write_text("name: agent\nprogram: python train.py\nlimits: {gpu_hours: 1}\n")
    write_json(folder / "spec.json", load_spec(spec).to_json())
    about = identity(run_id=NAME, name="agent", scheduler="local", params={})
    write_json(folder / "run.json", about)
    return folder


def listed(cli: Cli, *args: str, code: int = 0) -> list[dict[str, Any]]:
    told = json.loads(cli("checkpoint", "ls", "--json", *args, code=code).stdout)
    assert told["run"] == NAME
    found: list[dict[str, Any]] = told["checkpoints"]
    return found


def cut(checkpoint: Checkpoint) -> None:
    (checkpoint.path / "state.pt").write_bytes(b"cut off")


def weights(checkpoint: Checkpoint, value: float) -> Checkpoint:
    """Make it one of a real model; the manifest is written anew."""
    path = checkpoint.path / "state.pt"
    state = {"weight": torch.full((2, 2), value)}
    torch.save({"format": 1, "items": {"model": {"kind": "module", "state": state}}}, path)
    files = {"state.pt": manifest.measure(path)}
    changed = dataclasses.replace(checkpoint, files=files)
    manifest.write(changed)
    return changed


def test_show_lists_checkpoints_for_programs(cli: Cli, run: Path) -> None:
    make(run, 100, good=200, best=True, epoch=1, batch=20, bytes=46)
    best = make(run, 200, best=True, metrics={"pesq": 2.5}, why="best")
    damaged = manifest.set_aside(make(run, 150))
    assert damaged is not None
    told = json.loads(cli("show", "--json").stdout)["checkpoints"]
    assert told == [
        {
            "step": 100,
            "epoch": 1,
            "batch": 20,
            "name": "step-00000100.a1-l1",
            "good": True,
            "best": False,
            "why": "every",
            "created": "2026-07-20T02:14:05.123456Z",
            "bytes": 46,
            "finite": True,
            "metrics": {},
            "dir": str(run / "checkpoints" / "step-00000100.a1-l1"),
            "damaged": False,
        },
        {"step": 150, "name": "step-00000150.a1-l1.damaged", "dir": str(damaged), "damaged": True},
        {**told[2], "step": 200, "best": True, "good": False, "metrics": {"pesq": 2.5}},
    ]
    assert told[2]["name"] == best.name


def test_show_tells_of_a_last_state_that_was_not_written(cli: Cli, run: Path) -> None:
    def told() -> tuple[Any, list[str]]:
        lines = cli("show").stdout.splitlines()
        unsaved = json.loads(cli("show", "--json").stdout)["unsaved"]
        return unsaved, [line for line in lines if line.startswith("unsaved")]

    assert told() == (None, [])
    ledger = Ledger(run / "ledger", "attempt-001-launch-1")
    ledger.write("unsaved", attempt=1, step=300, reason="/scratch: No space left on device")
    ledger.write("finished", state="done", reason="done")
    why = "unsaved: the state of step 300 could not be written: /scratch: No space left on device; "
    about = {"step": 300, "reason": "/scratch: No space left on device"}
    assert told() == (about, [why + "there is no checkpoint"])
    make(run, 200)
    cut = make(run, 300)
    (cut.path / "manifest.json").write_text("[]")
    assert told() == (about, [why + "the newest checkpoint is of step 200"])
    # The next submission went on from step 200, and has saved as much by now.
    make(run, 400)
    assert told() == (None, [])


def test_what_another_version_says_of_an_unsaved_state_does_not_break_show(
    cli: Cli, run: Path
) -> None:
    Ledger(run / "ledger", "one").write("unsaved", step="soon")
    assert json.loads(cli("show", "--json").stdout)["unsaved"] is None


def test_show_lists_the_last_checkpoints_for_people(cli: Cli, run: Path) -> None:
    assert "because" not in cli("show").stdout
    for step in range(100, 900, 100):
        make(run, step, good=step + 100 if step < 700 else None, epoch=step // 300)
    make(run, 900, finite=False, best=True, metrics={"pesq": 2.5}, why="time limit", bytes=4600000)
    lines = cli("show").stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("step"))
    assert lines[first].split() == ["step", "epoch", "saved", "because", "size", "is", "metrics"]
    assert [line.split()[0] for line in lines[first + 1 : first + 7]] == [
        "400",
        "500",
        "600",
        "700",
        "800",
        "900",
    ]
    assert lines[first + 3].endswith("good")
    assert lines[first + 4].endswith("kB")
    assert lines[first + 6].endswith("time limit  4.6 MB  not finite, best  pesq=2.5")
    assert lines[first + 7] == "+ 3 more: hpckit checkpoint ls"


def test_a_branch_that_was_left_is_not_listed(cli: Cli, run: Path) -> None:
    make(run, 100)
    make(run, 200)
    begin(run, SECOND, 100)
    assert [each["step"] for each in listed(cli)] == [100]


def test_no_checkpoints_are_none_and_no_error(cli: Cli, run: Path) -> None:
    assert listed(cli) == []
    done = cli("checkpoint", "ls", "agent")
    assert (done.stdout, done.stderr) == ("", f"{NAME} has no checkpoints\n")


def test_listing_reads_no_file_unless_it_is_told_to_verify(cli: Cli, run: Path) -> None:
    make(run, 100)
    cut(make(run, 200))
    assert all("problem" not in each for each in listed(cli))
    found = listed(cli, "--verify", code=1)
    wrong = "state.pt has 7 of 40 bytes"
    assert [each["problem"] for each in found] == [None, wrong]
    assert f"damaged: {wrong}" in cli("checkpoint", "ls", "--verify", code=1).stdout
    # A person looked, who renames nothing: the run may be alive.
    assert len(listed(cli)) == 2


def test_a_manifest_of_another_version_does_not_break_the_listing(cli: Cli, run: Path) -> None:
    made = make(run, 100)
    odd = {
        "step": 100,
        "attempt": 1,
        "launch": 1,
        "files": {},
        "created": "soon",
        "metrics": {"a": []},
    }
    (made.path / "manifest.json").write_text(json.dumps(odd))
    assert "a=[]" in cli("checkpoint", "ls").stdout
    assert "a=[]" in cli("show").stdout


NO_SENSE = "manifest.json makes no sense"


@pytest.mark.parametrize("text", ['{"a":', "[]", '{"step": "x"}', ""])
def test_one_with_a_damaged_manifest_is_listed_and_verified_as_damaged(
    cli: Cli, run: Path, text: str
) -> None:
    weights(make(run, 100), 1.0)
    broken = make(run, 200)
    weights(make(run, 300), 3.0)
    (broken.path / "manifest.json").write_text(text)
    found = listed(cli)
    assert [each["step"] for each in found] == [100, 200, 300]
    assert found[1] == {
        "step": 200,
        "name": broken.name,
        "dir": str(broken.path),
        "damaged": True,
        "problem": NO_SENSE,
    }
    (line,) = [each for each in cli("show").stdout.splitlines() if broken.name in each]
    assert line.split() == ["200", *"----", "damaged:", *NO_SENSE.split(), broken.name]
    assert listed(cli, "--verify", code=1) == [
        {**found[0], "problem": None},
        found[1],
        {**found[2], "problem": None},
    ]


def test_what_was_passed_over_for_its_manifest_is_named(cli: Cli, run: Path) -> None:
    weights(make(run, 100), 1.0)
    older, newer = make(run, 50), make(run, 200)
    for each in (older, newer):
        (each.path / "manifest.json").write_text("[]")
    done = cli("checkpoint", "export")
    assert done.stdout.endswith("1 tensors of step-00000100.a1-l1\n")
    # An older one would not have been taken anyhow.
    assert done.stderr == f"{newer.name} is damaged: {NO_SENSE}\n"
    done = cli("checkpoint", "export", "--step", "50", code=1)
    assert f"{older.name} is damaged: {NO_SENSE}" in done.stderr
    assert "has no such checkpoint that is intact" in done.stderr
    assert newer.name not in done.stderr
    assert "no checkpoint of step 7" in cli("checkpoint", "export", "--step", "7", code=5).stderr


def test_of_damaged_manifests_alone_nobody_says_that_nothing_was_saved(cli: Cli, run: Path) -> None:
    (make(run, 100).path / "manifest.json").write_text("[]")
    done = cli("checkpoint", "export", code=1)
    assert "saved nothing" not in done.stderr
    assert "has no such checkpoint that is intact" in done.stderr
    # One that is only being written is no checkpoint yet.
    (make(run, 200).path / "manifest.json").unlink()
    assert [each["step"] for each in listed(cli)] == [100]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["ls", "nobody"], 5, "no run called 'nobody'"),
        (["export", "nobody"], 5, "no run called 'nobody'"),
        (["export", "--good", "--best"], 2, "give one of them"),
        (["export", "--good"], 5, "has no checkpoint that is good\n  there are those of steps 100"),
        (["export", "--best"], 5, "has no checkpoint with a best metric"),
        (["export", "--step", "7"], 5, "no checkpoint of step 7\n  there are those of steps 100"),
        (["export", "--step", "100"], 1, "a1-l1 is damaged: state.pt has 7 of 40 bytes"),
        (["export"], 1, "has no such checkpoint that is intact"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    cli: Cli, run: Path, args: list[str], code: int, words: str
) -> None:
    cut(make(run, 100))
    assert words in cli("checkpoint", *args, code=code).stderr


def test_of_a_run_that_saved_nothing_nothing_is_exported(cli: Cli, run: Path) -> None:
    done = cli("checkpoint", "export", code=5)
    assert "has no checkpoint yet\n  it has saved nothing" in done.stderr


@pytest.mark.parametrize("wait", ["60", "0"])
def test_of_a_run_that_is_over_no_checkpoint_is_asked(cli: Cli, run: Path, wait: str) -> None:
    Ledger(run / "ledger", "one").write("finished", state="failed", reason="exit code 1")
    begun = time.monotonic()
    done = cli("checkpoint", "save", "--wait", wait, code=1)
    assert f"{NAME} is over, nobody saves any more: failed: exit code 1" in done.stderr
    assert "it has saved nothing" in done.stderr
    newest = make(run, 100)
    done = cli("checkpoint", "save", "--wait", wait, code=1)
    assert f"its newest checkpoint is {newest.name}" in done.stderr
    assert time.monotonic() - begun < 30
    assert not (run / "requests").exists()


def test_a_run_that_ends_while_it_is_asked_is_told_as_over(cli: Cli, run: Path) -> None:
    asking = threading.Thread(target=end_when_asked, args=(run,))
    asking.start()
    done = cli("checkpoint", "save", "--wait", "3", code=1)
    asking.join()
    assert f"{NAME} is over, nobody saves any more: done" in done.stderr
    assert list((run / "requests").iterdir()) == []


def end_when_asked(run: Path) -> None:
    until = time.monotonic() + 30
    while not list((run / "requests").glob("save*")) and time.monotonic() < until:
        time.sleep(0.05)
    Ledger(run / "ledger", "one").write("finished", state="done", reason="done")


def test_a_run_that_may_live_is_asked_and_nobody_waits_less_than_nothing(
    cli: Cli, run: Path
) -> None:
    assert cli("checkpoint", "save", "--wait", "0").stderr == f"{NAME}: asked\n"
    assert len(list((run / "requests").iterdir())) == 1
    assert "'--wait': -3.0 is not in the range x>=0" in (
        cli("checkpoint", "save", "--wait", "-3", code=2).stderr
    )


def test_a_sweep_has_no_checkpoints_of_its_own(cli: Cli, run: Path) -> None:
    about = json.loads((run / "run.json").read_text())
    write_json(run / "run.json", {**about, "points": 2})
    assert f"name one of its runs: {NAME}/000" in cli("checkpoint", "ls", code=2).stderr


def test_export_takes_the_newest_intact_one_and_renames_nothing(
    cli: Cli, run: Path, tmp_path: Path
) -> None:
    weights(make(run, 100), 1.0)
    cut(make(run, 200))
    done = cli("checkpoint", "export")
    assert done.stdout == "agent-step-100.safetensors: 1 tensors of step-00000100.a1-l1\n"
    assert "step-00000200.a1-l1 is damaged: state.pt has 7 of 40 bytes" in done.stderr
    assert (tmp_path / "agent-step-100.safetensors").stat().st_size > 16
    assert len(listed(cli)) == 2


def test_export_replaces_nothing_unless_it_is_told_to(cli: Cli, run: Path, tmp_path: Path) -> None:
    weights(make(run, 100), 1.0)
    out = tmp_path / "w.safetensors"
    out.write_text("mine")
    done = cli("checkpoint", "export", "-o", out, code=2)
    assert "is there already\n  give --force" in done.stderr
    assert out.read_text() == "mine"
    told = json.loads(cli("checkpoint", "export", "-o", out, "--force", "--json").stdout)
    assert told == {
        "run": NAME,
        "checkpoint": "step-00000100.a1-l1",
        "step": 100,
        "file": str(out),
        "tensors": ["weight"],
    }
    assert out.read_bytes()[-16:] == b"\0\0\x80?" * 4


@pytest.mark.parametrize(
    ("args", "step"), [(["--good"], 200), (["--best"], 100), (["--step", "300"], 300)]
)
def test_export_takes_the_one_that_is_meant(
    cli: Cli, run: Path, args: list[str], step: int
) -> None:
    weights(make(run, 100, good=150, best=True), 1.0)
    weights(make(run, 200, good=250), 2.0)
    weights(make(run, 300), 3.0)
    (run / "into").mkdir()
    told = json.loads(cli("checkpoint", "export", *args, "-o", run / "into", "--json").stdout)
    assert (told["step"], told["file"]) == (step, f"{run}/into/agent-step-{step}.safetensors")


def test_of_two_of_one_step_the_newer_is_meant(cli: Cli, run: Path) -> None:
    weights(make(run, 100, best=True), 1.0)
    second = make(run, 100, nth=2)
    weights(second, 2.0)
    (run / "into").mkdir()
    args = ("--step", "100", "-o", run / "into", "--json")
    assert json.loads(cli("checkpoint", "export", *args).stdout)["checkpoint"] == second.name


def test_one_that_was_left_behind_can_be_exported_by_its_step(cli: Cli, run: Path) -> None:
    weights(make(run, 200), 1.0)
    begin(run, SECOND, 100)
    weights(make(run, 150, SECOND), 2.0)
    told = json.loads(cli("checkpoint", "export", "--step", "200", "--json").stdout)
    assert told["checkpoint"] == "step-00000200.a1-l1"

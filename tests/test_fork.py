"""A run that begins where another one stood."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpckit.checkpoint import manifest
from hpckit.errors import HpckitError, NotFound, UsageError
from hpckit.run import identity
from hpckit.submission.fork import find_fork
from tests.conftest import Cli
from tests.train.conftest import assert_same
from tests.train.inside import Lives, Training, lives, run_json, said, strike

EVERY = {"every": "10 steps", "confirm_steps": 10, "keep": 9}


@pytest.fixture(autouse=True)
def steady(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(session: Any) -> None:
        session._keeper.saver.wait()

    monkeypatch.setattr("hpckit.train.session.Session._show", wait)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def life(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lives]:
    """A run `first/1` in a folder of runs, trained for three epochs."""
    several = lives(root / "first" / "1", monkeypatch)
    made = next(several)
    made.spec["checkpoint"] = EVERY
    run = made.begin()
    about = identity(run_id="first/1", name="first", scheduler="local", params={})
    (made.folder / "run.json").write_text(json.dumps(about))
    training = Training(run, epochs=3)
    training.go(after=lambda s: run.best(abs(s - 9)) if s % 10 == 9 else None)
    made.wait()
    yield made
    several.close()


@pytest.fixture
def fork(
    life: Lives, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Lives]]:
    """Makes a run that begins with what is wanted."""
    made = lives(tmp_path / "second", monkeypatch)

    def begin(wanted: str) -> Lives:
        second = next(made)
        second.spec["checkpoint"] = EVERY
        # Its folder is there before its first life, as a submission leaves it.
        second.begin()
        second.end()
        second.attempt = 0
        source = find_fork(root, wanted)
        fork = source.bring(second.folder)
        write = Lives.begin

        def with_fork(self: Lives, **more: Any) -> Any:
            self.end()
            run = write(self, **more)
            run_json(self.folder, fork=fork)
            return run

        monkeypatch.setattr(Lives, "begin", with_fork)
        return second

    yield begin
    made.close()


@pytest.mark.parametrize(
    ("wanted", "step"),
    [
        ("first/1", 30),
        ("first/1@20", 20),
        ("first/1@good", 20),
        ("first/1@best", 10),
        ("first@10", 10),
    ],
)
def test_which_checkpoint_is_meant(life: Lives, root: Path, wanted: str, step: int) -> None:
    found = find_fork(root, wanted)
    assert (found.run_id, found.checkpoint.step) == ("first/1", step)


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        ("first/1@last", UsageError, "'last' is no step"),
        ("first/1@11", NotFound, "no checkpoint of step 11"),
        ("nobody", HpckitError, "nobody"),
    ],
)
def test_what_is_not_there_is_said(
    life: Lives, root: Path, wanted: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        find_fork(root, wanted)


def test_a_damaged_one_is_left_out_and_named(
    life: Lives, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = life.checkpoint(30)
    (damaged.path / "state.pt").write_bytes(b"damaged")
    assert find_fork(root, "first/1").checkpoint.step == 20
    assert f"{damaged.name} is damaged: state.pt" in capsys.readouterr().err
    # A reader sets nothing aside in somebody else's run.
    assert life.checkpoint(30).path.exists()


def test_a_fork_that_passes_over_a_damaged_manifest_names_it(
    life: Lives, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = life.checkpoint(30)
    (damaged.path / "manifest.json").write_text("[]")
    assert find_fork(root, "first/1").checkpoint.step == 20
    assert f"{damaged.name} is damaged: manifest.json makes no sense" in capsys.readouterr().err


def test_a_run_that_is_extended_equals_one_that_was_trained_straight_through(
    life: Lives, fork: Callable[[str], Lives], capsys: pytest.CaptureFixture[str]
) -> None:
    from hpckit.train.outside import Outside

    straight = Training(Outside({}), epochs=5).go()
    second = fork("first/1")
    said(capsys)
    extended = Training(second.begin(), epochs=5).go()
    assert extended.steps == [*range(30, 50)]
    assert_same(straight.weights(), extended.weights())
    assert_same(straight.optimizer.state_dict(), extended.optimizer.state_dict())
    assert any("forked from first/1 at step 30" in line for line in said(capsys))


def test_the_next_life_of_a_fork_goes_on_with_its_own(
    life: Lives, fork: Callable[[str], Lives]
) -> None:
    second = fork("first/1@10")
    Training(second.begin(), epochs=4).go()
    again = Training(second.begin(), epochs=5).go()
    assert again.steps == [*range(40, 50)]


def test_a_fork_of_a_good_state_can_go_back_to_it(
    life: Lives, fork: Callable[[str], Lives], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = fork("first/1@good")
    run = second.begin()
    training = Training(run, epochs=4)
    strike(run, 23)
    training.go()
    assert second.events("rollback")[0].data["step"] == 20
    # And by disk, where memory has no room.
    monkeypatch.setattr("hpckit.train.keeper.how_many_fit", lambda *args: 0)
    run = second.begin()
    training = Training(run, epochs=5)
    assert next(each for each in second.store.all() if each.step == 20).is_good


def test_a_fork_lives_on_when_the_first_run_is_deleted(
    life: Lives, fork: Callable[[str], Lives]
) -> None:
    second = fork("first/1@20")
    life.end()
    shutil.rmtree(life.folder)
    assert Training(second.begin(), epochs=3).go().steps[0] == 20


def test_what_a_fork_was_made_from_being_damaged_is_said(
    life: Lives, fork: Callable[[str], Lives]
) -> None:
    second = fork("first/1@20")
    copy = second.folder / "fork" / "step-00000020.a1-l1" / "state.pt"
    content = copy.read_bytes()
    copy.unlink()
    copy.write_bytes(content[:-3] + b"abc")
    with pytest.raises(NotFound, match="which this run was forked from, is damaged"):
        Training(second.begin(), epochs=3).go()


def test_links_where_that_can_be_and_copies_elsewhere(
    life: Lives, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = find_fork(root, "first/1@20")
    about = source.bring(tmp_path / "linked")
    there = Path(about["checkpoint"]) / "state.pt"
    assert there.stat().st_ino == (source.checkpoint.path / "state.pt").stat().st_ino

    def refuse(*args: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    about = source.bring(tmp_path / "copied")
    found = manifest.read(Path(about["checkpoint"]))
    assert found is not None
    assert manifest.problem(found) is None


PROGRAM = """
import torch, hpckit
from torch import nn
torch.set_num_threads(1)
run = hpckit.attach(params={"epochs": 2})
torch.manual_seed(0)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
run.register(model=model, optimizer=optimizer)
loader = torch.utils.data.DataLoader(torch.randn(40, 4), batch_size=8, shuffle=True)
first = None
for x in run.batches(loader, epochs=run.params["epochs"]):
    first = run.step_number if first is None else first
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    run.step(optimizer, loss=loss)
print("steps", first, run.step_number, model.weight.sum().item())
"""


def test_hpckit_run_from_another_run(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    spec = tmp_path / "job.yaml"
    spec.write_text("name: tiny\nprogram: python train.py\nparams: {epochs: 2}\n")
    root = ("--root", tmp_path / "runs")
    cli("run", spec, *root)
    (first,) = (tmp_path / "runs" / "tiny").iterdir()
    name = f"tiny/{first.name}"
    straight = cli("run", spec, *root, "--set", "params.epochs=4")
    more = cli("run", spec, *root, "--set", "params.epochs=4", "--from", name)

    def told(done: Any) -> list[str]:
        text = done.stdout + done.stderr
        return next(line for line in text.splitlines() if line.startswith("steps")).split()

    assert told(more)[1:3] == ["10", "20"]
    assert told(more)[2:] == told(straight)[2:]
    wrong = cli("run", spec, *root, "--from", f"{name}@7", code=None)
    assert wrong.returncode != 0
    assert "no checkpoint of step 7" in wrong.stderr

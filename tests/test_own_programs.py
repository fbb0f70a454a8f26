"""Programs that know nothing of hpckit explode, and are healed: by their log, and by attachment."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from hpckit.errors import HpckitError, NotFound, UsageError
from hpckit.files import write_json
from hpckit.heal import Plan
from hpckit.ledger import Ledger
from hpckit.restarting import Wish, _checkpoint, _plan
from hpckit.spec import Change, spec_from_json
from hpckit.spec.changes import read_changes
from hpckit.worker.healing import Healing, Seen
from hpckit.worker.log_healing import LogHealing
from hpckit.worker.outcome import Outcome
from hpckit.worker.own_returning import OwnReturning
from tests.heal.conftest import explosion
from tests.made_runs import begin, make_run

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


SPEC = {
    "name": "agent",
    "program": "python train.py --lr {params.lr}",
    "params": {"lr": 0.1},
    "checkpoint": {"files": ["cp/g_{step}"]},
}


@pytest.fixture
def saved(tmp_path):
    """A run in its first attempt, whose program has saved three sets of its own."""
    run = make_run(tmp_path)
    write_json(run.dir / "spec.json", spec_from_json(SPEC).to_json())
    attempt = begin(run)
    prepared(run, attempt)
    (run.dir / "work/cp").mkdir()
    for number in (100, 200, 300):
        path = run.dir / f"work/cp/g_{number}"
        path.write_text("weights")
        os.utime(path, (number, number))
    return run, attempt


def prepared(run, attempt, launch=1):
    """Where the program goes on, before a launch."""
    OwnReturning(run=run, spec=run.spec(), attempt=attempt).prepare(launch)
    return [each for each in run.ledger().events() if each.kind == "resumed"][-1].data


def healing(run, attempt):
    return Healing(run=run, spec=run.spec(), attempt=attempt)


LOST = Outcome(state=None, reason="node failure", kind="node_failure")
BACK = Plan(do="rollback", reason="it grew", before=240, changes={"params.lr": Change(times=0.5)})


def test_a_node_that_is_lost_before_the_run_went_back_changes_nothing_about_that(saved):
    run, attempt = saved
    healing(run, attempt).write(explosion(280, onset=240), BACK, launch=1)
    assert healing(run, attempt).answer(LOST, None, Seen(step=280)).plan.intact
    told = prepared(run, begin(run))
    assert (told["step"], told["changed"]) == (200, ["params.lr 0.1 -> 0.05"])
    assert sorted(os.listdir(run.dir / "work/cp")) == ["g_100", "g_200"]


def test_a_person_goes_on_from_before_the_numbers_that_stopped_the_run(saved):
    run, attempt = saved
    stop = Plan(do="stop", reason="the budget is spent")
    healing(run, attempt).write(explosion(280, onset=240), stop, launch=1, saved_before=150.0)
    plan = _plan(run, Wish(), run.ledger().events())
    assert (plan.before, plan.intact) == (240, False)
    asked(run, plan)
    # The log had shown it when the second one was written.
    assert prepared(run, begin(run))["step"] == 100
    assert _plan(run, Wish(), run.ledger().events()).intact


def test_a_person_goes_on_from_a_step_that_the_program_has_saved_itself(saved):
    run, _ = saved
    for origin, error in (("150", NotFound), ("good", UsageError), ("best", UsageError)):
        with pytest.raises(error) as refused:
            _checkpoint(run, origin)
        assert refused.value.hint == "there are whole ones of 100, 200, 300"
    asked(run, checkpoint=_checkpoint(run, "200"))
    told = prepared(run, begin(run))
    assert (told["step"], told["checkpoint"]) == (200, "cp/g_200")
    assert sorted(os.listdir(run.dir / "work/cp")) == ["g_100", "g_200"]
    # It has been done, and what comes after it goes on from the newest.
    (run.dir / "work/cp/g_400").write_text("weights")
    assert prepared(run, begin(run))["step"] == 400


def test_a_step_that_is_gone_is_not_replaced_by_another(saved):
    run, _ = saved
    asked(run, checkpoint=_checkpoint(run, "200"))
    (run.dir / "work/cp/g_200").unlink()
    with pytest.raises(HpckitError, match="cp/g_200 is not there any more"):
        prepared(run, begin(run))
    assert sorted(os.listdir(run.dir / "work/cp")) == ["g_100", "g_300"]
    asked(run)
    assert prepared(run, begin(run))["step"] == 300


def asked(run, plan=None, **more):
    """A person starts the run again."""
    plan = plan or _plan(run, Wish(), run.ledger().events())
    incident = explosion(280, kind="by_hand", onset=None).to_json()
    about = {"attempt": 1, "incident": incident, "plan": plan.to_json()}
    run.ledger().write("restart", by_hand=True, **about, **more)


def test_a_clip_or_a_rate_by_hand_is_the_argument_of_a_program_without_optimizers_of_ours(saved):
    run, attempt = saved
    lower, tighter = (Wish(changes=read_changes([each])) for each in ("lr=x0.5", "clip=x0.5"))
    assert list(_plan(run, lower, run.ledger().events()).changes) == ["params.lr"]
    with pytest.raises(UsageError, match="--set clip: no parameter that its command names"):
        _plan(run, tighter, run.ledger().events())
    with pytest.raises(UsageError, match=r"params.lr: the sweep varies 'lr'"):
        _plan(dataclasses.replace(run, varied=("lr",)), lower, run.ledger().events())
    twice = Wish(changes=read_changes(["lr=x0.5", "params.lr=3"]))
    with pytest.raises(UsageError, match=r"--set lr is --set params.lr here: give one of them"):
        _plan(run, twice, run.ledger().events())
    # Who has hpckit in the program changes its optimizers.
    begun = {"attempt": attempt.number, "launch": 1, "rollbacks": 0, "step": 0}
    run.ledger().write("resumed", **begun)
    assert list(_plan(run, tighter, run.ledger().events()).changes) == ["clip"]


def test_checkpoints_that_cannot_be_looked_at_are_no_reason_not_to_end(saved, tmp_path):
    run, attempt = saved
    shutil.move(run.dir / "work/cp", tmp_path / "elsewhere")
    (run.dir / "work/cp").symlink_to(tmp_path / "elsewhere")
    ended = Outcome(state=None, reason="time limit", kind="time_limit")
    answer = healing(run, attempt).answer(ended, 1, Seen(step=300))
    assert answer.plan.do == "resubmit"
    with pytest.raises(HpckitError, match="leads out of the working folder"):
        prepared(run, begin(run))


def test_a_mistake_that_ends_the_program_before_its_training_has_failed_at_once(saved):
    run, attempt = saved
    about = {"rank": 0, "code": 1, "stage": "program"}
    mistake = Outcome(state="failed", reason="exit code 1", program=about, kind="crash")
    assert healing(run, attempt).answer(mistake, 1, Seen()).plan.do == "relaunch"
    shutil.rmtree(run.dir / "work/cp")
    assert healing(run, attempt).answer(mistake, 1, Seen(has_stepped=True)).plan.do == "relaunch"
    answer = healing(run, attempt).answer(mistake, 1, Seen())
    assert (answer.outcome.state, answer.plan) == ("failed", None)


def test_nothing_is_ended_for_what_could_not_be_written_down(saved, monkeypatch):
    run, attempt = saved
    log = LogHealing(healing=healing(run, attempt), spec=run.spec(), launch=1)
    monkeypatch.setattr(Ledger, "write", full)
    assert not log.answer(explosion(280))
    monkeypatch.undo()
    assert log.answer(explosion(281))


def test_a_worker_whose_place_another_attempt_took_restarts_nothing(saved):
    run, attempt = saved
    log = LogHealing(healing=healing(run, attempt), spec=run.spec(), launch=1)
    begin(run)
    assert not log.answer(explosion(280))
    assert not [each for each in run.ledger().events() if each.kind == "restart"]


def full(*args, **data):
    raise OSError(errno.ENOSPC, "No space left on device")

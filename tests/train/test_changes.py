"""What a rollback changes stays changed: clips, rates, parameters of the loop."""

from __future__ import annotations

import copy
import math
import shutil
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from hpckit.heal import Plan
from hpckit.ledger import Ledger
from hpckit.monitor import Incident
from hpckit.spec import Change
from hpckit.train.clip import Clip
from hpckit.train.healing import Stopped
from tests.train.inside import BACK, ONSET, STRUCK, Lives, Training, said, strike

pytestmark = pytest.mark.usefixtures("rarely")


def test_the_clip_that_was_none_begins_at_twice_the_usual_norm_and_is_tightened(
    life: Lives,
) -> None:
    run = life.begin()
    training = Training(run, epochs=14)
    strike(run, 100)
    usual: list[float] = []

    def note(step: int) -> None:
        if step == 99:
            usual.append(math.exp(run.stepper.lookout.detectors["main"].norms.usual.level))

    training.go(each=note)
    clip = run.stepper.watched["main"].clip
    assert clip.norm == pytest.approx(usual[0], rel=0.05)


@pytest.mark.parametrize(
    ("clip", "attribute", "expected"),
    [
        (1.0, "norm", 0.5),
        (Clip(value=0.2), "value", 0.1),
        (Clip(percentile=50, at_most=3.0), "at_most", 1.5),
        (Clip(percentile=50), "factor", 0.5),
    ],
)
def test_every_kind_of_clip_is_tightened(
    life: Lives, clip: Any, attribute: str, expected: float
) -> None:
    run = life.begin()
    training = Training(run, epochs=5, clip=clip)
    strike(run, STRUCK, onset=ONSET)
    training.go()
    assert getattr(run.stepper.watched["main"].clip, attribute) == pytest.approx(expected)


def test_a_floor_holds_over_several_rollbacks(life: Lives) -> None:
    change = {"clip": {"times": 0.5, "min": 0.3}, "lr": {"times": 0.5, "min": 0.4}}
    run = life.begin(heal={"explosion": {"change": change, "skip_batches": 1}})
    training = Training(run, epochs=12, clip=1.0)
    strike(run, 35, 60, 85, onset=None)
    training.go()
    assert run.stepper.watched["main"].clip.norm == 0.3
    assert run.stepper.watched["main"].rate == 0.4


SCHEDULES = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.97**step),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 60),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.05, total_steps=200),
    "warm up": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.1, total_iters=5), lr_scheduler.ExponentialLR(o, 0.99)],
        milestones=[5],
    ),
    "multi step": lambda o: lr_scheduler.MultiStepLR(o, [7, 30], gamma=0.5),
    "warm restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 13),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_is_changed_on_top_of_a_schedule_whose_own_rates_stay(
    life: Lives, name: str
) -> None:
    model = nn.Linear(1, 1)
    plain = torch.optim.SGD(model.parameters(), lr=0.01)
    alone, expected = SCHEDULES[name](plain), []
    for _ in range(60):
        expected.append(plain.param_groups[0]["lr"])
        plain.step()
        alone.step()

    run = life.begin()
    training = Training(
        run, epochs=6, schedule=SCHEDULES[name], optimizer=lambda p: torch.optim.SGD(p, lr=0.01)
    )
    strike(run, STRUCK, onset=ONSET)
    found, used = {}, {}
    group = training.optimizer.param_groups[0]
    training.optimizer.register_step_pre_hook(
        lambda *args: used.__setitem__(run.step_number, group["lr"])
    )
    training.go(each=lambda step: found.__setitem__(step, group["lr"]))
    steps = sorted(found)
    assert [found[step] for step in steps] == expected[: len(steps)]
    # What was stepped with: half of that from where it went back to.
    assert used[10] == expected[10]
    assert used[BACK] == expected[BACK] / 2
    assert used[max(steps)] == expected[max(steps)] / 2


def test_a_plateau_knows_what_it_knew_then(life: Lives) -> None:
    run = life.begin()
    training = Training(run, epochs=6, schedule=None)
    plateau = lr_scheduler.ReduceLROnPlateau(training.optimizer, factor=0.5, patience=3)
    run.register(plateau=plateau)
    strike(run, STRUCK, onset=ONSET)
    found: dict[int, list[Any]] = {}
    training.go(
        each=lambda step: found.setdefault(step, []).append(
            copy.deepcopy((plateau.state_dict(), training.optimizer.param_groups[0]["lr"]))
        ),
        after=lambda step: plateau.step(1.0 + step),
    )
    assert found[BACK][0] == found[BACK][1]
    assert found[STRUCK][0][1] < found[BACK][0][1]
    assert run.stepper.watched["main"].rate == 0.5


def test_a_parameter_is_changed_and_the_loop_sees_it(life: Lives) -> None:
    run = life.begin(
        given={"weight": 5.0, "loss": {"alpha": 8}},
        heal={"explosion": {"change": {"params.weight": "x0.5", "params.loss.alpha": "=2"}}},
    )
    training = Training(run, epochs=6)
    strike(run, STRUCK, onset=ONSET)
    found: dict[int, list[Any]] = {}
    training.go(
        each=lambda step: found.setdefault(step, []).append(
            (run.params["weight"], run.params["loss"]["alpha"])
        )
    )
    assert found[BACK] == [(5.0, 8), (2.5, 2)]
    assert found[max(found)] == [(2.5, 2)]


def test_a_changed_parameter_that_nobody_reads_is_told_at_the_end(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin(
        given={"weight": 5.0}, heal={"explosion": {"change": {"params.weight": "x0.5"}}}
    )
    assert run.params["weight"] == 5.0
    training = Training(run, epochs=5)
    strike(run, STRUCK, onset=ONSET)
    training.go()
    assert any("params.weight was changed, and nothing has read it" in x for x in said(capsys))


def test_steps_that_are_done_again_are_no_progress(life: Lives, no_memory: None) -> None:
    """However far a rollback leads, the limit is the limit."""
    change = {"do": "rollback", "change": {}, "skip_batches": 0, "limit": 2}
    life.monkeypatch.setattr("hpckit.heal.rules.REFILL_STEPS", 50)
    life.monkeypatch.setattr("hpckit.heal.rules.REFILL_TIMES", 5)
    run = life.begin(heal={"explosion": change})
    training = Training(run, epochs=12)
    strike(run, *[80] * 8, onset=75)
    with pytest.raises(Stopped):
        training.go()
    assert [each.data["step"] for each in life.events("rollback")] == [0, 0]


def test_a_state_on_disk_is_read_once_to_go_back_to_it(life: Lives, no_memory: None) -> None:
    run = life.begin(heal={"explosion": {"change": {}, "skip_batches": 0}})
    training = Training(run, epochs=5)
    strike(run, STRUCK, onset=ONSET)
    load, read = torch.load, []

    def loading(path: Any, **more: Any) -> Any:
        if more.get("map_location") != "meta":
            read.append(path.name)
        return load(path, **more)

    life.monkeypatch.setattr(torch, "load", loading)
    training.go()
    assert sorted(read) == ["rank-0.pt", "state.pt"]


def asked(life: Lives, **changes: Change) -> None:
    """A person restarts the run, while its attempt still saves or before it has saved at all."""
    said = f"by ana, after attempt {life.attempt}"
    about = Incident(kind="by_hand", step=0, answer="act", said=said).to_json()
    plan = Plan(do="resubmit", reason="by hand", changes=changes, intact=True).to_json()
    more = {"attempt": max(1, life.attempt), "after": life.attempt}
    Ledger(life.folder / "ledger").write("restart", by_hand=True, incident=about, plan=plan, **more)


@pytest.mark.parametrize("saves", [True, False], ids=["saved", "nothing saved"])
def test_restarts_that_overtake_each_other_all_come_into_force_and_are_told(
    life: Lives, saves: bool
) -> None:
    def go(epochs: int) -> float:
        run = life.begin(given={"epochs": 9})
        training = Training(run, epochs=epochs, schedule=None)
        training.go()
        if not saves:
            life.wait()
            shutil.rmtree(life.store.folder)
        return run.stepper.watched["main"].rate

    assert go(1) == 1.0
    halved = Change(times=0.5)
    asked(life, lr=halved)
    asked(life, lr=halved)
    asked(life, **{"params.epochs": Change(to=20)})
    asked(life)
    assert go(2) == 0.25
    (told,) = life.events("rollback")
    steps = ["lr 0.01 -> 0.005", "lr 0.005 -> 0.0025"]
    assert told.data["changed"] == [*steps, "params.epochs is 20"]
    # In force once, and told once, in the attempts that come.
    assert go(3) == 0.25
    asked(life, lr=halved)
    assert go(4) == 0.125
    assert life.events("rollback")[1].data["changed"] == ["lr 0.0025 -> 0.00125"]

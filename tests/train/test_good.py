"""Which states may be gone back to, and when a run gives up."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpckit.train.healing import Stopped
from tests.train.inside import BACK, ONSET, STRUCK, Lives, Training, patient, said, strike

pytestmark = pytest.mark.usefixtures("rarely")


def test_the_same_growth_in_the_same_parameter_stops_the_run_with_code_3(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin(heal={"explosion": {"limit": 9}})
    training = Training(run, epochs=20)
    strike(run, 35, 36, 37, onset=ONSET, parameter="0.weight", value=1e6, usual=1.0)
    with pytest.raises(SystemExit) as stop:
        training.go()
    assert isinstance(stop.value, Stopped)
    assert stop.value.code == 3
    reason = life.events("stopped")[0].data["reason"]
    assert reason.startswith("structural: the same growth in 0.weight")
    assert any("stopped: structural" in line for line in said(capsys))
    assert len(life.events("rollback")) == 2


def test_a_spent_budget_stops_the_run(life: Lives) -> None:
    run = life.begin(heal={"explosion": {"limit": 1}})
    training = Training(run)
    strike(run, 35, 38, onset=ONSET)
    with pytest.raises(Stopped, match="limit is 1"):
        training.go()
    assert "limit is 1" in life.events("stopped")[0].data["reason"]


def test_after_a_stop_a_person_begins_with_a_full_budget(life: Lives) -> None:
    run = life.begin(heal={"explosion": {"limit": 1}})
    training = Training(run)
    strike(run, 35, 38, onset=ONSET)
    with pytest.raises(Stopped):
        training.go()
    run = life.begin()
    training = Training(run)
    assert run.stepper.step_number == 0
    strike(run, 45, onset=ONSET)
    training.go()
    assert training.steps[-1] > 45


def test_an_incident_that_is_only_to_be_told_changes_nothing_and_what_is_newer_is_not_good(
    life: Lives,
) -> None:
    run = life.begin(
        heal={"explosion": {"do": "tell"}, "loss_lost": {"skip_batches": 0, "change": {}}}
    )
    training = Training(run, epochs=7)
    strike(run, 44, onset=15)
    strike(run, 55, onset=46, kind="loss_lost")
    training.go()
    assert [each.data["plan"]["do"] for each in life.events("incident")] == ["tell", "rollback"]
    # 20 and 30 were good already; 40 was not, lies after the onset, and so never will be.
    assert life.events("rollback")[0].data["step"] == 30


def test_where_no_good_state_is_older_the_oldest_one_is_taken(
    life: Lives, no_memory: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin(checkpoint={"every": "10 steps", "confirm_steps": 5, "keep": 1})
    patient(life)
    training = Training(run, epochs=6)
    strike(run, 48, onset=3)
    training.go()
    # Of the good ones the two newest are kept.
    assert life.events("rollback")[0].data["step"] == 30
    assert any("back to step 30 (good, the oldest, from step" in line for line in said(capsys))


def test_without_any_good_state_the_run_stops_and_says_so(
    life: Lives, no_memory: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin()
    training = Training(run)
    strike(run, 12)
    life.monkeypatch.setattr("hpckit.checkpoint.search.Search.good", lambda *args: [])
    run.around.__dict__.pop("store", None)
    life.monkeypatch.setattr("hpckit.train.snapshots.Ring.good", lambda *args: [])
    with pytest.raises(Stopped, match="there is no good state to go back to"):
        training.go()
    assert any("no good state" in line for line in said(capsys))
    assert life.events("stopped")


def test_a_state_that_is_not_finite_is_never_gone_back_to(life: Lives) -> None:
    run = life.begin()
    training = Training(run, epochs=5, clip=None)

    def spoil(step: int) -> None:
        # Weights that are not finite, and a loss that does not show it.
        if step == 19 and len(training.seen) == 20:
            training.model[4].bias.data.fill_(math.inf)
        if step == 20 and len(training.seen) == 21:
            training.model[4].bias.data.fill_(0.0)

    strike(run, STRUCK, onset=ONSET)
    training.go(each=spoil)
    assert life.events("rollback")[0].data["step"] == 10


def test_a_mask_of_infinities_makes_no_state_bad(life: Lives) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 1)
            self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.line(x)

    run = life.begin()
    training = Training(run, epochs=5, model=Masked)
    strike(run, STRUCK, onset=ONSET)
    training.go()
    assert life.events("rollback")[0].data["step"] == BACK
    assert all(each.finite for each in life.wait().all())


def test_a_best_so_far_of_infinity_makes_no_state_bad(life: Lives) -> None:
    run = life.begin()
    run.values["best"] = torch.tensor(math.inf)
    training = Training(run, epochs=5)
    strike(run, STRUCK, onset=ONSET)
    training.go()
    assert life.events("rollback")[0].data["step"] == BACK
    assert all(each.finite for each in life.wait().all())


def test_steps_that_were_held_back_do_not_confirm(life: Lives) -> None:
    run = life.begin(heal={"explosion": {"change": {}, "skip_batches": 0}})
    training = Training(run, epochs=5)
    # Of the ten steps after 20 the gate let two less through; 31 is too early then, 32 is not.
    held = {23, 27}
    end = run.stepper.end

    def gated() -> Any:
        found = end()
        run.stepper.judged = [(step, step not in held) for step, _ in run.stepper.judged]
        return found

    run.stepper.end = gated
    goods = {}
    training.go(
        each=lambda step: goods.__setitem__(
            step, {each.step: each.good for each in run._keeper.ring.all}
        )
    )
    assert goods[31][20] is None
    assert goods[32][20] is True
    assert goods[39][30] is None
    assert goods[40][30] is True


def test_a_state_of_before_another_group_of_parameters_is_no_target(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    run = life.begin()
    training = Training(run, schedule=None)
    strike(run, STRUCK, onset=ONSET)

    def each(step: int) -> None:
        if step == 22:
            training.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})

    with pytest.raises(Stopped, match="no good state to go back to"):
        training.go(each=each)
    assert any("is passed over: the checkpoint does not fit" in line for line in said(capsys))

"""A plan is data that goes through JSON, and a line for a person."""

from __future__ import annotations

import json

import pytest

from hpckit.heal import Plan
from hpckit.spec import Change

HALVED = {"clip": Change(times=0.5), "lr": Change(times=0.5)}

LINES = [
    (Plan(do="tell", reason=""), "nothing is done"),
    (Plan(do="skip", reason=""), "this update is left out"),
    (
        Plan(do="rollback", reason="", changes=HALVED, skip_batches=100, before=8097),
        "go back to the newest good state before step 8097, clip x0.5, lr x0.5, "
        "100 batches skipped",
    ),
    (
        Plan(do="rollback", reason="", changes=HALVED, of=("generator",), back=1, before=8097),
        "go back to one good state further back than the newest before step 8097, "
        "clip x0.5, lr x0.5 of generator",
    ),
    (
        Plan(do="rollback", reason="", of=("a", "b"), changes=HALVED, back=2, skip_batches=1),
        "go back to 2 good states further back than the newest, clip x0.5, lr x0.5 of a and b, "
        "1 batch skipped",
    ),
    (
        # Of a program with one optimizer nobody asks whose.
        Plan(do="relaunch", reason="", changes={"lr": Change(times=0.5, min=0.05)}, of=("main",)),
        "start the processes again from the newest good state, lr x0.5 (not below 0.05)",
    ),
    (
        Plan(do="resubmit", reason="", changes={"resources.memory": Change(times=1.5)}, of=("a",)),
        "end this attempt, and begin the next one from the newest good state, resources.memory "
        "x1.5",
    ),
    (Plan(do="stop", reason="why", diagnosis="structural: x"), "stop: structural: x"),
    (Plan(do="stop", reason="why"), "stop: why"),
]


@pytest.mark.parametrize(("plan", "line"), LINES)
def test_a_plan_is_one_line_for_a_person(plan: Plan, line: str) -> None:
    assert str(plan) == line


@pytest.mark.parametrize("plan", [each[0] for each in LINES])
def test_a_plan_is_the_same_after_json(plan: Plan) -> None:
    written = json.dumps(plan.to_json(), allow_nan=False)
    assert Plan.from_json(json.loads(written)) == plan


def test_what_json_holds_of_a_plan() -> None:
    plan = Plan(do="rollback", reason="why", changes={"lr": Change(times=0.5)}, of=("g",), before=7)
    assert plan.to_json() == {
        "do": "rollback",
        "reason": "why",
        "changes": {"lr": {"times": 0.5}},
        "of": ["g"],
        "skip_batches": 0,
        "before": 7,
        "back": 0,
        "intact": False,
        "exclude": [],
        "wait_s": 0,
        "diagnosis": None,
        "sentence": "go back to the newest good state before step 7, lr x0.5 of g",
    }


def test_what_another_version_wrote_is_read() -> None:
    assert Plan.from_json({"do": "tell", "reason": "why", "new": 1}) == Plan(
        do="tell", reason="why"
    )


@pytest.mark.parametrize("plan", [each[0] for each in LINES])
def test_what_goes_on_from_a_state_of_before_restarts(plan: Plan) -> None:
    assert plan.restarts == (plan.do in ("rollback", "relaunch", "resubmit"))

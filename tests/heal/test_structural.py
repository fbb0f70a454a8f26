"""What no restart heals is told from what may still heal: the founding story and its neighbours."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from hpckit.heal import Plan, Rules
from hpckit.monitor import Incident
from hpckit.monitor.incident import Division
from hpckit.spec import Change, Remedy
from tests.heal.conftest import WORST, answered, explosion

RULES = Rules()
STEPS = (8123, 8131, 8150)
NORMS = (1_557_911.0, 1_467_765.0, 3_350_000.0)
# The founding run, with the fix that was made (clip loosened, the clamp moved) or without it.
FOUNDING = [explosion(step, value=norm) for step, norm in zip(STEPS, NORMS, strict=True)]


def third(*incidents: Incident, rules: Rules = RULES) -> Plan:
    plans, _ = answered(incidents, rules)
    assert [plan.do for plan in plans[:-1]] == ["rollback"] * (len(incidents) - 1)
    return plans[-1]


def is_structural(plan: Plan) -> bool:
    return plan.do == "stop" and (plan.diagnosis or "").startswith("structural: ")


def varied(number: int, **more: Any) -> list[Incident]:
    """The founding story with one of its incidents otherwise."""
    return [
        dataclasses.replace(each, **more) if at == number else each
        for at, each in enumerate(FOUNDING)
    ]


def test_the_same_growth_in_the_same_parameter_after_two_restarts_is_structural() -> None:
    plan = third(*FOUNDING)
    assert plan.diagnosis == (
        f"structural: the same growth in {WORST} after two restarts with clip x0.5, lr x0.5 "
        "(step 8123: norm 1.6e6, 230000 times its usual 6.9; "
        "step 8131: norm 1.5e6, 210000 times its usual 6.9; "
        "step 8150: norm 3.4e6, 490000 times its usual 6.9). "
        "Clipping and learning rate cannot heal that. Look beside this parameter for a division "
        "by something that shrinks (a normalisation, a rescale, a variance) and bound it: "
        "a clamp on the quotient, or a floor under the divisor"
    )
    assert plan.changes == {}


def test_the_division_that_was_seen_last_beside_the_parameter_is_named() -> None:
    division = Division(
        place="model.py:84 in Stage.forward (cascade_stages.2)",
        line="loud = rms(target) / (rms(out) + 1e-8)",
        smallest=3.1e-9,
        largest=2.2e8,
    )
    for at in (1, 2):
        plan = third(*varied(at, division=division))
        assert (plan.diagnosis or "").endswith(
            "Clipping and learning rate cannot heal that. The division beside it, model.py:84 in "
            "Stage.forward (cascade_stages.2): `loud = rms(target) / (rms(out) + 1e-8)`, was by "
            "as little as 3.1e-9 and gave up to 2.2e8. Bound it: a clamp on the quotient, or a "
            "floor under the divisor"
        )


def test_two_of_them_are_not_enough() -> None:
    plans, _ = answered(FOUNDING[:2], RULES)
    assert [plan.do for plan in plans] == ["rollback", "rollback"]
    assert [plan.back for plan in plans] == [0, 1]


STILL = [
    ("another parameter", varied(2, parameter="encoder.weight")),
    ("another parameter before", varied(1, parameter="encoder.weight")),
    ("another parameter at first", varied(0, parameter="encoder.weight")),
    ("another optimizer's", varied(1, optimizer="discriminator")),
    ("no parameter known", [dataclasses.replace(each, parameter=None) for each in FOUNDING]),
    ("no norm known at last", varied(2, value=None)),
    ("no norm known at first", varied(0, value=None)),
    ("not known what is usual", varied(1, usual=None)),
    ("nothing is usual", varied(1, usual=0.0)),
    ("only epoch 2's growth at last", varied(2, value=45.3)),
    ("only epoch 2's growth after the first restart", varied(1, value=45.3)),
    ("no growth at all", [dataclasses.replace(each, value=6.9) for each in FOUNDING]),
    ("the first restart came further", varied(1, step=8224)),
    ("the second restart came further", varied(2, step=8224)),
    ("non-finite at first, then finite", varied(0, value=math.inf)),
    ("a lost loss between", varied(1, kind="loss_lost", parameter=None)),
]


@pytest.mark.parametrize("story", [each[1] for each in STILL], ids=[each[0] for each in STILL])
def test_where_it_may_still_heal_the_third_restart_is_tried(story: list[Incident]) -> None:
    assert third(*story).do == "rollback"


TOO = [
    ("not quite past the first incident's place", varied(2, step=8223)),
    ("growth fell, by less than half of its decades", varied(2, value=6.9 * 500)),
    ("epoch 2's growth grew", varied(0, value=45.3)),
    ("non-finite at last", varied(2, value=math.inf)),
    ("never a number", [dataclasses.replace(each, value=math.nan) for each in FOUNDING]),
    ("it came back under another name", varied(1, kind="non_finite")),
]


@pytest.mark.parametrize("story", [each[1] for each in TOO], ids=[each[0] for each in TOO])
def test_it_is_structural_all_the_same(story: list[Incident]) -> None:
    assert is_structural(third(*story))


def test_growth_that_fell_by_more_than_half_of_its_decades_is_healing() -> None:
    growth = FOUNDING[0].value / 6.9
    assert is_structural(third(*varied(2, value=6.9 * growth**0.51)))
    assert third(*varied(2, value=6.9 * growth**0.49)).do == "rollback"


@pytest.mark.parametrize(
    ("change", "structural"),
    [
        ({"clip": Change(times=0.5)}, True),
        ({"lr": Change(times=0.5)}, True),
        ({"clip": Change(to=0.1)}, True),
        # What was done to the founding run: the clip went from 1 to 5.
        ({"clip": Change(times=5.0)}, False),
        ({"params.loss.correlation": Change(times=0.2)}, False),
    ],
)
def test_only_tightened_restarts_prove_that_tightening_does_not_help(
    change: dict[str, Change], structural: bool
) -> None:
    rules = Rules(remedies={"explosion": Remedy(change=change)})
    assert is_structural(third(*FOUNDING, rules=rules)) == structural


def test_a_non_finite_norm_is_told_as_such() -> None:
    plan = third(*varied(2, value=math.inf))
    assert "step 8150: norm not finite)" in (plan.diagnosis or "")


def test_progress_between_takes_the_proof_away() -> None:
    plans, _ = answered(FOUNDING, RULES, healthy=1000)
    assert [plan.do for plan in plans] == ["rollback"] * 3


def test_a_budget_of_two_is_told_as_structural_where_it_is() -> None:
    rules = Rules(remedies={"explosion": Remedy(limit=2)})
    assert is_structural(third(*FOUNDING, rules=rules))


def test_a_budget_of_one_leaves_no_second_restart_to_prove_it() -> None:
    rules = Rules(remedies={"explosion": Remedy(limit=1)})
    plans, _ = answered(FOUNDING[:2], rules)
    assert plans[-1].do == "stop"
    assert not is_structural(plans[-1])

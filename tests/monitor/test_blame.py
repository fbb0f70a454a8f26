"""Whom an incident names, and how its sentence says so."""

from __future__ import annotations

import json
import math

import pytest

from hpckit.monitor.blame import blame
from hpckit.monitor.incident import Answer, Incident


def incident(answer: Answer, *, kind: str = "non_finite", optimizer: str | None = None) -> Incident:
    return Incident(kind=kind, step=8, answer=answer, said="loss nan", optimizer=optimizer)


ALL_NAN = {"a": math.nan, "b": math.nan}


def test_the_worst_parameter_has_the_largest_share_of_the_squared_norm() -> None:
    found = blame(incident("act"), [(8, {"a": 3.0, "b": 4.0})])
    assert (found.parameter, found.share) == ("b", pytest.approx(0.64))


def test_where_some_norms_are_not_finite_the_first_of_them_is_where_it_began() -> None:
    found = blame(incident("skip"), [(8, {"a": 1.0, "b": math.inf, "c": math.nan})])
    assert (found.parameter, found.share) == ("b", None)


def test_of_a_growth_that_ended_in_nan_the_step_before_tells_the_parameter() -> None:
    found = blame(incident("act"), [(8, ALL_NAN), (7, {"a": 900.0, "b": 1.0})])
    assert found.parameter == "a"


def test_no_parameter_is_to_blame_for_a_bad_batch_that_made_every_norm_nan() -> None:
    found = blame(incident("skip"), [(8, ALL_NAN), (7, {"a": 2.0, "b": 1.0})])
    assert found.parameter is None


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (None, "step 8: loss nan"),
        ("main", "step 8: loss nan"),
        ("generator", "step 8: generator: loss nan"),
    ],
)
def test_the_sentence_says_which_optimizer_where_there_are_several(
    optimizer: str | None, said: str
) -> None:
    assert str(incident("skip", optimizer=optimizer)) == said


def test_an_incident_comes_back_from_json_with_numbers_that_json_has_not() -> None:
    made = Incident(kind="non_finite", step=8, answer="skip", said="norm inf", value=math.inf)
    fields = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert Incident.from_json({**fields, "from_a_later_version": 1}) == made


def test_the_sentence_goes_into_json_with_parameter_and_onset() -> None:
    found = Incident(
        kind="explosion",
        step=9,
        answer="act",
        said="gradient norm 4.1e6, 620 times its usual 6.6",
        onset=5,
        parameter="head.weight",
        share=0.94,
    )
    assert found.to_json()["sentence"] == (
        "gradient norm 4.1e6, 620 times its usual 6.6; worst parameter head.weight (94% of it); "
        "growing since step 5"
    )


def test_norms_whose_squares_overflow_have_shares_too() -> None:
    found = blame(incident("act"), [(8, {"a": 1e200, "b": 1e200})])
    assert (found.parameter, found.share) == ("a", pytest.approx(0.5))


def test_gradients_of_zero_are_nobodys_fault() -> None:
    assert blame(incident("act"), [(8, {"a": 0.0, "b": 0.0})]).parameter is None

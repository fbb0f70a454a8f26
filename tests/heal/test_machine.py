"""What is done about a program that ended, or a machine that failed it."""

from __future__ import annotations

from typing import Any

import pytest

from hpckit.heal import Past, Plan, Rules, decide
from hpckit.monitor import Incident
from hpckit.spec import Change, Remedy
from hpckit.spec.parts import INFRASTRUCTURE
from tests.heal.conftest import explosion, other


def past(incident: Incident, *, gained: int | None = 100, **plan: Any) -> Past:
    fields: dict[str, Any] = {"do": "relaunch", "reason": "", "intact": True, **plan}
    return Past(incident=incident, plan=Plan(**fields), step=100, healthy=50, gained=gained)


def story(kinds: list[str], *, gained: int | None = 100, **more: Any) -> list[str]:
    """What is done about troubles that come one after the other."""
    history: list[Past] = []
    done = []
    for number, kind in enumerate(kinds):
        plan = decide(other(kind, 1000 + number, **more), history, Rules())
        done.append(plan.do)
        found = past(other(kind, 1000 + number, **more), gained=gained, do=plan.do)
        history.append(found)
    return done


STORIES = [
    (["crash"] * 4, ["relaunch", "relaunch", "resubmit", "stop"]),
    (["hang"] * 4, ["relaunch", "relaunch", "resubmit", "stop"]),
    (["out_of_memory"] * 3, ["resubmit", "resubmit", "stop"]),
    (["crash", "hang", "crash", "hang"], ["relaunch"] * 4),
    (["time_limit"] * 20, ["resubmit"] * 20),
    (["preemption", "node_failure"] * 10, ["resubmit"] * 20),
]


@pytest.mark.parametrize(("kinds", "done"), STORIES)
def test_each_kind_has_a_budget_of_its_own_and_the_clusters_have_none(
    kinds: list[str], done: list[str]
) -> None:
    assert story(kinds) == done


@pytest.mark.parametrize("kinds", [["crash", "hang", "out_of_memory"], ["time_limit"] * 3,
                                   ["preemption", "crash", "node_failure"]])  # fmt: skip
def test_no_progress_in_three_tries_stops_whatever_the_budgets_say(kinds: list[str]) -> None:
    assert story([*kinds, "time_limit"], gained=0)[-1] == "stop"
    # One of them brought something, or nobody knows.
    assert story([*kinds, "time_limit"], gained=1)[-1] == "resubmit"
    assert story([*kinds, "time_limit"], gained=None)[-1] == "resubmit"


def test_what_was_tried_in_vain_is_told() -> None:
    history = [past(other("time_limit", 40, said="time limit"), gained=0, do="resubmit")] * 3
    plan = decide(other("time_limit", 40, said="time limit"), history, Rules())
    assert plan.diagnosis == (
        "no progress in 3 restarts: time_limit at step 40 -> went on from step 100, each time; "
        "now time_limit at step 40, time limit"
    )


def test_an_error_that_comes_back_at_the_same_place_is_not_tried_again() -> None:
    error = {"place": "train.py:12 in loss: ValueError", "said": "ValueError: no"}
    before = [past(other("crash", 500, **error))]
    plan = decide(other("crash", 500, **error), before, Rules())
    assert (plan.do, plan.diagnosis) == (
        "stop",
        "ValueError: no, once more: a restart does not mend that",
    )
    # It came further, or it is another place, or nobody knows the place.
    assert decide(other("crash", 501, **error), before, Rules()).do == "relaunch"
    elsewhere = {**error, "place": "train.py:13 in loss: ValueError"}
    assert decide(other("crash", 500, **elsewhere), before, Rules()).do == "relaunch"
    assert decide(other("crash", 500), [past(other("crash", 500))], Rules()).do == "relaunch"


def test_two_attempts_that_came_to_no_step_stop_the_run() -> None:
    early = other("crash", 0, early=True)
    first = [past(early), past(early), past(early, do="resubmit")]
    rules = Rules(remedies={"crash": Remedy(limit=9)})
    assert decide(early, first, rules).do == "relaunch"
    rules = Rules(remedies={"crash": Remedy(do="resubmit", limit=9)})
    plan = decide(early, first, rules)
    assert (plan.do, plan.reason) == ("stop", "two attempts in a row came to no step")
    # A step was done in between, or the cluster took the first one away.
    assert decide(early, [past(other("crash", 5), do="resubmit")], rules).do == "resubmit"
    taken = other("preemption", 0, early=True)
    assert decide(early, [past(taken, do="resubmit")], rules).do == "resubmit"


def test_a_program_that_finds_no_gpu_on_any_node_is_not_tried_on_all_of_them() -> None:
    said = {"place": "train.py:2 in <module>: RuntimeError", "node": "n1"}
    early = other("node_failure", 0, early=True, **said)
    before = [past(early, do="resubmit", gained=None)]
    assert decide(early, before, Rules()).reason == "two attempts in a row came to no step"
    # Later on two bad nodes are bad luck, wherever the program was; and so are two that were lost.
    late = other("node_failure", 50, **said)
    assert decide(late, [past(late, do="resubmit")], Rules()).do == "resubmit"
    lost = other("node_failure", 0, early=True, node="n1")
    assert decide(lost, [past(lost, do="resubmit", gained=None)], Rules()).do == "resubmit"


def test_the_next_attempt_waits_where_the_cluster_is_the_cause_and_nothing_was_gained() -> None:
    lost = other("node_failure", 10)
    waits = []
    for number in range(3):
        history = [past(lost, gained=0, do="resubmit")] * number
        waits.append(decide(lost, history, Rules()).wait_s)
    assert waits == [0, 60, 120]
    assert decide(lost, [past(lost, gained=5, do="resubmit")] * 2, Rules()).wait_s == 0
    assert decide(other("crash"), [past(lost, gained=0, do="resubmit")] * 2, Rules()).wait_s == 0


def test_a_bad_node_is_left_out() -> None:
    assert decide(other("node_failure", node="n1"), [], Rules()).exclude == ("n1",)
    assert decide(other("preemption", node="n1"), [], Rules()).exclude == ()
    hang = other("hang", node="n1")
    assert decide(hang, [], Rules()).exclude == ()
    # What hung there twice is tried elsewhere.
    assert decide(hang, [past(hang)] * 2, Rules()).exclude == ("n1",)


def test_where_fewer_nodes_are_enough_a_bad_one_is_left_out_at_once() -> None:
    rules = Rules(spare_nodes=1)
    plan = decide(other("node_failure", node="n1"), [], rules)
    assert (plan.do, plan.exclude) == ("relaunch", ("n1",))
    assert decide(other("node_failure"), [], rules).do == "resubmit"
    stops = Rules(spare_nodes=1, remedies={"node_failure": Remedy(do="stop")})
    assert decide(other("node_failure", node="n1"), [], stops).do == "stop"


def test_more_memory_is_asked_for_when_it_was_too_little() -> None:
    plan = decide(other("out_of_memory"), [], Rules())
    assert plan.changes == {"resources.memory": Change(times=1.5)}
    assert plan.intact
    assert str(plan) == (
        "end this attempt, and begin the next one from the newest state that is intact, "
        "resources.memory x1.5"
    )


def test_the_spec_may_say_otherwise() -> None:
    for do in ("tell", "stop", "resubmit"):
        rules = Rules(remedies={"crash": Remedy(do=do)})  # type: ignore[arg-type]
        assert decide(other("crash"), [], rules).do == do
    rules = Rules(remedies={"time_limit": Remedy(limit=1)})
    assert decide(other("time_limit"), [past(other("time_limit"))], rules).do == "stop"
    none = Rules(remedies={"crash": Remedy(limit=0)})
    assert decide(other("crash"), [], none).do == "stop"


def test_a_person_who_starts_it_again_gives_every_budget_back() -> None:
    spent = [past(other("crash"))] * 3
    by_hand = past(other("by_hand"), do="resubmit")
    assert decide(other("crash"), spent, Rules()).do == "stop"
    assert decide(other("crash"), [*spent, by_hand], Rules()).do == "relaunch"


def test_trouble_of_the_machine_and_of_the_numbers_do_not_spend_each_others_budgets() -> None:
    machine = [past(other(kind), do="relaunch") for kind in INFRASTRUCTURE]
    assert decide(explosion(), machine, Rules()).reason.endswith("restart 1 of 3")
    numbers = [past(explosion(), do="rollback", intact=False)] * 3
    assert decide(other("crash"), numbers, Rules()).reason.endswith("restart 1 of 3")

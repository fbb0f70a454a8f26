"""What was done, as the ledger tells it; what is still to be done; and what is in force by now."""

from __future__ import annotations

from typing import Any

from hpckit.checkpoint.lineage import believed
from hpckit.heal import Plan
from hpckit.heal.history import closed, history_of
from hpckit.heal.in_force import (
    applied_resources,
    params_in_force,
    plans_in_force,
    resources_in_force,
)
from hpckit.heal.pending import pending, trouble, wishes
from hpckit.ledger import Event
from hpckit.monitor import Incident
from hpckit.spec import Change
from hpckit.spec.parts import Resources
from tests.heal.conftest import explosion, other

HALVED = {"params.lr": Change(times=0.5)}


class Story:
    """The events of a run, one after the other."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._plan = Plan(do="resubmit", reason="")

    def add(self, kind: str, attempt: int = 1, launch: int | None = 1, **data: Any) -> Story:
        where = {"attempt": attempt, **({} if launch is None else {"launch": launch})}
        time = f"2026-01-01T00:00:{len(self.events):02d}.000000Z"
        self.events.append(Event(time=time, writer="w", kind=kind, data={**where, **data}))
        return self

    def decided(self, kind: str, incident: Incident, plan: Plan, **data: Any) -> Story:
        return self.add(kind, incident=incident.to_json(), plan=plan.to_json(), **data)


def restart(**more: Any) -> Plan:
    return Plan(**{"do": "relaunch", "reason": "", "intact": True, **more})


def test_a_restart_of_the_worker_went_on_from_where_the_training_says() -> None:
    story = Story().add("resumed", step=0)
    story.decided("restart", other("crash", 50), restart(), saved=40)
    (only,) = history_of(story.events)
    assert only.step == 40
    story.add("resumed", launch=2, step=20)
    story.decided("restart", other("hang", 70), restart(), launch=2, saved=60)
    first, second = history_of(story.events)
    assert (first.step, first.healthy, first.gained) == (20, 20, 40)
    assert second.step == 60


def test_steps_that_are_done_again_are_no_progress_and_what_is_saved_is() -> None:
    history = history_of(Story().decided("restart", other("crash", 50), restart(), saved=40).events)
    (now,) = closed(history, 50, 40)
    assert (now.healthy, now.gained) == (0, 0)
    (now,) = closed(history, 49, None)
    assert (now.healthy, now.gained) == (0, None)
    (now,) = closed(history, 90, 80)
    assert (now.healthy, now.gained) == (40, 40)


def test_what_a_person_asked_for_is_pending_until_a_training_has_done_it() -> None:
    by_hand = other("by_hand", 50, said="by ana")
    plan = restart(do="resubmit", changes={"lr": Change(times=0.5)})
    story = Story().decided("restart", by_hand, plan, launch=None, by_hand=True, checkpoint="c")
    waiting = pending(story.events)
    assert waiting is not None
    assert (waiting.is_by_hand, waiting.checkpoint, waiting.plan) == (True, "c", plan)
    story.decided("rollback", by_hand, plan, attempt=2, step=40, from_step=40)
    assert pending(story.events) is None
    # Once, though it was asked for and done.
    assert len(history_of(story.events)) == len(plans_in_force(story.events)) == 1


def test_what_was_asked_for_and_overtaken_is_done_in_its_place_and_once() -> None:
    halved = restart(do="resubmit", changes=HALVED)
    longer = restart(do="resubmit", changes={"params.epochs": Change(to=20)})
    # Within a second their words are the same.
    by_hand = other("by_hand", 50, said="by ana, 12:00:00")
    story = Story().decided("restart", by_hand, halved, launch=None, by_hand=True)
    story.decided("restart", by_hand, longer, launch=None, by_hand=True)
    story.decided("restart", other("node_failure", 50), restart(do="resubmit"), launch=None)
    assert [each.plan for each in wishes(story.events)] == [longer, halved]
    usual = {"main": 7.0}
    story.decided("rollback", by_hand, longer, attempt=2, step=40, from_step=40, usual=usual)
    assert wishes(story.events) == []
    history = history_of(story.events)
    assert [each.plan for each in history] == [halved, longer, restart(do="resubmit")]
    assert [each.usual for each in history] == [usual, usual, {}]


def test_a_plain_restart_by_hand_waits_for_nobody() -> None:
    story = Story().decided("restart", other("by_hand"), restart(), launch=None, by_hand=True)
    assert pending(story.events) is None


def test_an_explosion_that_ended_the_process_is_pending_and_its_changes_are_in_force() -> None:
    plan = Plan(do="resubmit", reason="", changes=HALVED)
    story = Story().decided("incident", explosion(), plan)
    waiting = pending(story.events)
    assert waiting is not None
    assert not waiting.is_by_hand
    assert params_in_force({"lr": 0.1}, plans_in_force(story.events)) == {"lr": 0.05}
    story.decided("rollback", explosion(), plan, attempt=2, step=8000)
    assert pending(story.events) is None
    assert params_in_force({"lr": 0.1}, plans_in_force(story.events)) == {"lr": 0.05}
    stopped = Story().decided("incident", explosion(), Plan(do="stop", reason=""))
    assert pending(stopped.add("stopped", reason="").events) is None


def test_numbers_that_went_wrong_wait_for_who_comes_back_whatever_else_ends_the_run() -> None:
    story = Story().add("resumed", step=0)
    story.decided("restart", explosion(), Plan(do="rollback", reason="", before=8000))
    story.decided("restart", other("node_failure"), restart(do="resubmit"))
    waiting = trouble(story.events, "resumed")
    assert waiting is not None
    assert (waiting.incident, waiting.before) == (explosion(), 8000)
    assert trouble(story.add("resumed", attempt=2, step=7900).events, "resumed") is None
    # What stopped the run is found beyond the person's word that starts it again.
    story.decided("stopped", explosion(), Plan(do="stop", reason=""), attempt=2)
    story.decided("restart", other("by_hand"), restart(), attempt=2, by_hand=True)
    waiting = trouble(story.events, "resumed")
    assert waiting is not None
    assert waiting.before == explosion().onset


def test_numbers_that_were_only_told_of_lead_nobody_back() -> None:
    story = Story().decided("incident", explosion(), Plan(do="tell", reason=""))
    assert trouble(story.events, "rollback") is None


def test_params_pile_up_and_the_specs_own_stay_as_they_are() -> None:
    given = {"lr": 0.1, "loss": {"w": 1.0}}
    nested = Plan(do="relaunch", reason="", changes={"params.loss.w": Change(to=0.5)})
    twice = [Plan(do="relaunch", reason="", changes=HALVED)] * 2
    assert params_in_force(given, [*twice, nested]) == {"lr": 0.025, "loss": {"w": 0.5}}
    assert given == {"lr": 0.1, "loss": {"w": 1.0}}


def test_resources_grow_from_what_was_asked_or_else_from_what_was_given() -> None:
    more = restart(changes={"resources.memory": Change(times=1.5)}, exclude=("n1",))
    asked, excluded = resources_in_force(Resources(memory=1000), [more, more], {})
    assert (asked.memory, excluded) == (2250, ("n1",))
    assert resources_in_force(Resources(), [more], {"memory": 4000})[0].memory == 6000
    assert resources_in_force(Resources(), [more], {})[0].memory is None
    set_ = restart(changes={"resources.memory": Change(to="2G"), "resources.time": Change(to="2d")})
    asked, _ = resources_in_force(Resources(memory=1), [set_], {})
    assert (asked.memory, asked.time) == (2048, 172_800)
    most = restart(changes={"resources.memory": Change(times=4, max="3G")})
    assert resources_in_force(Resources(memory=2048), [most], {})[0].memory == 3072


def test_what_was_asked_and_what_was_given_are_told_apart() -> None:
    more = restart(do="resubmit", changes={"resources.memory": Change(times=2)}, exclude=("n1",))
    story = Story().add("resumed", step=0).decided("restart", other("out_of_memory"), more)
    asked = Resources(memory=100)
    assert applied_resources(asked, story.events, had={}, has={"memory": 200}) == [
        "memory 100M -> 200M",
        "n1 excluded",
    ]
    assert applied_resources(asked, story.events, had={}, has={"memory": 100})[0] == (
        "memory 100M -> 200M, not given: 100M"
    )
    # There was no other node to have.
    assert applied_resources(asked, story.events, had={}, has={}, nodes=["n1"]) == [
        "memory 100M -> 200M"
    ]
    # It was told by the attempt that got it.
    story.add("resumed", attempt=2, step=0)
    assert applied_resources(asked, story.events, had={}, has={"memory": 200}) == []
    story.decided("restart", other("out_of_memory"), more, attempt=2)
    told = applied_resources(asked, story.events, had={}, has={"memory": 400})
    assert told == ["memory 200M -> 400M"]


def test_resources_are_told_with_their_units() -> None:
    plan = restart(
        do="resubmit",
        changes={"resources.time": Change(to="2m"), "resources.memory": Change(to="1G")},
    )
    story = Story().add("resumed", step=0).decided("restart", other("by_hand"), plan)
    told = applied_resources(Resources(time=600), story.events, had={}, has={})
    assert told == ["memory none -> 1G", "time 10m -> 2m"]


def test_what_an_old_launch_writes_when_a_new_one_serves_is_not_believed() -> None:
    story = Story().add("resumed", step=0).add("resumed", launch=2, step=40)
    story.decided("rollback", explosion(), Plan(do="rollback", reason=""), launch=1, step=7)
    story.decided("rollback", explosion(), Plan(do="rollback", reason=""), launch=2, step=8)
    found = [each for each in believed(story.events) if each.kind == "rollback"]
    assert [each.data["step"] for each in found] == [8]

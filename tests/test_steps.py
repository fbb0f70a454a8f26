"""From which step to which each attempt came, and what of it was lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpckit.clock import iso
from hpckit.ledger import Event
from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.writer import ReadingsWriter
from hpckit.run import Attempt
from hpckit.status.steps import incidents, steps_done, stretches


@pytest.fixture
def attempts(tmp_path: Path) -> list[Attempt]:
    """Three; the last step that was read of each is by hand."""
    made = []
    for number, last in ((1, 120), (2, 260), (3, None)):
        folder = tmp_path / f"{number:03d}"
        folder.mkdir()
        if last is not None:
            readings(Attempt(number=number, dir=folder), last - 3, last)
        made.append(Attempt(number=number, dir=folder))
    return made


def readings(attempt: Attempt, first: int, end: int) -> None:
    writer = ReadingsWriter(attempt.dir / "readings" / "launch-1")
    for step in range(first, end):
        writer.write(Reading(step=step, values={"train/loss": 1.0}, time=0.0))
    writer.close()


def event(kind: str, **data: Any) -> Event:
    return Event(time=iso(0.0), writer="w", kind=kind, data=data)


def test_the_last_step_of_the_newest_launch_counts(attempts: list[Attempt]) -> None:
    assert [steps_done(each) for each in attempts] == [120, 260, None]
    writer = ReadingsWriter(attempts[0].dir / "readings" / "launch-2")
    writer.write(Reading(step=140, values={"train/loss": 1.0}, time=0.0))
    writer.close()
    assert steps_done(attempts[0]) == 141


def test_each_attempt_came_as_far_as_it_came_wherever_the_next_began(
    attempts: list[Attempt],
) -> None:
    """Who is sent back to the beginning repeats what both before it have done."""
    events = [
        event("resumed", attempt=each, step=step) for each, step in ((1, 0), (2, 100), (3, 0))
    ]
    found = stretches(attempts, events)
    assert [(found[each].begin, found[each].end) for each in (1, 2)] == [(0, 120), (100, 260)]
    assert [found[each].lost for each in (1, 2, 3)] == [120, 160, 0]
    assert [found[each].lost_share for each in (1, 2, 3)] == [1.0, 1.0, 0.0]


def test_what_the_next_attempt_repeats_is_lost(attempts: list[Attempt]) -> None:
    events = [
        event("resumed", attempt=1, step=0),
        event("resumed", attempt=2, step=100),
    ]
    found = stretches(attempts, events)
    assert (found[1].begin, found[1].end, found[1].lost) == (0, 120, 20)
    assert found[1].lost_share == pytest.approx(20 / 120)
    assert (found[2].begin, found[2].end, found[2].lost) == (100, 260, 0)
    assert (found[3].begin, found[3].end, found[3].lost_share) == (None, None, 0.0)


def test_what_a_program_that_keeps_nothing_does_again_is_lost_whole(
    attempts: list[Attempt],
) -> None:
    """Its log alone says where it took up: of 117 the first is the first that is printed."""
    readings(attempts[2], 117, 150)
    found = stretches(attempts, [])
    assert (found[1].lost, found[1].end) == (120, 120)
    # By its first line the second one took up at 257.
    assert (found[2].lost, found[2].end, found[2].lost_share) == (3, 260, 1.0)
    assert (found[3].begin, found[3].end, found[3].lost_share) == (None, 150, 0.0)


def test_what_a_rollback_gave_up_is_lost_and_its_changes_are_told(attempts: list[Attempt]) -> None:
    events = [
        event("resumed", attempt=2, step=100),
        event("rollback", attempt=2, from_step=200, step=150, changed=["lr 1 -> 0.5"]),
        event("rollback", attempt=2, from_step=180, step=150, changed=["clip 1 -> 0.5"]),
    ]
    mine = stretches(attempts, events)[2]
    assert mine.lost == 80
    assert mine.changes == ["lr 1 -> 0.5", "clip 1 -> 0.5"]
    assert mine.lost_share == pytest.approx(80 / 240)


def test_a_second_launch_does_not_move_the_attempts_beginning(attempts: list[Attempt]) -> None:
    events = [
        event("resumed", attempt=1, launch=1, step=40),
        event("resumed", attempt=1, launch=2, step=80),
    ]
    assert stretches(attempts, events)[1].begin == 40


def test_events_of_attempts_that_are_not_known_are_passed_over(attempts: list[Attempt]) -> None:
    found = stretches(attempts, [event("resumed", attempt=9, step=4), event("submit")])
    assert found[1].begin is None


def test_an_incident_has_the_answer_that_belongs_to_it() -> None:
    struck = Incident(kind="explosion", step=35, answer="act", said="it grew", value=9.0).to_json()
    other = Incident(kind="explosion", step=60, answer="act", said="again", value=9.0).to_json()
    plan = {"do": "rollback", "sentence": "go back", "changes": {"lr": {"times": 0.5}}}
    found = incidents(
        [
            event("incident", attempt=1, incident=struck, plan=plan),
            event("rollback", attempt=1, incident=struck, step=20, changed=["lr 1 -> 0.5"]),
            event("incident", attempt=1, incident=other),
        ]
    )
    assert [each["applied"] for each in found] == [True, False]
    assert found[0]["resumed_step"] == 20
    assert found[0]["changed"] == ["lr 1 -> 0.5"]
    assert (found[1]["plan"], found[1]["changed"], found[1]["changes"]) == (None, [], {})


def test_what_comes_back_at_the_same_step_has_an_answer_of_its_own() -> None:
    struck = Incident(kind="non_finite", step=151, answer="act", said="loss nan").to_json()
    events = []
    # The second attempt ends what the first one had begun when it was killed.
    for attempt, step in ((1, 125), (1, 100), (2, 75)):
        events.append(event("incident", attempt=1, incident=struck))
        events.append(event("rollback", attempt=attempt, incident=struck, step=step))
    events.append(event("incident", attempt=2, incident=struck))
    assert [each["resumed_step"] for each in incidents(events)] == [125, 100, 75, None]
    # What was done about the second was not done about the first.
    del events[1]
    assert [each["resumed_step"] for each in incidents(events)] == [None, 100, 75, None]


def test_what_another_version_wrote_makes_no_error() -> None:
    found = incidents([event("incident", attempt=1, incident="text", plan="text")])
    assert found[0]["kind"] is None


def restarted(kind: str, step: int, then: int, do: str = "relaunch") -> list[Event]:
    about = Incident(kind=kind, step=step, answer="act", said="no").to_json()
    asked = event("restart", attempt=1, incident=about, plan={"do": do})
    return [asked, event("resumed", attempt=1, step=then)]


def test_only_what_came_past_an_incident_has_healed_it() -> None:
    def healed(events: list[Event], **more: Any) -> list[bool | None]:
        return [each["healed"] for each in incidents(events, **more)]

    crash = restarted("crash", 411, 400)
    assert healed(crash, came_to=411) == [None]
    assert healed(crash, came_to=411, is_over=True) == [False]
    assert healed(crash, came_to=412) == [True]
    assert healed([*crash, *crash], came_to=411) == [False, None]
    # What was tried in vain before is healed with the last of them.
    assert healed([*crash, *crash], came_to=500) == [True, True]
    assert healed([*crash, *restarted("hang", 420, 400)], is_over=True) == [True, False]
    # Until the next attempt has made a step, where it takes up says how far the run came.
    again = event("resumed", attempt=2, step=800)
    assert healed([*crash, *restarted("preemption", 0, 800), again]) == [True, None]
    explosion = restarted("explosion", 411, 300, do="rollback")
    assert healed(explosion, came_to=500, confirm_steps=100) == [None]
    assert healed(explosion, came_to=511, confirm_steps=100) == [True]


def test_numbers_that_go_wrong_again_before_they_count_as_healed_have_come_back() -> None:
    def came_back(*events: list[Event]) -> list[int | None]:
        found = incidents(
            [each for event in events for each in event], came_to=2000, confirm_steps=100
        )
        return [each["came_back"] for each in found]

    def explosion(step: int, kind: str = "explosion") -> list[Event]:
        return restarted(kind, step, step - 100, do="rollback")

    # By whichever name: it is one trouble. A preemption in between is another.
    assert came_back(explosion(535), explosion(594)) == [594, None]
    assert came_back(explosion(535), explosion(520, "loss_lost")) == [520, None]
    assert came_back(explosion(535), restarted("preemption", 560, 550), explosion(594)) == [
        594,
        None,
        None,
    ]
    assert came_back(explosion(535), explosion(635)) == [None, None]
    assert came_back(restarted("crash", 411, 400), restarted("crash", 411, 400)) == [None, None]

"""Lives that are cut short while they go back, and old ones that wake up when another has begun."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from hpckit.checkpoint.names import Segment
from hpckit.heal import Plan
from hpckit.ledger import Ledger
from hpckit.monitor.incident import Incident
from hpckit.train.healing import Stopped
from tests.train.inside import Lives, Training, run_json, strike

STRUCK, ONSET, BACK = 35, 25, 20


class Ended(Exception):
    """The program dies here."""


@pytest.fixture(autouse=True)
def patient(life: Lives) -> None:
    """A checkpoint every ten steps, each finds an idle disk; memory remembers as often."""
    life.spec["checkpoint"] = {"every": "10 steps", "confirm_steps": 10, "keep": 9}
    life.spec["heal"] = {"explosion": {"skip_batches": 4}}

    def wait(session: Any) -> None:
        session._keeper.saver.wait()

    life.monkeypatch.setattr("hpckit.train.session.Session._show", wait)


def live(life: Lives, *, until: int | None = None, dies_in: str | None = None) -> Training:
    """One life: until a step begins, or until a function of the returning is called."""

    def dies(*args: Any, **more: Any) -> None:
        raise Ended

    def each(step: int) -> None:
        if step == until:
            raise Ended

    training = Training(life.begin(), epochs=6, clip=1.0)
    if until is None and dies_in is None:
        return training.go()
    with pytest.MonkeyPatch.context() as patch:
        if dies_in is not None:
            strike(training.run, STRUCK, onset=ONSET)
            patch.setattr(f"hpckit.train.returning.Returning.{dies_in}", dies)
        with pytest.raises(Ended):
            training.go(each=each)
    life.wait()
    return training


def changed(training: Training) -> tuple[Any, ...]:
    watched = training.run.stepper.watched["main"]
    return watched.rate, watched.clip.norm


def test_who_dies_between_the_incident_and_the_rollback_goes_back_in_the_next_life(
    life: Lives,
) -> None:
    first = live(life, dies_in="_target")
    assert life.events("rollback") == []
    second = live(life, until=35)
    assert second.steps[0] == BACK
    assert changed(second) == (0.5, 0.5)
    (written,) = life.events("rollback")
    about = {name: written.data[name] for name in ("attempt", "rollbacks", "step", "number")}
    assert about == {"attempt": 2, "rollbacks": 1, "step": BACK, "number": 1}
    # The batches that led to it are known though nobody came to leave them out.
    assert written.data["skipped"] == [[3, 2, 6]]
    before, after = (
        [number for step, number in each.seen if step >= 30] for each in (first, second)
    )
    assert after[:2] == before[:2]
    assert not {*after[2:]} & {*before}
    # It is done: the third life goes on, and changes nothing once more.
    third = live(life, until=45)
    assert third.steps[0] == 30
    assert changed(third) == (0.5, 0.5)
    assert len(third.run.healer.history) == len(life.events("rollback")) == 1
    assert {each.changes for each in life.store.on_branch() if each.step > BACK} == {1}


def test_who_dies_between_the_rollbacks_line_and_the_load_goes_on_from_there(life: Lives) -> None:
    live(life, dies_in="_load")
    assert [each.data["step"] for each in life.events("rollback")] == [BACK]
    second = live(life)
    # Sixty batches in all, less the four that are left out.
    assert second.steps == [*range(BACK, 56)]
    assert changed(second) == (0.5, 0.5)
    assert len(life.events("rollback")) == 1


def test_after_a_stop_the_incident_before_it_asks_for_nothing_any_more(life: Lives) -> None:
    training = Training(life.begin(), epochs=6)
    strike(training.run, STRUCK, onset=ONSET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpckit.train.keeper.Keeper.target", lambda *args: None)
        with pytest.raises(Stopped, match="no good state"):
            training.go()
    assert life.events("incident")[0].data["plan"]["do"] == "rollback"
    # The newest one, and not a good one.
    second = live(life)
    assert second.steps[0] == 30
    assert changed(second) == (1.0, 1.0)
    assert life.events("rollback") == []


@pytest.mark.parametrize("room", [0, 8])
def test_a_fork_that_explodes_at_once_goes_back_to_where_it_was_forked(
    life: Lives, room: int
) -> None:
    live(life, until=25)
    source = life.checkpoint(20)
    assert not source.is_good
    life.monkeypatch.setattr("hpckit.train.keeper.how_many_fit", lambda *args: room)
    life.end()
    life.folder, life.attempt = life.folder.with_name("fork"), 0
    run = life.begin()
    run_json(life.folder, fork={"run": "bare/1", "checkpoint": str(source.path)})
    training = Training(run, epochs=6)
    strike(run, 21)
    training.go()
    assert [each.data["step"] for each in life.events("rollback")] == [20]
    assert training.steps == [20, 21, *range(20, 58)]


def test_a_fork_of_a_run_that_was_ended_goes_on_in_any_of_its_loops(life: Lives) -> None:
    def program(run: Any, stop: int | None = None) -> list[int]:
        training, steps = Training(run), []
        for epochs in (2, 4):
            for x, y in run.batches(training.loader, epochs=epochs):
                steps.append(run.step_number)
                training.optimizer.zero_grad()
                (training.model(x) - y).square().mean().backward()
                run.step(training.optimizer)
                if run.step_number + 1 == stop:
                    run.stop()
        return steps

    assert program(life.begin(), stop=30) == [*range(30)]
    source = life.wait().on_branch()[-1]
    life.end()
    life.folder, life.attempt = life.folder.with_name("fork"), 0
    run = life.begin()
    run_json(life.folder, fork={"run": "bare/1", "checkpoint": str(source.path)})
    assert program(run) == [*range(30, 60)]


@pytest.mark.parametrize("listing", range(1, 8))
def test_a_folder_that_is_away_for_a_moment_ends_no_resuming(life: Lives, listing: int) -> None:
    live(life, until=25)
    listdir, seen = os.listdir, []

    def listed(path: Any) -> list[str]:
        seen.append(str(path).endswith("/checkpoints"))
        if seen[-1] and sum(seen) == listing:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return listdir(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "listdir", listed)
        assert live(life, until=28).steps == [*range(20, 29)]
    assert sum(seen) >= 4


# Of another attempt, on a node that was given up for lost.


def late_lines(life: Lives, *kinds: str) -> None:
    """What attempt 1 still writes: it goes back to its beginning."""
    incident = Incident(kind="explosion", step=33, onset=3, answer="act", said="late").to_json()
    plan = Plan(do="rollback", reason="late", before=3, of=("main",)).to_json()
    lines: dict[str, dict[str, Any]] = {
        "incident": {"incident": incident, "plan": plan},
        "rollback": {
            "launch": 1, "rollbacks": 1, "step": 0, "from_step": 33, "checkpoint": "memory",
            "incident": incident, "plan": plan, "skipped": [[3, 0, 9]], "loop": 0, "number": 1,
        },
    }  # fmt: skip
    ledger = Ledger(life.folder / "ledger", "attempt-001-launch-1")
    for kind in kinds:
        ledger.write(kind, attempt=1, **lines[kind])


@pytest.mark.parametrize("kinds", [("incident",), ("rollback",), ("incident", "rollback")])
@pytest.mark.parametrize("until", [25, 35])
def test_what_an_old_attempt_writes_late_changes_nothing_for_the_next_one(
    life: Lives, kinds: tuple[str, ...], until: int
) -> None:
    live(life, until=25)
    live(life, until=until)
    late_lines(life, *kinds)
    third = live(life)
    assert third.run.healer.history == []
    # The second has saved nothing of its own, or step 30: that is where it goes on.
    assert third.steps == [*range(until // 10 * 10, 60)]


def test_an_old_attempt_that_goes_back_takes_no_checkpoint_from_a_later_one(life: Lives) -> None:
    old = live(life, until=25).run
    life.sessions.clear()
    live(life, until=45)
    before = [each.name for each in life.store.on_branch()]
    assert {each.segment for each in life.store.on_branch()} == {Segment(1, 1), Segment(2, 1)}
    late = Incident(kind="explosion", step=24, onset=3, answer="act", said="late", optimizer="main")
    assert old._returning.heal(late)
    life.sessions.append(old)
    assert life.events("rollback")[0].data["step"] == 0
    assert [each.name for each in life.wait().on_branch()] == before

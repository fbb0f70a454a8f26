"""What a training does just now, over rollbacks, launches and attempts."""

from __future__ import annotations

import math

import pytest

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.writer import ReadingsWriter
from hpckit.run import Attempt
from hpckit.status.live import Live, Norm, Strip


@pytest.fixture
def attempts(tmp_path):
    return [Attempt(number=number, dir=tmp_path / f"{number:03d}") for number in (1, 2)]


def reading(step, norm=2.0, *, loss=1.0, gated=0.0, total=100, time=None, **more):
    values = {
        "train/mel": loss / 2,
        "train/loss": loss,
        "grad/norm/main": norm,
        "grad/clip/main": min(1.0, 2 / norm),
        "grad/gated/main": gated,
        "progress/total": total,
        **more,
    }
    return Reading(step=step, values=values, time=1000.0 + step if time is None else time)


def write(attempt, *items, launch=1):
    writer = ReadingsWriter(attempt.dir / "readings" / f"launch-{launch}")
    for each in items:
        (writer.incident if isinstance(each, Incident) else writer.write)(each)
    writer.close()


def looked(attempts):
    live = Live()
    live.look(attempts)
    return live


def test_it_tells_what_the_newest_readings_say(attempts):
    write(attempts[0], *(reading(step, norm=2 + step % 2, loss=1 + step / 8) for step in range(40)))
    live = looked(attempts)
    assert (live.step, live.total) == (40, 100)
    assert live.pace.rate == pytest.approx(1.0)
    assert live.left_s == pytest.approx(60.0)
    assert list(live.losses) == ["train/loss", "train/mel"]
    assert live.losses["train/loss"] == pytest.approx(1 + 34.5 / 8)
    assert live.norms == {"main": Norm(now=3.0, usual=2.5, clipped=0.5)}


def test_who_comes_late_sees_the_explosion_of_a_thousand_full_readings_ago(attempts):
    parts = {f"train/part_{number}": math.pi / (number + 1) for number in range(60)}
    norms = [2.0] * 5 + [500.0] + [2.0] * 1000
    write(attempts[0], *(reading(step, norm, **parts) for step, norm in enumerate(norms)))
    assert looked(attempts).strips["main"].largest == 500


def test_nothing_is_known_of_what_has_not_begun(attempts):
    live = looked(attempts)
    assert (live.step, live.total, live.left_s, live.epoch) == (None, None, None, None)
    assert (live.losses, live.norms, live.strip.values) == ({}, {}, [])


def test_a_rollback_keeps_the_course_and_forgets_what_was_usual(attempts):
    act = Incident(kind="explosion", step=12, answer="act", said="it grew")
    rows = [reading(step, norm=2.0) for step in range(12)]
    write(attempts[0], *rows, reading(12, norm=9e5), act, *(reading(s, norm=1.0) for s in (8, 9)))
    live = looked(attempts)
    assert live.step == 10
    assert live.norms == {"main": Norm(now=1.0, usual=1.0, clipped=0.0)}
    assert live.strip.values == [2.0] * 12 + [9e5, 1.0, 1.0]
    assert live.strip.marked == [False] * 12 + [True, False, False]


def test_what_was_held_back_and_what_is_not_finite_is_marked(attempts):
    write(attempts[0], reading(0), reading(1, gated=1.0), reading(2, norm=math.inf), reading(3))
    assert looked(attempts).strip.marked == [False, True, True, False]


def test_a_new_launch_and_a_new_attempt_are_gone_on_with(attempts):
    live = Live()
    write(attempts[0], reading(0), reading(1))
    live.look(attempts[:1])
    # Written before anybody looked again: the end of the first must not be lost.
    write(attempts[0], reading(2))
    write(attempts[0], reading(1), reading(2), launch=2)
    live.look(attempts[:1])
    assert len(live.strip.values) == 5
    write(attempts[1], *(reading(step, time=9000 + 2 * step) for step in (3, 4, 5)))
    live.look(attempts)
    assert live.step == 6
    assert len(live.strip.values) == 8
    # The night in the queue is no step's.
    assert live.pace.rate == pytest.approx(0.5)


def test_a_loss_that_is_not_finite_hides_nothing(attempts):
    write(
        attempts[0],
        *(reading(s, loss=math.nan if s % 2 else 3.0, total=math.nan) for s in range(9)),
    )
    live = looked(attempts)
    assert live.losses["train/loss"] == 3.0
    assert live.total is None


def test_where_there_is_no_norm_the_loss_is_drawn(attempts):
    write(attempts[0], *(Reading(step=s, values={"train/loss": 4.0 - s}) for s in range(3)))
    live = looked(attempts)
    assert live.strip.values == [4.0, 3.0, 2.0]
    assert (live.pace.rate, live.norms) == (None, {})


def test_a_strip_stays_small_and_loses_no_spike():
    strip = Strip(most=16)
    for step in range(1000):
        strip.add(500.0 if step == 333 else 2.0, is_bad=step == 700)
    assert len(strip.values) <= 16
    assert sorted(strip.values)[-2:] == [2.0, 500.0]
    assert sum(strip.marked) == 1
    assert strip.values.index(500.0) < strip.marked.index(True)


def of_two(step, generator=2.0, discriminator=1.0, **more):
    norms = {"grad/norm/discriminator": discriminator, "grad/norm/generator": generator}
    return Reading(step=step, values={**norms, **more}, time=1000.0 + step)


def test_each_optimizer_has_a_course_of_its_own_and_the_blamed_one_comes_first(attempts):
    act = Incident(kind="explosion", step=2, answer="act", said="it grew", optimizer="generator")
    live = Live()
    write(attempts[0], of_two(0), of_two(1))
    live.look(attempts[:1])
    assert list(live.norms) == ["discriminator", "generator"]
    write(attempts[0], of_two(2, 9e5, **{"grad/gated/generator": 1.0}), act, of_two(3))
    live.look(attempts[:1])
    assert list(live.norms) == ["generator", "discriminator"]
    assert live.strip is live.strips["generator"]
    assert live.strips["generator"].values == [2.0, 2.0, 9e5, 2.0]
    assert live.strips["generator"].marked == [False, False, True, False]
    assert live.strips["discriminator"].values == [1.0] * 4
    assert live.strips["discriminator"].marked == [False] * 4


def test_an_incident_of_no_optimizer_is_marked_in_each(attempts):
    act = Incident(kind="loss_lost", step=1, answer="act", said="the loss is gone")
    write(attempts[0], of_two(0), of_two(1), act)
    assert [each.marked for each in looked(attempts).strips.values()] == [[False, True]] * 2


def test_usual_is_what_the_detector_compares_with_where_it_tells(attempts):
    write(attempts[0], reading(0, 9.0), reading(1, 9.0, **{"grad/usual/main": 2.2}))
    assert looked(attempts).norms["main"].usual == 2.2


@pytest.mark.parametrize(
    ("told", "epoch"), [(0.004, 1), (1.0, 1), (1 + 1e-9, 1), (2.5, 3), (math.inf, None)]
)
def test_the_epoch_that_is_under_way_is_told(attempts, told, epoch):
    write(attempts[0], reading(0, epoch=told))
    assert looked(attempts).epoch == epoch

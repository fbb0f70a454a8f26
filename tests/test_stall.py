"""When a launch hangs, and when it is only slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpckit.worker.stall import LEAST_S, SLOW_S, Sign, Stall, Stalls, signs_in


class Looking:
    """Looks as often as the worker does."""

    def __init__(self, after_s: float | None = None) -> None:
        self.stalls = Stalls(after_s=after_s)
        self.now_s = 0.0

    def after(self, seconds: float, *signs: Sign) -> Stall | None:
        """What is said when ranks have stood so for so long."""
        seen = dict(enumerate(signs))
        found = self.stalls.look(self.now_s, seen)
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = min(self.now_s + self.stalls.every_s, until_s)
            found = self.stalls.look(self.now_s, seen)
        return found


def after(seconds: float, *signs: Sign, after_s: float | None = None) -> Stall | None:
    return Looking(after_s).after(seconds, *signs)


def step(number: int, phase: str = "step") -> Sign:
    return Sign(step=number, phase=phase)


def test_ranks_that_come_to_no_step_hang_and_the_one_behind_is_named() -> None:
    signs = step(13), step(12), step(13)
    assert after(LEAST_S, *signs) is None
    stall = after(LEAST_S + 1, *signs)
    assert stall is not None
    assert str(stall) == "no step for 301 s on rank 1, after step 12"


@pytest.mark.parametrize("phase", ["start", "between", "saving"])
def test_a_start_a_validation_and_a_save_may_take_long(phase: str) -> None:
    assert after(SLOW_S, step(5, phase), after_s=2) is None
    stall = after(SLOW_S + 1, step(5, phase), after_s=2)
    assert stall is not None
    assert phase in str(stall)


def test_after_a_step_the_rest_of_the_body_may_take_long_unless_the_spec_says_otherwise() -> None:
    signs = step(5, "after"), step(5)
    assert after(SLOW_S, *signs) is None
    assert after(SLOW_S + 1, *signs) is not None
    assert after(2, *signs, after_s=2) is None
    stall = after(3, *signs, after_s=2)
    assert stall is not None
    assert str(stall).startswith("no step for 3 s")


def test_while_one_rank_validates_the_others_wait_for_it_within_their_step() -> None:
    assert after(100, step(5, "between"), step(6), after_s=2) is None


def test_the_specs_word_stands_above_what_is_learned() -> None:
    assert after(3, step(5), after_s=2) is not None
    assert after(999, step(5), after_s=1000) is None


def test_a_training_whose_steps_are_slow_is_given_more_time() -> None:
    looking = Looking()
    for number in range(5):
        assert looking.after(100, step(number)) is None
    assert looking.after(999, step(5)) is None
    assert looking.after(2, step(5)) is not None


def test_how_long_a_step_takes_is_learned_though_something_follows_it() -> None:
    looking = Looking()
    for number in range(3):
        looking.after(200, step(number))
        looking.after(200, step(number, "between"))
    assert looking.after(1900, step(3)) is None


def test_how_long_a_start_took_says_nothing_about_steps() -> None:
    looking = Looking()
    looking.after(1000, step(0, "start"))
    looking.after(1, step(3))
    assert looking.after(LEAST_S + 1, step(4)) is not None


def test_a_job_that_was_suspended_goes_on_before_it_is_judged() -> None:
    """The worker may look before any rank has come to its next step."""
    looking = Looking(after_s=5)
    looking.after(2, step(7))
    looking.now_s += 600
    assert looking.after(0, step(7)) is None
    assert looking.after(4, step(7)) is not None


def test_while_a_rank_cannot_be_read_its_time_stands_still() -> None:
    looking = Looking()
    looking.after(LEAST_S - 5, step(7))
    assert looking.after(LEAST_S) is None
    assert looking.after(5, step(7)) is None
    assert looking.after(1, step(7)) is not None


def test_a_log_that_shows_steps_is_waited_for_as_the_spec_says() -> None:
    assert after(61, step(5, "log"), after_s=60) is not None


def test_how_far_apart_the_lines_of_a_log_are_is_learned_before_it_is_judged() -> None:
    looking = Looking()
    for number in (5, 6):
        assert looking.after(2 * SLOW_S, step(number, "log")) is None
    assert looking.after(6 * SLOW_S, step(7, "log")) is None
    assert looking.after(10, step(7, "log")) is not None


def test_nobody_who_says_nothing_hangs() -> None:
    stalls = Stalls(after_s=1)
    assert stalls.look(0, {}) is None
    assert stalls.look(1e6, {}) is None
    assert (stalls.step, stalls.has_stepped) == (None, False)


def test_half_a_sign_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "rank-0.pulse").write_text("812 step\n")
    (tmp_path / "rank-1.pulse").write_text("81")
    (tmp_path / "rank-2.pulse").write_text("")
    (tmp_path / "rank-3.pulse").write_text("812 st")
    assert signs_in(tmp_path, 5) == {0: step(812)}

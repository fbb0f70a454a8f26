"""When a launch hangs, and when it is only slow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hpckit.worker.stall import LEAST_S, SLOW_S, Sign, Stall, Stalls, signs_in


class Looking:
    """Looks as often as the worker does."""

    def __init__(self, after_s: float | None = None) -> None:
        self.stalls = Stalls(after_s=after_s)
        self.now_s = 0.0

    def after(self, seconds: float, *signs: Sign, frozen: Sequence[int] = ()) -> Stall | None:
        """What is said when ranks have stood so for so long, while the hearts of most beat."""
        found = self._look(signs, frozen)
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = min(self.now_s + self.stalls.every_s, until_s)
            found = self._look(signs, frozen)
        return found

    def _look(self, signs: Sequence[Sign], frozen: Sequence[int]) -> Stall | None:
        beat = int(self.now_s) + 1
        seen = {
            rank: sign if rank in frozen else replace(sign, beat=beat)
            for rank, sign in enumerate(signs)
        }
        return self.stalls.look(self.now_s, seen)


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


@pytest.mark.parametrize("phase", ["between", "saving"])
def test_a_process_that_is_frozen_is_not_waited_for_as_a_validation_or_a_save_is(
    phase: str,
) -> None:
    """It may have said where it stood just before it went on to where it froze."""
    looking = Looking(after_s=2)
    signs = step(5), step(4, phase)
    assert looking.after(LEAST_S, *signs, frozen=[1]) is None
    stall = looking.after(1, *signs, frozen=[1])
    assert stall is not None
    assert str(stall) == "no sign of life for 301 s on rank 1, after step 4"


def test_a_rank_that_is_frozen_within_its_step_does_not_wait_for_one_that_validates() -> None:
    stall = Looking(after_s=2).after(3, step(5, "between"), step(5), frozen=[1])
    assert stall is not None
    assert str(stall) == "no sign of life for 3 s on rank 1, after step 5"


def test_a_rank_that_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    """Rank 0 may go on for long after the others are done."""
    for rank in (0, 1):
        (tmp_path / f"rank-{rank}.pulse").write_text("9 between 4\n")
    (tmp_path / "rank-1.exit").write_text("0 program untold -\n")
    ended = signs_in(tmp_path, 2)[1]
    assert ended.has_ended
    assert Looking().after(SLOW_S, step(9, "between"), ended, frozen=[1]) is None
    stall = Looking().after(SLOW_S + 1, step(9, "between"), ended, frozen=[1])
    assert stall is not None
    assert stall.rank == 0


def test_silence_is_borne_for_as_long_as_the_spec_says_and_as_it_was_before() -> None:
    assert Looking(after_s=999).after(999, step(5, "between"), frozen=[0]) is None
    looking = Looking()
    looking.after(800, step(5, "saving"))
    assert looking.after(800, step(6, "saving"), frozen=[0]) is None
    assert looking.after(1, step(6, "saving"), frozen=[0]) is not None


def test_a_rank_that_froze_after_its_first_beat_is_not_still_starting() -> None:
    stall = after(3, step(5, "start"), step(51), after_s=2)
    assert stall is not None
    assert str(stall) == "no step for 3 s on rank 0, after step 5"
    # Others have loaded the same state, and wait in their first step.
    assert after(SLOW_S, step(0, "start"), step(50, "start"), after_s=2) is None
    assert after(SLOW_S, step(50, "start"), step(51), after_s=2) is None


def test_before_its_first_steps_a_process_may_be_silent_for_long() -> None:
    assert Looking().after(SLOW_S, step(0, "start"), frozen=[0]) is None


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
    (tmp_path / "rank-0.pulse").write_text("812 step 9\n")
    (tmp_path / "rank-1.pulse").write_text("81")
    (tmp_path / "rank-2.pulse").write_text("")
    (tmp_path / "rank-3.pulse").write_text("812 st")
    (tmp_path / "rank-4.pulse").write_text("812 step 1")
    assert signs_in(tmp_path, 6) == {0: Sign(step=812, phase="step", beat=9)}

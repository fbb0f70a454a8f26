"""When a launch hangs, and when it is only slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpckit.worker.stall import LEAST_S, SLOW_S, Sign, Stall, Stalls, signs_in


def after(stalls: Stalls, seconds: float, *signs: Sign, at: float = 0.0) -> Stall | None:
    """What is said when ranks have stood so for so long."""
    stalls.look(at, dict(enumerate(signs)))
    return stalls.look(at + seconds, dict(enumerate(signs)))


def step(number: int, phase: str = "step") -> Sign:
    return Sign(step=number, phase=phase)


def test_ranks_that_come_to_no_step_hang_and_the_one_behind_is_named() -> None:
    signs = step(13), step(12), step(13)
    assert after(Stalls(), LEAST_S, *signs) is None
    stall = after(Stalls(), LEAST_S + 1, *signs)
    assert stall is not None
    assert str(stall) == "no step for 301 s on rank 1, after step 12"


@pytest.mark.parametrize("phase", ["start", "between", "saving"])
def test_a_start_a_validation_and_a_save_may_take_long(phase: str) -> None:
    assert after(Stalls(after_s=2), SLOW_S, step(5, phase)) is None
    stall = after(Stalls(after_s=2), SLOW_S + 1, step(5, phase))
    assert stall is not None
    assert phase in str(stall)


def test_while_one_rank_validates_the_others_wait_for_it_within_their_step() -> None:
    assert after(Stalls(after_s=2), 100, step(5, "between"), step(6)) is None


def test_the_specs_word_stands_above_what_is_learned() -> None:
    assert after(Stalls(after_s=2), 3, step(5)) is not None
    assert after(Stalls(after_s=1000), 999, step(5)) is None


def test_a_training_whose_steps_are_slow_is_given_more_time() -> None:
    stalls = Stalls()
    for number in range(5):
        stalls.look(100.0 * number, {0: step(number)})
    assert stalls.look(400.0 + 999, {0: step(4)}) is None
    assert stalls.look(400.0 + 1001, {0: step(4)}) is not None


def test_how_long_a_start_took_says_nothing_about_steps() -> None:
    stalls = Stalls()
    stalls.look(0, {0: step(0, "start")})
    stalls.look(1000, {0: step(3)})
    stalls.look(1001, {0: step(4)})
    assert stalls.look(1001 + LEAST_S + 1, {0: step(4)}) is not None


def test_a_log_that_shows_steps_is_waited_for_as_the_spec_says_or_long() -> None:
    assert after(Stalls(after_s=60), 61, step(5, "log")) is not None
    assert after(Stalls(), SLOW_S - 1, step(5, "log")) is None


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

"""What is deleted, and above all what never is."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from hpckit.checkpoint import manifest
from hpckit.checkpoint.manifest import Checkpoint
from hpckit.checkpoint.names import Segment
from hpckit.checkpoint.retention import Rules, clean, delete, to_delete
from tests.checkpoint.made import FIRST, SECOND, make, plain, steps, store_of


def deleted(on_branch: list[Checkpoint], **rules: int) -> list[int]:
    newest = max((found.step for found in on_branch), default=0)
    return steps(to_delete(on_branch, [], Rules(**rules), newest))


def good(step: int, **about: object) -> Checkpoint:
    return plain(step, confirmed_at=step + 100, **about)


def test_the_last_ones_stay() -> None:
    assert deleted([good(step) for step in range(0, 600, 100)], keep=3) == [0, 100, 200]


def test_of_few_none_goes() -> None:
    assert deleted([good(0), good(100), plain(200)], keep=3) == []
    assert deleted([]) == []


def test_the_two_newest_good_ones_stay_however_old() -> None:
    old = [good(0), good(100), good(200)]
    newer = [plain(step, finite=False) for step in (300, 400, 500, 600)]
    assert deleted(old + newer, keep=1) == [0, 300, 400, 500]


def test_one_that_is_not_decided_yet_stays() -> None:
    undecided = [plain(step) for step in (300, 400, 500, 600)]
    assert deleted([good(0), good(100), good(200), *undecided], keep=1) == [0]


def test_one_that_was_passed_by_a_good_one_is_decided() -> None:
    assert deleted([good(0), plain(100), good(200), good(300)], keep=1) == [0, 100]


def test_the_newest_stays_even_if_it_is_not_finite_and_none_is_to_be_kept() -> None:
    checkpoints = [good(0), good(100), plain(200, finite=False), plain(300, finite=False)]
    assert deleted(checkpoints, keep=0) == [200]


def test_the_best_stays_and_what_was_best_before_goes() -> None:
    checkpoints = [good(step, best=step in (100, 200)) for step in range(0, 800, 100)]
    assert deleted(checkpoints, keep=3) == [0, 100, 300, 400]


def test_the_newest_good_best_one_stays_until_a_newer_best_one_is_good() -> None:
    checkpoints = [good(step, best=step in (100, 200)) for step in range(0, 800, 100)]
    assert 200 not in deleted([*checkpoints, plain(800, best=True)], keep=1)
    assert 200 in deleted([*checkpoints, good(800, best=True)], keep=1)


def test_one_of_every_so_many_steps_stays() -> None:
    checkpoints = [good(step) for step in range(0, 1000, 100)]
    assert deleted(checkpoints, keep=1, keep_every=400) == [100, 200, 300, 500, 600, 700]


def test_what_was_kept_for_good_is_kept_the_next_time() -> None:
    there: list[Checkpoint] = []
    for step in range(0, 2000, 70):
        there.append(good(step))
        gone = to_delete(there, [], Rules(keep=1, keep_every=500), step)
        there = [each for each in there if each not in gone]
    assert steps(there)[:4] == [0, 560, 1050, 1540]


def test_what_was_left_behind_goes_once_the_run_has_come_as_far() -> None:
    left = [plain(step) for step in (200, 300, 400)]
    own = [plain(step, SECOND) for step in (100, 300)]
    assert to_delete(own, left, Rules(), 300) == left[:2]
    assert to_delete(own, left, Rules(), 400) == left


def a_history(dice: random.Random) -> list[Checkpoint]:
    """Any mixture, in any order."""
    made = []
    for step in dice.sample(range(0, 3000, 50), dice.randint(0, 14)):
        segment = Segment(dice.randint(1, 3), dice.randint(1, 2), dice.randint(0, 1))
        found = plain(step, segment, best=dice.random() < 0.2)
        confirmed = step + 100 if dice.random() < 0.5 else None
        finite = dice.choice([True, True, True, False, None])
        made.append(dataclasses.replace(found, confirmed_at=confirmed, finite=finite))
    return made


@pytest.mark.parametrize("seed", range(10))
def test_nothing_that_may_be_needed_is_ever_deleted(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(200):
        look_at_a_random_case(dice)


def look_at_a_random_case(dice: random.Random) -> None:
    on, off = a_history(dice), a_history(dice)
    rules = Rules(keep=dice.randint(0, 5), keep_every=dice.choice([None, None, 200, 1000]))
    newest_step = dice.randrange(3000)
    going = to_delete(on, off, rules, newest_step)
    stays = [each for each in on if each not in going]

    ordered = sorted(on, key=lambda each: (each.step, each.segment))
    all_good = [each for each in ordered if each.confirmed_at and each.finite is not False]
    assert all(each in stays for each in all_good[-2:])
    assert all(each in stays for each in ordered[-max(1, rules.keep) :])
    assert all(each in stays for each in [e for e in ordered if e.best][-1:])
    assert all(each in stays for each in [e for e in all_good if e.best][-1:])
    after = ordered.index(all_good[-1]) + 1 if all_good else 0
    assert all(each in stays for each in ordered[after:] if each.finite is not False)
    if rules.keep_every:
        stretches = {each.step // rules.keep_every for each in on}
        assert stretches == {each.step // rules.keep_every for each in stays}
    assert all(each.step <= newest_step for each in going if each not in on)
    # And nothing is kept twice: the rest goes, and a second look finds nothing more.
    most = 2 + max(1, rules.keep) + 2 + len(ordered[after:])
    assert rules.keep_every or len(stays) <= most
    assert to_delete(stays, [], rules, newest_step) == []


def test_a_deleted_one_is_gone(tmp_path: Path) -> None:
    made = make(tmp_path, 1, good=2)
    assert delete(made)
    assert not made.path.exists()
    assert delete(made)


def test_a_deletion_that_is_cut_off_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path, 1)
    monkeypatch.setattr("shutil.rmtree", lambda path, ignore_errors: None)
    assert not delete(made)
    assert (made.path / "state.pt").exists()
    assert manifest.read(made.path) is None


def test_one_whose_manifest_cannot_be_deleted_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path, 1)

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert not delete(made)
    assert manifest.problem(made) is None


def test_what_earlier_segments_did_not_finish_is_cleaned_and_no_more(tmp_path: Path) -> None:
    made = {
        "older": make(tmp_path, 100),
        "whole": make(tmp_path, 200),
        "abandoned": make(tmp_path, 300),
        "present": make(tmp_path, 100, SECOND),
        "later": make(tmp_path, 100, Segment(2, 1, 1)),
    }
    for name in ("older", "present", "later"):
        (made[name].path / "manifest.json").unlink()
    manifest.abandon(made["abandoned"])
    assert clean(store_of(tmp_path), SECOND) == [made["older"].path]
    there = {name for name, each in made.items() if each.path.exists()}
    assert there == {"whole", "abandoned", "present", "later"}
    assert clean(store_of(tmp_path), FIRST) == []

"""Where a training stands in its data, and how it came there."""

from __future__ import annotations

from hpckit.train.place import TRAIL, Place, Trail


def trail(*steps: tuple[int, int, int, int]) -> Trail:
    made = Trail()
    for each in steps:
        made.add(*each)
    return made


PLAIN = [(step, step // 10, step % 10, step % 10 + 1) for step in range(35)]


def test_a_place_comes_back_as_it_was() -> None:
    place = Place(loop=1, epoch=3, taken=7, begun={"random": [1]}, skip=[(3, 1, 2), (4, 0, 5)])
    assert Place.of(place.state_dict()) == place
    # Files know no tuples.
    listed = {**place.state_dict(), "skip": [[3, 1, 2], [4, 0, 5]]}
    assert Place.of(listed) == place


def test_the_next_epoch_begins_at_its_first_batch_and_forgets_old_windows() -> None:
    place = Place(epoch=3, taken=7, begun={"a": 1}, skip=[(2, 1, 2), (3, 1, 2), (4, 0, 5)])
    place.next_epoch()
    assert place == Place(epoch=4, skip=[(4, 0, 5)])


def test_a_window_is_the_last_batches_up_to_the_step() -> None:
    assert trail(*PLAIN).windows(0, 27, 3) == [(2, 5, 8)]


def test_a_window_over_an_epochs_border_is_two() -> None:
    assert trail(*PLAIN).windows(0, 31, 5) == [(2, 7, 10), (3, 0, 2)]


def test_nothing_of_before_the_state_that_was_gone_back_to_is_left_out() -> None:
    assert trail(*PLAIN).windows(25, 27, 100) == [(2, 5, 8)]


def test_no_batches_to_skip_is_no_window() -> None:
    assert trail(*PLAIN).windows(0, 27, 0) == []
    assert trail().windows(0, 27, 9) == []


def test_a_step_of_several_batches_is_left_out_whole() -> None:
    steps = trail((0, 0, 0, 4), (1, 0, 4, 8), (2, 0, 8, 12))
    assert steps.windows(0, 2, 1) == [(0, 8, 12)]


def test_what_came_after_the_step_that_was_gone_back_to_is_forgotten() -> None:
    steps = trail(*PLAIN)
    steps.cut(25)
    steps.add(25, 2, 9, 10)
    assert steps.windows(0, 25, 2) == [(2, 4, 10)]


def test_only_the_newest_steps_are_remembered() -> None:
    steps = trail(*((step, 0, step, step + 1) for step in range(TRAIL + 50)))
    assert steps.windows(0, TRAIL + 50, TRAIL + 50) == [(0, 50, TRAIL + 50)]

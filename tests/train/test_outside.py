"""Outside of a run the same script is plain PyTorch, to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import hpckit
from hpckit.errors import UsageError
from hpckit.train import Clip
from hpckit.train.outside import Outside
from tests.train.conftest import assert_same, backward, small_model
from tests.train.inside import Lives, Training, data


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Outside:
    monkeypatch.delenv("HPCKIT_RUN_DIR", raising=False)
    found: Outside = hpckit.attach({"epochs": 3, "nested": {"a": 1}})
    return found


def by_hand(epochs: int, clip: float | None = None, **settings: Any) -> Training:
    """The loop as everybody writes it."""
    training = Training(Outside({}), epochs=epochs, **settings)
    for _ in range(epochs):
        for x, y in training.loader:
            loss = (training.model(x) - y).square().mean()
            training.optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(training.model.parameters(), clip)
            training.optimizer.step()
            if training.schedule is not None:
                training.schedule.step()
    return training


def same(one: Training, other: Training) -> None:
    assert_same(one.weights(), other.weights())
    assert_same(one.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"])


def test_attach_without_a_run_is_outside_with_the_defaults(run: Outside) -> None:
    assert not run.inside
    assert run.params == {"epochs": 3, "nested": {"a": 1}}
    assert (run.rank, run.world_size, run.is_main) == (0, 1, True)


def test_outside_has_the_numbers_of_a_loop_that_is_written_by_hand(run: Outside) -> None:
    same(Training(run, epochs=3).go(), by_hand(3))
    assert (run.epoch, run.step_number) == (3, 30)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.AdamW(p, lr=0.01),
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
        lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
        lambda p: torch.optim.RMSprop(p, lr=0.01),
    ],
    ids=["adamw", "sgd", "fused", "rmsprop"],
)
def test_inside_with_nothing_wrong_has_them_too(life: Lives, optimizer: Any) -> None:
    inside = Training(life.begin(), epochs=3, optimizer=optimizer).go()
    same(inside, by_hand(3, optimizer=optimizer))


def test_inside_the_same_clip_differs_by_no_more_than_the_last_bits(life: Lives) -> None:
    """The norm is summed more exactly than torch does it."""

    def plain(parameters: Any) -> Any:
        return torch.optim.SGD(parameters, lr=0.01)

    one = Training(life.begin(), epochs=1, clip=0.7, optimizer=plain).go().weights()
    other = by_hand(1, 0.7, optimizer=plain).weights()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-6)


def test_a_scaler_is_stepped_and_updated_as_by_hand(run: Outside) -> None:
    def train(session: Any) -> tuple[Training, float]:
        training = Training(session or Outside({}), schedule=None)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=5)
        batches = training.loader if session is None else session.batches(training.loader)
        for x, y in batches:
            training.optimizer.zero_grad()
            loss = (training.model(x) - y).square().mean()
            scaler.scale(loss).backward()
            if session is None:
                scaler.step(training.optimizer)
                scaler.update()
            else:
                session.step(training.optimizer, loss=loss, scaler=scaler)
        return training, scaler.get_scale()

    (one, scale), (other, theirs) = train(run), train(None)
    same(one, other)
    assert scale == theirs > 8.0


def test_a_closure_is_called(run: Outside) -> None:
    training = Training(
        run, schedule=None, optimizer=lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2)
    )
    calls = []
    for x, y in run.batches(training.loader):

        def closure(x: Any = x, y: Any = y) -> Any:
            calls.append(1)
            training.optimizer.zero_grad()
            loss = (training.model(x) - y).square().mean()
            loss.backward()
            return loss

        run.step(closure=closure)
    assert len(calls) >= 10


def test_the_nested_form_and_the_words_that_do_nothing(run: Outside) -> None:
    training, seen = Training(run, schedule=None), []
    for epoch in run.epochs(2):
        for x, y in run.batches(training.loader, progress=True):
            training.optimizer.zero_grad()
            loss = (training.model(x) - y).square().mean()
            loss.backward()
            run.step(loss=loss)
            run.log(more=1.0)
            run.save()
            seen.append((epoch, run.epoch, run.epoch_ends))
    run.close()
    assert seen == [(e, e, b == 9) for e in range(2) for b in range(10)]
    assert run.best(3.0)
    assert not run.best(4.0)
    assert run.best(5.0, mode="max", name="other")


def test_stop_ends_this_loop_and_not_the_next_one(run: Outside) -> None:
    counts = []
    for _ in range(2):
        count = 0
        for _ in run.batches([1, 2, 3, 4], epochs=3):
            count += 1
            if count == 6:
                run.stop()
        counts.append(count)
    for _ in run.epochs(3):
        run.stop()
        counts.append(sum(run.batches([1, 2, 3])))
    counts.append(sum(run.batches([1, 2, 3])))
    assert counts == [6, 6, 1, 6]


def test_a_loop_of_epochs_that_is_broken_off_is_over(run: Outside) -> None:
    for _ in run.epochs(3):
        break
    assert len(list(run.batches([1, 2], epochs=3))) == 6


def test_several_passes_that_make_one_step_count_once(run: Outside) -> None:
    training = Training(run, schedule=None)
    for number, (x, y) in enumerate(run.batches(training.loader), start=1):
        (training.model(x) - y).square().mean().backward()
        if number % 5 == 0:
            run.step()
            training.optimizer.zero_grad()
    assert run.step_number == 2


def test_accumulation_hands_out_lists(run: Outside) -> None:
    lists = list(run.batches([1, 2, 3, 4, 5], epochs=2, accumulate=2))
    assert lists == [[1, 2], [3, 4], [5]] * 2


def test_a_stream_has_no_known_end(run: Outside) -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Any:
            return iter(range(4))

    for _ in run.batches(DataLoader(Stream(), batch_size=2)):
        with pytest.raises(UsageError, match="does not know how many batches"):
            _ = run.epoch_ends


def test_samplers_and_datasets_hear_of_the_epoch(run: Outside) -> None:
    heard = []

    class Told(list[Any]):
        def set_epoch(self, number: int) -> None:
            heard.append(number)

    list(run.batches(DataLoader(Told([1, 2])), epochs=3))  # type: ignore[arg-type]
    assert heard == [0, 1, 2]


def test_the_same_script_runs_on_both_sides(run: Outside, life: Lives) -> None:
    outside = Training(run, epochs=2).go()
    inside = Training(life.begin(), epochs=2).go()
    assert outside.seen == inside.seen
    same(outside, inside)
    assert len(data()) == 80


@pytest.mark.parametrize("clip", [0.1, Clip(0.1), Clip(value=0.01), {"optimizer": 0.1}])
def test_a_registered_clip_is_torch_s_own(run, clip):
    ours, theirs = small_model(), small_model()
    theirs.load_state_dict(ours.state_dict())
    data = torch.randn(6, 4)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.5) for model in (ours, theirs)]
    run.register(model=ours, optimizer=optimizers[0], clip=clip)
    for batch in run.batches([data], epochs=2):
        backward(ours, optimizers[0], batch)
        run.step(optimizers[0])
    for _ in range(2):
        backward(theirs, optimizers[1], data)
        if isinstance(clip, Clip) and clip.value is not None:
            torch.nn.utils.clip_grad_value_(theirs.parameters(), clip.value)
        else:
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        optimizers[1].step()
    assert_same(ours.state_dict(), theirs.state_dict())

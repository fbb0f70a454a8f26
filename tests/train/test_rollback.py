"""Going back: everything is as it was, in place."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from tests.train.conftest import assert_same
from tests.train.inside import BACK, ONSET, STRUCK, Lives, Training, data, said, strike

pytestmark = pytest.mark.usefixtures("rarely")


class Gan:
    """Two optimizers, a schedule, a scaler, an average of the weights, values of one's own."""

    def __init__(self, run: Any) -> None:
        torch.manual_seed(0)
        random.seed(0)
        numpy.random.seed(0)
        self.run = run
        self.g = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
        self.d = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 1))
        self.opt_g = torch.optim.AdamW(self.g.parameters(), lr=0.01)
        self.opt_d = torch.optim.SGD(self.d.parameters(), lr=0.01, momentum=0.9)
        self.schedule = lr_scheduler.ExponentialLR(self.opt_g, 0.99)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=7)
        self.ema = AveragedModel(self.g)
        self.loader = DataLoader(data(), batch_size=8, shuffle=True)
        run.values |= {"list": [], "count": 0, "tensor": torch.zeros(3)}
        run.values["array"] = numpy.zeros(2)
        run.register(
            g=self.g, d=self.d, opt_g=self.opt_g, opt_d=self.opt_d, schedule=self.schedule,
            scaler=self.scaler, ema=self.ema,
        )  # fmt: skip
        # What all was when the body of a step began: by step, the newest last.
        self.states: dict[int, list[Any]] = {}
        self.places: dict[int, list[Any]] = {}

    def everything(self) -> dict[str, Any]:
        things = (self.g, self.d, self.opt_g, self.opt_d, self.schedule, self.scaler, self.ema)
        numbers = numpy.random.get_state()
        return copy.deepcopy(
            {
                "things": [each.state_dict() for each in things],
                "values": {
                    name: torch.from_numpy(each) if name == "array" else each
                    for name, each in self.run.values.items()
                },
                "random": [random.getstate(), torch.get_rng_state()],
                "numpy": [numbers[0], torch.from_numpy(numbers[1].astype("int64")), *numbers[2:]],
                "best": self.run.best_values.state_dict(),
            }
        )

    def pointers(self) -> list[int]:
        moments = [
            each.data_ptr()
            for optimizer in (self.opt_g, self.opt_d)
            for state in optimizer.state.values()
            for each in state.values()
            if isinstance(each, Tensor)
        ]
        return moments + [
            each.data_ptr()
            for model in (self.g, self.d, self.ema)
            for each in [*model.parameters(), *model.buffers()]
        ]

    def go(self, epochs: int = 6) -> Gan:
        run, values = self.run, self.run.values
        for x, _ in run.batches(self.loader, epochs=epochs):
            step = run.step_number
            self.states.setdefault(step, []).append(self.everything())
            self.places.setdefault(step, []).append(self.pointers())
            random.random(), numpy.random.rand()
            fake = self.g(torch.randn(8, 3))
            loss_d = (self.d(fake.detach()) - self.d(x)).mean()
            self.opt_d.zero_grad()
            self.scaler.scale(loss_d).backward()
            # The generator's graph is alive here: nothing may be put back now.
            run.step(self.opt_d, loss=loss_d, scaler=self.scaler)
            loss_g = -self.d(fake).mean()
            self.opt_g.zero_grad()
            self.scaler.scale(loss_g).backward()
            run.step(self.opt_g, loss=loss_g, scaler=self.scaler)
            self.schedule.step()
            self.ema.update_parameters(self.g)
            values["count"] += 1
            values["list"].append(step)
            values["tensor"] += 1
            values["array"] += 1
            if step % 10 == 9:
                run.best(-step, name="score")
        return self


def test_everything_of_a_gan_is_what_it_was_to_the_last_bit_and_in_place(life: Lives) -> None:
    gan = Gan(life.begin(heal={"explosion": {"skip_batches": 0}}))
    strike(gan.run, STRUCK, onset=ONSET, optimizer="opt_d")
    gan.go()
    first, second = gan.states[BACK]
    assert_same(first, second)
    assert gan.places[BACK][0] == gan.places[BACK][1]
    assert len(gan.states[BACK - 1]) == 1
    # It was far away in between.
    assert gan.states[STRUCK][0]["values"]["count"] == STRUCK


def test_a_second_rollback_to_the_same_snapshot_finds_it_as_it_was(life: Lives) -> None:
    gan = Gan(life.begin(heal={"explosion": {"change": {}, "skip_batches": 0}}))
    strike(gan.run, STRUCK, onset=ONSET, optimizer="opt_d")
    # Far past the first, so that it goes no further back; only 20 is older than its onset.
    strike(gan.run, 46, onset=ONSET, optimizer="opt_d")
    gan.go(8)
    first, *more = gan.states[BACK]
    assert len(more) == 2
    for each in more:
        assert_same(first, each)


def test_nothing_changed_and_nothing_left_out_gives_the_same_training_again(life: Lives) -> None:
    gan = Gan(life.begin(heal={"explosion": {"change": {}, "skip_batches": 0}}))
    strike(gan.run, STRUCK, onset=ONSET, optimizer="opt_d")
    gan.go()
    for step in range(BACK, STRUCK + 1):
        assert_same(*gan.states[step])


def test_an_epochs_end_that_is_gone_back_to_draws_the_next_order_again(life: Lives) -> None:
    life.monkeypatch.setattr("hpckit.train.keeper.MEMORY_EVERY", 1000)
    run = life.begin(
        checkpoint={"every": "1 epoch", "confirm_steps": 10},
        heal={"explosion": {"change": {}, "skip_batches": 0}},
    )
    training = Training(run, epochs=5)
    strike(run, STRUCK, onset=ONSET)
    training.go()
    again = len(training.seen) - training.steps[::-1].index(BACK) - 1
    # The same steps with the same batches.
    assert training.seen[again : again + 16] == training.seen[BACK : STRUCK + 1]


def test_a_rollback_without_room_in_memory_reads_the_disk(
    life: Lives, no_memory: None, capsys: pytest.CaptureFixture[str]
) -> None:
    gan = Gan(
        life.begin(
            checkpoint={"every": "5 steps", "confirm_steps": 10},
            heal={"explosion": {"skip_batches": 0}},
        )
    )
    strike(gan.run, STRUCK, onset=ONSET, optimizer="opt_d")

    def patient(*args: Any) -> bool:
        gan.run._keeper.saver.wait()
        return False

    # Every checkpoint that is due finds an idle disk.
    life.monkeypatch.setattr("hpckit.train.session.Session._show", patient)
    gan.go()
    lines = said(capsys)
    assert any("does not fit into memory again" in line for line in lines)
    back = next(line for line in lines if "back to step" in line)
    assert "from step-00000" in back
    step = life.events("rollback")[0].data["step"]
    assert 0 < step <= ONSET
    first, second = gan.states[step]
    assert_same(first, second)
    assert gan.places[step][0] == gan.places[step][1]


def test_before_any_moments_the_state_of_the_start_comes_back(life: Lives) -> None:
    run = life.begin()
    training = Training(run)
    strike(run, 3)
    before = training.weights()
    found = []
    training.go(each=lambda step: found.append(training.weights()) if step == 0 else None)
    assert len(found) == 2
    assert_same(before, found[1])
    assert life.events("rollback")[0].data["step"] == 0


def test_the_snapshot_is_not_what_the_next_step_changes(life: Lives) -> None:
    run = life.begin()
    training = Training(run, epochs=3)
    copies = {}

    def note(step: int) -> None:
        if step == 20:
            copies["then"] = copy.deepcopy(training.optimizer.state_dict()["state"])

    training.go(each=note)
    taken = next(each for each in run._keeper.ring.all if each.step == 20)
    assert_same(copies["then"], dict(taken.state["items"]["main"]["state"]["state"]))


def test_a_compiled_model_with_hooks_goes_on(life: Lives) -> None:
    called = []

    def model() -> Any:
        made = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        made[0].register_forward_hook(lambda *args: called.append(1))
        return torch.compile(made, backend="eager")

    run = life.begin()
    training = Training(run, model=model)
    strike(run, STRUCK, onset=ONSET)
    found: dict[int, list[Any]] = {}
    training.go(each=lambda step: found.setdefault(step, []).append(training.weights()))
    assert_same(*found[BACK])
    assert len(called) == len(training.seen)


def test_only_the_blamed_optimizer_is_changed(life: Lives) -> None:
    gan = Gan(life.begin())
    strike(gan.run, STRUCK, onset=ONSET, optimizer="opt_d")
    gan.go()
    watched = gan.run.stepper.watched
    assert (watched["opt_d"].rate, watched["opt_g"].rate) == (0.5, 1.0)


def test_the_batches_before_the_incident_are_left_out_and_no_others(life: Lives) -> None:
    run = life.begin(heal={"explosion": {"skip_batches": 3}})
    # Struck at the second batch of an epoch: the window lies over its border.
    training = Training(run, epochs=6)
    strike(run, 31, onset=ONSET)
    epochs: list[tuple[int, float]] = []
    training.go(each=lambda step: epochs.append((run.epoch, training.seen[-1][1])))
    again = len(training.steps) - training.steps[::-1].index(BACK) - 1
    assert training.steps[again - 1] == 31
    first, second = epochs[BACK:again], epochs[again:]
    # Batches 9 of epoch 2, 0 and 1 of epoch 3 are the last three of the first time.
    assert [e for e, _ in first[-3:]] == [2, 3, 3]
    # The order of the epoch in which it went back is the same.
    assert second[: len(first) - 3] == first[:-3]
    third = [number for epoch, number in second if epoch == 3]
    assert len(third) == 8
    assert len([1 for epoch, _ in second if epoch == 2]) == 9
    assert len([1 for epoch, _ in second if epoch == 4]) == 10
    assert life.events("rollback")[0].data["skipped"] == [[2, 9, 10], [3, 0, 2]]


def test_the_watch_remembers_what_is_usual(life: Lives) -> None:
    run = life.begin()
    training = Training(run, epochs=12)
    strike(run, 90)
    ready = []
    training.go(
        each=lambda step: (
            ready.append(run.stepper.lookout.detectors["main"].norms.usual.ready)
            if run.stepper.lookout.detectors
            else None
        )
    )
    again = training.steps.index(89) + 2
    assert training.steps[again] < 89
    assert ready[again]


def test_no_gradient_is_zeroed_and_no_schedule_moved(life: Lives) -> None:
    run = life.begin()
    training = Training(run, epochs=1, schedule=None)
    schedule = lr_scheduler.ExponentialLR(training.optimizer, 0.5)
    run.register(schedule=schedule)
    training.go(
        after=lambda step: (
            pytest.fail("zeroed") if training.model[0].weight.grad.abs().sum() == 0 else None
        )
    )
    assert training.optimizer.param_groups[0]["lr"] == 0.01
    assert schedule.last_epoch == 0


def test_a_best_value_that_was_rolled_back_is_not_kept_as_the_best(life: Lives) -> None:
    run = life.begin(checkpoint={"every": "1000 steps", "confirm_steps": 10})
    training = Training(run, epochs=6)
    strike(run, STRUCK, onset=ONSET)
    told = []

    def note(step: int) -> None:
        if step == STRUCK and not told:
            told.append(run.best(0.1))

    training.go(after=note)
    assert told == [True]
    assert not [each for each in life.wait().all() if each.best]
    assert run.best_values.values == {}


def test_going_back_over_an_epochs_end_in_the_nested_form_ends_that_epoch_again(
    life: Lives,
) -> None:
    run = life.begin(heal={"explosion": {"change": {}, "skip_batches": 0}})
    training = Training(run, schedule=None)
    schedule = lr_scheduler.ExponentialLR(training.optimizer, 0.5)
    run.register(schedule=schedule)
    strike(run, STRUCK, onset=ONSET)
    tails, epochs = [], []
    for epoch in run.epochs(6):
        epochs.append(epoch)
        for x, y in run.batches(training.loader):
            training.seen.append((run.step_number, 0.0))
            training.optimizer.zero_grad()
            loss = (training.model(x) - y).square().mean()
            loss.backward()
            run.step(training.optimizer, loss=loss)
        schedule.step()
        tails.append((run.epoch, run.step_number))
    assert training.steps == [*range(STRUCK + 1), *range(BACK, 60)]
    # What it went back to is the end of epoch 1 before its tail: that is done once more.
    assert tails == [(e, 10 * (e + 1)) for e in (0, 1, 2, 1, 2, 3, 4, 5)]
    assert epochs == [0, 1, 2, 3, 2, 3, 4, 5]
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**6)

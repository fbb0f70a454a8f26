"""A trainer to subclass: its order, its settings, and that it is the loop by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import BatchSampler, IterableDataset, SequentialSampler

from hpckit.errors import UsageError
from hpckit.train.trainer import Trainer
from tests.train.conftest import assert_same
from tests.train.inside import Lives, data, said, strike


class Line(Trainer):
    """Fits a line; notes what happens in which order."""

    progress = False
    epochs = 3

    def build(self) -> None:
        self.order: list[str] = []
        self.model = self.prepare(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1)))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.params.get("lr", 0.01))
        self.schedule = lr_scheduler.ExponentialLR(self.optimizer, 0.5)
        self.loader = self.make_loader(data(), batch_size=8)

    def loss(self, batch: Any) -> Any:
        x, y = batch
        self.order.append("loss")
        return (self.model(x) - y).square().mean()

    def validate(self) -> Mapping[str, float]:
        self.order.append("validate" if not self.model.training else "validate in train")
        assert not torch.is_grad_enabled()
        return {"loss": 1.0}


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HPCKIT_RUN_DIR", raising=False)


def rate(trainer: Any) -> float:
    return float(trainer.optimizer.param_groups[0]["lr"])


def test_it_is_the_loop_that_is_written_by_hand(outside: None) -> None:
    trainer = Line()
    trainer.run()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = lr_scheduler.ExponentialLR(optimizer, 0.5)
    loader = trainer.make_loader(data(), batch_size=8)
    for _ in range(3):
        for x, y in loader:
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
        schedule.step()
    assert_same(dict(model.state_dict()), dict(trainer.model.state_dict()))
    assert_same(optimizer.state_dict(), trainer.optimizer.state_dict())
    assert trainer.order == (["loss"] * 10 + ["validate"]) * 3


def test_inside_a_run_it_is_the_same_and_registers_by_name(life: Lives) -> None:
    plain = Line()
    plain.run()
    life.begin()
    inside = Line()
    life.sessions.append(inside.session)
    inside.run()
    assert_same(dict(plain.model.state_dict()), dict(inside.model.state_dict()))
    assert list(inside.session.registry.things) == ["model", "main", "schedule"]


def test_a_runs_parameters_go_over_its_settings(outside: None) -> None:
    trainer = Line({"epochs": 1, "accumulate": 5, "lr": 0.5})
    trainer.run()
    assert trainer.session.step_number == 2
    assert rate(trainer) == 0.25


def test_an_unknown_precision_is_refused_with_those_there_are(outside: None) -> None:
    with pytest.raises(UsageError, match="float32, bfloat16, float16, not 'half'"):
        Line({"precision": "half"})


def test_accumulated_batches_make_the_step_of_one_large_batch(outside: None) -> None:
    class Plain(Line):
        def build(self) -> None:
            super().build()
            self.model[1] = nn.Identity()
            self.loader = self.make_loader(data(), batch_size=8 * self.size, shuffle=False)

    losses: list[dict[str, Tensor]] = []
    for size, accumulate in ((1, 5), (5, 1)):
        Plain.size = size
        trainer = Plain({"accumulate": accumulate, "epochs": 1})
        trainer.run()
        losses.append(dict(trainer.model.state_dict()))
    for name, value in losses[0].items():
        torch.testing.assert_close(value, losses[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("how", "moves"), [("epoch", 3), ("step", 30)])
def test_schedules_move_by_epoch_or_by_step(outside: None, how: str, moves: int) -> None:
    trainer = Line({"schedule_every": how})
    trainer.run()
    assert rate(trainer) == pytest.approx(0.01 * 0.5**moves)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 6},
        {"epochs": 6, "schedule_every": "step"},
        {"epochs": 3, "validate_every": 5},
        {"epochs": 3, "validate_every": 5, "schedule_every": "step"},
    ],
)
def test_a_plateau_sees_each_validation(outside: None, settings: dict[str, Any]) -> None:
    class Flat(Line):
        def build(self) -> None:
            super().build()
            self.schedule = lr_scheduler.ReduceLROnPlateau(self.optimizer, factor=0.1, patience=1)

    trainer = Flat(settings)
    trainer.run()
    # Six times the same: the first is the best, and every second one after it too many.
    assert trainer.order.count("validate") == 6
    assert rate(trainer) == pytest.approx(0.01 * 0.1**2)


class Numbers(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(data())


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_loader_of_whatever_kind_is_made_and_shuffled_where_that_is_open(
    outside: None, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    trainer = Line()
    monkeypatch.setattr(type(trainer.session), "world_size", world_size)
    dataset = data()

    def first(given: Any, **settings: Any) -> list[float]:
        torch.manual_seed(0)
        return [float(x[0, 0]) for x, _ in trainer.make_loader(given, **settings)]

    plain = [float(x[0]) for x, _ in dataset]
    by_eights = BatchSampler(SequentialSampler(dataset), 8, False)
    assert first(Numbers(), batch_size=8) == plain[::8]
    assert first(dataset, batch_sampler=by_eights) == plain[::8]
    assert first(dataset, batch_size=8, sampler=SequentialSampler(dataset)) == plain[::8]
    assert first(dataset, batch_size=8, shuffle=False) == plain[:: 8 * world_size]
    shuffled = first(dataset, batch_size=1, sampler=None)
    assert len(shuffled) == len(plain) // world_size
    assert shuffled != plain[::world_size]
    with pytest.raises(ValueError, match="shuffle"):
        first(Numbers(), shuffle=True)


def test_validation_every_so_many_steps_leaves_modules_as_they_were(outside: None) -> None:
    class Frozen(Line):
        validate_every = 4
        epochs = 1

        def build(self) -> None:
            super().build()
            self.model[1].eval()

    trainer = Frozen()
    trainer.run()
    assert trainer.order.count("validate") == 2
    assert trainer.order.index("validate") == 4
    assert trainer.model.training
    assert not trainer.model[1].training


def test_the_best_validation_is_kept(life: Lives) -> None:
    class Worse(Line):
        epochs = 4

        def validate(self) -> Mapping[str, float]:
            return {"loss": abs(self.session.epoch - 1.0) + 1.0, "mos": 3.0}

    life.begin(checkpoint={"every": "1000 steps"})
    trainer = Worse()
    life.sessions.append(trainer.session)
    trainer.run()
    best = [each for each in life.wait().all() if each.best][-1]
    assert (best.step, best.metrics) == (20, {"loss": 1.0})


def test_float16_has_a_scaler_that_is_saved(life: Lives) -> None:
    life.begin()
    trainer = Line({"precision": "float16", "epochs": 1})
    life.sessions.append(trainer.session)
    trainer.run()
    items = life.state(life.wait().all()[-1])["own"]["items"]
    assert items["scaler"]["kind"] == "other"


class Gan(Line):
    """A second optimizer, and a step of its own."""

    def build(self) -> None:
        super().build()
        self.critic = self.prepare(nn.Linear(1, 1))
        self.opt_critic = torch.optim.SGD(self.critic.parameters(), lr=0.01)

    def critic_loss(self, batch: Any) -> Mapping[str, Tensor]:
        real = self.critic(batch[1]).mean()
        return {"real": -real, "fake": self.critic(self.model(batch[0]).detach()).mean()}

    def step(self, batches: Any) -> None:
        self.update(self.opt_critic, self.critic_loss, batches)
        self.update(self.optimizer, self.loss, batches)


def test_a_gan_steps_both_and_goes_back_with_both(life: Lives) -> None:
    life.begin(
        checkpoint={"every": "1000 steps", "confirm_steps": 10},
        heal={"explosion": {"change": {}, "skip_batches": 0}},
    )

    def train(*strikes: int) -> Gan:
        trainer = Gan({"epochs": 5})
        life.sessions.append(trainer.session)
        build = trainer._register

        def register() -> None:
            build()
            strike(trainer.session, *strikes, onset=25)

        trainer._register = register  # type: ignore[method-assign]
        trainer.run()
        return trainer

    struck = train(35)
    assert life.events("rollback")[0].data["step"] == 20
    assert set(struck.session.registry.of_kind("optimizer")) == {"main", "opt_critic"}
    life.end()
    life.folder = life.folder.with_name("other")
    life.attempt = 0
    life.begin()
    plain = train()
    # Nothing was changed and nothing left out: the same again.
    assert_same(dict(plain.model.state_dict()), dict(struck.model.state_dict()))
    assert_same(dict(plain.critic.state_dict()), dict(struck.critic.state_dict()))


def test_a_trainer_goes_on_where_it_stood(life: Lives, capsys: pytest.CaptureFixture[str]) -> None:
    class Ended(Exception):
        pass

    class Dies(Line):
        dies = True

        def loss(self, batch: Any) -> Any:
            if self.dies and self.session.step_number == 25:
                raise Ended
            return super().loss(batch)

    straight = Line()
    straight.run()
    life.begin(checkpoint={"every": "7 steps"})
    first = Dies()
    life.sessions.append(first.session)
    with pytest.raises(Ended):
        first.run()
    life.begin()
    said(capsys)
    Dies.dies = False
    second = Dies()
    life.sessions.append(second.session)
    second.run()
    assert any("going on from step" in line for line in said(capsys))
    assert_same(dict(straight.model.state_dict()), dict(second.model.state_dict()))
    assert rate(second) == rate(straight)


def test_a_loader_that_would_never_give_a_batch_is_refused(outside: None) -> None:
    few = data()
    size = len(few) + 1
    words = f"{len(few)} samples do not make one batch of {size}"
    with pytest.raises(UsageError, match=words):
        Line().make_loader(few, batch_size=size, drop_last=True)
    assert len(Line().make_loader(few, batch_size=size)) == 1

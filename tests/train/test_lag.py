"""Decisions use readings of a fixed age, whatever arrives when: ranks and resumed runs agree."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpckit.monitor import Reading
from hpckit.monitor.lookout import Lookout
from hpckit.train import Clip, Stepper
from hpckit.train.lag import Lag, Pending
from tests.train.conftest import assert_same, backward


class Noted(Lookout):
    """Keeps which step's reading was used when."""

    def __init__(self) -> None:
        super().__init__()
        self.now = -1
        self.used: list[tuple[int, int]] = []

    def observe(self, reading: Reading, details: Any = None) -> Any:
        self.used.append((reading.step, self.now))
        return super().observe(reading, details)


def one_step(stepper: Stepper, model: nn.Module, optimizer: Any) -> list[Any]:
    stepper.step(loss=backward(model, optimizer))
    return stepper.end()


@pytest.mark.parametrize("lag", [1, 2, 4, 7])
def test_step_t_knows_exactly_the_readings_up_to_t_minus_lag(lag: int) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    lookout = Noted()
    stepper = Stepper(model=model, optimizers=optimizer, lag=lag, lookout=lookout)
    for step in range(20):
        lookout.now = step
        one_step(stepper, model, optimizer)
    # What is used after step t counts from step t + 1 on.
    assert all(read == now + 1 - lag for read, now in lookout.used)
    assert len(lookout.used) == 21 - lag
    stepper.finish()
    assert [read for read, _ in lookout.used] == list(range(20))


def test_a_lag_of_less_than_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        Lag(0)


class Slow:
    """A device that answers late: what is asked for is waited for."""

    def __init__(self, values: Tensor, late: bool) -> None:
        self.values, self.late, self.waited = values, late, False

    def is_here(self) -> bool:
        return not self.late

    def land(self) -> list[float]:
        self.waited = True
        return self.values.tolist()


class SlowRing:
    """Sends what arrives at a time that nobody knows."""

    def __init__(self, late: bool) -> None:
        self.late = late
        self.sent: list[Slow] = []

    def send(self, values: Tensor) -> Slow:
        self.sent.append(Slow(values.clone(), self.late))
        return self.sent[-1]


def train(late: bool, *, steps: int = 150, spike_at: int = 120) -> tuple[Any, Stepper]:
    torch.manual_seed(5)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    stepper = Stepper(model=model, optimizers=optimizer, clip=Clip(percentile=50), lag=4)
    stepper._sender.vectors["main"] = SlowRing(late)  # type: ignore[assignment]
    for step in range(steps):
        loss = backward(model, optimizer)
        if step == spike_at:
            model.weight.grad.mul_(1e4)
        stepper.step(loss=loss)
        stepper.end()
    return model.state_dict(), stepper


def test_details_that_are_late_are_dropped_and_counted_and_change_no_decision() -> None:
    in_time, first = train(late=False)
    too_late, second = train(late=True)
    assert_same(too_late, in_time)
    assert first.dropped == 0
    assert second.dropped > 0


def test_a_number_that_is_not_here_when_it_is_due_is_waited_for() -> None:
    flight = Slow(torch.tensor([3.0]), late=True)
    pending = Pending(0, 0.0, {}, flights=((("grad/norm/main",), flight),))
    assert Lag(1).push(pending) == [pending]
    assert pending.values() == {"grad/norm/main": 3.0}
    assert flight.waited


def test_readings_in_flight_are_part_of_a_checkpoint() -> None:
    # A percentile clip and a gate depend on what was read: any difference shows in the weights.
    def build() -> tuple[nn.Module, Any, Stepper]:
        torch.manual_seed(6)
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        clip = Clip(percentile=30)
        return model, optimizer, Stepper(model=model, optimizers=optimizer, clip=clip, lag=5)

    def go(model: nn.Module, optimizer: Any, stepper: Stepper, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            data = torch.randn(6, 4, generator=generator) * (100 if step % 37 == 36 else 1)
            stepper.step(loss=backward(model, optimizer, data))
            stepper.end()

    model, optimizer, stepper = build()
    go(model, optimizer, stepper, range(200))
    for cut in (3, 33, 36, 37, 40, 111):
        first = build()
        go(*first, range(cut))
        saved = copy.deepcopy((first[0].state_dict(), first[1].state_dict()))
        state = json.loads(json.dumps(first[2].state_dict()))
        second = build()
        second[0].load_state_dict(saved[0])
        second[1].load_state_dict(saved[1])
        second[2].load_state_dict(state)
        go(*second, range(cut, 200))
        assert_same(second[0].state_dict(), model.state_dict())
        assert second[2].lookout.limit("main") == stepper.lookout.limit("main")
        ended, whole = second[2].state_dict(), stepper.state_dict()
        assert [ended[part] for part in ("clips", "epochs", "updates")] == [
            whole[part] for part in ("clips", "epochs", "updates")
        ]


def test_the_reading_of_a_step_has_loss_norm_clip_gate_rate_and_time() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    kept = []

    class Keeps:
        def write(self, reading: Reading) -> None:
            kept.append(reading)

        def incident(self, incident: object) -> None: ...
        def flush(self) -> None: ...
        def close(self) -> None: ...

    stepper = Stepper(model=model, optimizers=optimizer, clip=0.01, sinks=[Keeps()])
    for _ in range(20):
        stepper.log(mel=torch.tensor(1.5), **{"val/pesq": 3.2})
        one_step(stepper, model, optimizer)
    values = kept[-1].values
    assert set(values) == {
        "train/loss",
        "train/mel",
        "val/pesq",
        "grad/norm/main",
        "grad/clip/main",
        "grad/gated/main",
        "lr/main",
        "weights/update/main",
        "time/step",
    }
    assert values["train/mel"] == 1.5
    assert values["lr/main"] == 0.02
    assert values["grad/clip/main"] == pytest.approx(0.01 / values["grad/norm/main"], rel=1e-3)
    assert [reading.step for reading in kept] == list(range(20))
    assert set(kept[0].parameters["main"]) == {"weight", "bias"}
    assert kept[1].parameters == {}


def test_several_losses_are_told_apart_and_a_total_of_nan_names_its_optimizer() -> None:
    parts = {"generator": nn.Linear(4, 2), "discriminator": nn.Linear(4, 2)}
    optimizers = {name: torch.optim.AdamW(part.parameters()) for name, part in parts.items()}
    stepper = Stepper(model=parts, optimizers=optimizers)
    for name, part in parts.items():
        loss = backward(part, optimizers[name])
        stepper.step(name, loss=loss * math.nan if name == "generator" else loss)
    [incident] = stepper.end()
    assert incident.optimizer == "generator"
    assert set(stepper.lookout.detectors) == {"generator", "discriminator"}


def test_an_optimizer_that_nobody_registered_is_an_error() -> None:
    model = nn.Linear(4, 2)
    stepper = Stepper(model=model, optimizers=torch.optim.AdamW(model.parameters()))
    other = torch.optim.AdamW(model.parameters())
    with pytest.raises(ValueError, match="not registered"):
        stepper.step(other)


def test_an_epoch_ends_with_quantiles_of_its_steps() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model=model, optimizers=optimizer)
    for _ in range(30):
        one_step(stepper, model, optimizer)
    first = stepper.end_epoch()["main"]
    assert first.steps == 30
    assert "30 steps: gradient norm" in str(first)
    one_step(stepper, model, optimizer)
    assert stepper.latest.values()["epoch/max/main"] == first.largest
    assert stepper.end_epoch()["main"].steps == 1

"""What a person changes in the script is followed by what comes back, and told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from hpckit.errors import UsageError
from tests.train.inside import Ended, Lives, Training, ends_at, patient, said


@pytest.mark.parametrize(
    "schedule",
    [
        None,
        lambda o: lr_scheduler.LambdaLR(o, lambda step: min(1.0, step / 15)),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 50),
        lambda o: lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.LinearLR(o, 0.1, total_iters=5), lr_scheduler.CosineAnnealingLR(o, 45)],
            milestones=[5],
        ),
    ],
    ids=["none", "warm up from nothing", "cosine", "sequence"],
)
def test_another_learning_rate_in_the_script_is_followed_and_told(
    life: Lives, capsys: pytest.CaptureFixture[str], schedule: Any
) -> None:
    patient(life)
    rates = {}

    def noted(training: Training) -> Any:
        def note(step: int) -> None:
            rates[step] = training.optimizer.param_groups[0]["lr"]

        return note

    whole = Training(life.begin(attempt=1), epochs=5, lr=0.003, schedule=schedule)
    whole.go(each=noted(whole))
    expected = dict(rates)
    rates.clear()
    life.end()
    life.folder = life.folder.with_name("other")
    life.attempt = 0

    first = Training(life.begin(), epochs=5, lr=0.01, schedule=schedule)
    with pytest.raises(Ended):
        first.go(each=ends_at(25))
    said(capsys)
    second = Training(life.begin(), epochs=5, lr=0.003, schedule=schedule)
    second.go(each=noted(second))
    assert min(rates) == 20
    for step, rate in rates.items():
        assert rate == pytest.approx(expected[step]), step
    assert any("the script says 0.003" in line for line in said(capsys))


def test_another_clip_in_the_script_is_followed(life: Lives) -> None:
    Training(life.begin(), epochs=1, clip=1.0).go()
    run = life.begin()
    Training(run, epochs=2, clip=3.0).go()
    assert run.stepper.watched["main"].clip.norm == 3.0


def cut(life: Lives, epochs: int, **settings: Any) -> None:
    """A life that dies at step 35, of checkpoints of every 20 steps."""
    patient(life)
    with pytest.raises(Ended):
        Training(life.begin(), epochs=epochs, **settings).go(each=ends_at(35))


def test_other_options_of_an_optimizer_are_followed_and_told(
    life: Lives, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(life, 5, optimizer=lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1))
    second = Training(
        life.begin(),
        epochs=5,
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5, betas=(0.5, 0.9)),
    )
    second.go()
    (group,) = second.optimizer.param_groups
    assert (group["weight_decay"], group["betas"]) == (0.5, (0.5, 0.9))
    lines = said(capsys)
    told = "weight_decay of main: the script says 0.5 now, 0.1 when it was saved: changed"
    assert any(told in line for line in lines)
    assert any("betas of main: the script says (0.5, 0.9) now" in line for line in lines)
    assert not any("learning rate" in line for line in lines)


def test_another_kind_of_optimizer_is_refused_by_name(life: Lives) -> None:
    cut(life, 5)
    second = Training(life.begin(), epochs=5, optimizer=lambda p: torch.optim.SGD(p, lr=0.01))
    with pytest.raises(UsageError, match="does not fit main: it was AdamW, now it is SGD"):
        second.go()


LENGTHS = {
    "total_steps": lambda o, n: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=n + 1),
    "T_max": lambda o, n: lr_scheduler.CosineAnnealingLR(o, T_max=n),
    "total_iters": lambda o, n: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=n),
}


@pytest.mark.parametrize("key", LENGTHS)
def test_a_longer_training_has_a_longer_schedule(
    life: Lives, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    make = LENGTHS[key]
    patient(life)
    Training(life.begin(), epochs=3, schedule=lambda o: make(o, 30)).go()
    second = Training(life.begin(), epochs=6, schedule=lambda o: make(o, 60))
    rates: list[float] = []
    second.go(each=lambda step: rates.append(second.optimizer.param_groups[0]["lr"]))
    assert second.steps == [*range(30, 60)]
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=0.01)
    schedule, planned = make(optimizer, 60), []
    for _ in range(60):
        planned.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(planned[30:])
    assert any(f"{key} of schedule: the script says 6" in line for line in said(capsys))

"""What is done about an incident in a program that cannot go back by itself."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import nn

from hpckit.heal.plan import RESTART_CODE
from hpckit.integrations.attached.ending import Ending
from tests.integrations.watching import FILES, Watching


class Program:
    """Explodes when it is told to; goes on from what it saved."""

    def __init__(self, saved: dict[str, Any] | None = None) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(4, 2)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        if saved is not None:
            self.optimizer.load_state_dict(saved)
        self.step = 0

    def go(self, steps: int, *, explodes_at: int | None = None) -> None:
        for _ in range(steps):
            since = -1 if explodes_at is None else self.step - explodes_at
            factor = 10.0 ** (since + 2) if since >= 0 else 1.0
            self.optimizer.zero_grad()
            data = torch.randn(6, 4, generator=torch.Generator().manual_seed(self.step))
            ((self.model(data) - 1).square().mean() * factor).backward()
            self.step += 1
            self.optimizer.step()


def incident(watching: Watching) -> dict[str, Any]:
    """The one that asked for more than to be told, and what was planned."""
    (found,) = [each.data for each in watching.events("incident") if "plan" in each.data]
    return found


def test_where_the_spec_does_not_say_how_it_resumes_it_is_told_and_goes_on(
    watching: Watching,
) -> None:
    watching.begin()
    Program().go(120, explodes_at=100)
    assert len(watching.readings()) == 120
    found = incident(watching)
    assert found["incident"]["kind"] == "explosion"
    assert found["plan"]["do"] == "tell"
    assert "checkpoint.files" in found["plan"]["reason"]


def test_where_it_does_the_program_ends_to_be_started_again(
    watching: Watching, capsys: pytest.CaptureFixture[str]
) -> None:
    watching.begin(checkpoint=FILES)
    program = Program()
    with pytest.raises(SystemExit) as ended:
        program.go(120, explodes_at=100)
    assert ended.value.code == RESTART_CODE == 76
    found = incident(watching)
    assert (found["plan"]["do"], found["plan"]["changes"]["clip"]) == ("rollback", {"times": 0.5})
    assert found["incident"]["step"] == program.step - 1
    assert 0 < found["usual"]["main"] < 10
    said = capsys.readouterr().err
    assert "clip x0.5, lr x0.5, 100 batches skipped: ending, to be started again" in said
    # A program that takes it for an error of its own is asked again, and gets no step further.
    before = program.model.weight.detach().clone()
    with pytest.raises(SystemExit):
        program.go(1)
    assert torch.equal(program.model.weight, before)
    assert len(watching.readings()) == program.step - 1


def test_the_next_start_is_clipped_and_stepped_as_it_was_planned(
    watching: Watching, capsys: pytest.CaptureFixture[str]
) -> None:
    watching.begin(checkpoint=FILES)
    program = Program()
    program.go(60)
    saved = copy.deepcopy(program.optimizer.state_dict())
    with pytest.raises(SystemExit):
        program.go(60, explodes_at=100)
    usual = incident(watching)["usual"]["main"]
    capsys.readouterr()
    attached = watching.begin(launch=2, checkpoint=FILES)
    program = Program(saved)
    rates = []
    program.optimizer.register_step_post_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    program.go(30)
    seat = attached.meeting.seat(program.optimizer)
    assert seat is not None
    assert (seat.watched.rate, seat.watched.clip.norm) == (0.5, pytest.approx(usual))
    # For the length of the step; the program's schedule sees its own.
    assert set(rates) == {0.005}
    assert program.optimizer.param_groups[0]["lr"] == 0.01
    readings = watching.readings(2)
    # By what the optimizer that was loaded says of itself.
    assert [each.step for each in readings] == list(range(60, 90))
    assert {each.values["lr/main"] for each in readings} == {0.005}
    (rollback,) = watching.events("rollback")
    assert (rollback.data["launch"], rollback.data["step"]) == (2, 60)
    assert rollback.data["changed"][1] == "lr 0.01 -> 0.005"
    assert "hpckit: started again at step 60, clip " in capsys.readouterr().err
    assert [each.data["step"] for each in watching.events("resumed")] == [0, 60]


def test_what_was_done_counts_and_a_spent_budget_stops(watching: Watching) -> None:
    spec = {"checkpoint": FILES, "heal": {"explosion": {"limit": 1}}}
    for launch, code in ((1, 76), (2, 3)):
        watching.begin(launch=launch, **spec)
        with pytest.raises(SystemExit) as ended:
            Program().go(120, explodes_at=100)
        assert ended.value.code == code
    (stopped,) = watching.events("stopped")
    assert (stopped.data["attempt"], stopped.data["launch"]) == (1, 2)
    assert "explosion" in stopped.data["reason"]


def test_who_says_stop_is_stopped_without_any_checkpoint(watching: Watching) -> None:
    watching.begin(heal={"explosion": {"do": "stop"}})
    with pytest.raises(SystemExit) as ended:
        Program().go(120, explodes_at=100)
    assert ended.value.code == 3
    assert incident(watching)["plan"]["do"] == "stop"
    assert len(watching.events("stopped")) == 1


def test_who_trains_on_another_thread_is_ended_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    left = []
    monkeypatch.setattr("os._exit", left.append)
    ending = Ending()
    thread = threading.Thread(target=lambda: ending.insist())
    ending.code = 76
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    thread.start()
    thread.join()
    # A SystemExit there would end the thread, and nothing else.
    assert left == [76]

"""What a training says: a bar or lines, warnings once, and parameters that know who read them."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim import lr_scheduler

from hpckit.checkpoint.names import Segment
from hpckit.ledger import Ledger
from hpckit.monitor.incident import Incident
from hpckit.monitor.readings.reader import read_readings
from hpckit.monitor.readings.tensorboard import NO_CURVES
from hpckit.train import progress as progress_module
from hpckit.train import telling
from hpckit.train.forgotten import Forgotten
from hpckit.train.params import Params, merged
from hpckit.train.progress import Progress
from hpckit.train.registry import Registry
from hpckit.train.telling import Teller
from tests.train.inside import Lives, Training


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def update(progress: Progress, step: int, **more: Any) -> None:
    about: dict[str, Any] = {"total": 100, "epoch": 1, "epochs": 4, "loss": 0.5}
    progress.update(step, **{**about, **more})


# Progress.


def test_a_terminal_has_one_bar_that_is_drawn_over(clock: list[float]) -> None:
    stream = Terminal()
    progress = Progress(wanted=True, stream=stream)
    update(progress, 10)
    clock[0] += 10
    update(progress, 60)
    text = stream.getvalue()
    assert "\n" not in text
    last = text.split("\r\x1b[2K")[-1]
    assert "60%  step 60 of 100  epoch 2 of 4  loss 0.5  5 steps/s  8s left" in last
    assert last.startswith("[##############..........]")


class Full(Terminal):
    """A terminal's log on a disk that is full; or its reader is gone."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", ["full", "closed"])
def test_a_log_that_takes_nothing_more_ends_no_training(clock: list[float], error: str) -> None:
    stream = Full()
    progress = Progress(wanted=True, stream=stream)
    if error == "closed":
        stream.close()
    clock[0] += 10
    update(progress, 10)
    for speaks in (True, False):
        Teller(None, speaks=speaks, progress=progress).say_of_rank(1, "so")
    progress.end()


def test_a_log_gets_a_line_now_and_then(clock: list[float]) -> None:
    stream = io.StringIO()
    progress = Progress(wanted=True, stream=stream)
    for step in range(1, 70):
        update(progress, step, total=None)
        clock[0] += 1
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1", "step 31", "step 61"]
    assert "\x1b" not in stream.getvalue()
    assert lines[1].endswith("1 steps/s")


def test_a_line_stands_above_the_bar(clock: list[float]) -> None:
    stream = Terminal()
    progress = Progress(wanted=True, stream=stream)
    update(progress, 10)
    progress.line("a word")
    drawn = stream.getvalue()
    bar = drawn.split("\r\x1b[2K")[1]
    assert drawn.endswith(f"\r\x1b[2Ka word\n{bar}")
    progress.end()
    progress.line("after it")
    assert stream.getvalue().endswith(f"{bar}\nafter it\n")


def test_nothing_is_drawn_that_nobody_wants(clock: list[float]) -> None:
    stream = Terminal()
    progress = Progress(wanted=False, stream=stream)
    update(progress, 10)
    assert stream.getvalue() == ""


def test_after_a_rollback_the_rate_is_no_nonsense(clock: list[float]) -> None:
    stream = Terminal()
    progress = Progress(wanted=True, stream=stream)
    for step in (10, 60, 20, 70):
        clock[0] += 10
        update(progress, step)
    assert "-" not in stream.getvalue().replace("\x1b", "")
    assert "5 steps/s" in stream.getvalue()


def test_the_last_step_has_nothing_left(clock: list[float]) -> None:
    stream = Terminal()
    progress = Progress(wanted=True, stream=stream)
    update(progress, 10)
    clock[0] += 10
    update(progress, 100, epoch=4)
    last = stream.getvalue().split("\r\x1b[2K")[-1]
    assert "100%" in last
    assert "left" not in last
    assert "epoch 4 of 4" in last


# The teller.


def teller(folder: Path, *, speaks: bool = True) -> tuple[Teller, io.StringIO]:
    stream = io.StringIO()
    ledger = Ledger(folder / "ledger", "w")
    return Teller(ledger, speaks=speaks, progress=Progress(wanted=False, stream=stream)), stream


def struck(step: int, answer: Any) -> Incident:
    return Incident(kind="bad_batch", step=step, answer=answer, said="bad")


def test_one_bad_step_after_the_other_is_told_once_and_what_acts_always(tmp_path: Path) -> None:
    tells, stream = teller(tmp_path)
    for step in (5, 6, 90, 300):
        tells.incident(struck(step, "skip"), Segment(1, 1))
    for step in (301, 302):
        tells.incident(struck(step, "act"), Segment(1, 1), plan={"do": "rollback"})
    assert stream.getvalue().splitlines() == [
        f"hpckit: step {step}: bad" for step in (5, 300, 301, 302)
    ]
    events = Ledger(tmp_path / "ledger").events()
    assert [each.data["incident"]["step"] for each in events] == [5, 300, 301, 302]
    assert events[-1].data["plan"] == {"do": "rollback"}


def test_a_rank_that_does_not_speak_says_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tells, stream = teller(tmp_path, speaks=False)
    tells.say("a word")
    tells.incident(struck(5, "act"), Segment(1, 1))
    assert stream.getvalue() == ""
    assert Ledger(tmp_path / "ledger").events() == []
    # But for its own trouble.
    tells.say_of_rank(3, "my disk is full")
    assert capsys.readouterr().err == "hpckit: rank 3: my disk is full\n"


def test_a_ledger_that_cannot_be_written_is_told_once_and_stops_nobody(tmp_path: Path) -> None:
    tells, stream = teller(tmp_path)
    (tmp_path / "ledger").write_text("in the way")
    tells.write("resumed", step=1)
    tells.write("resumed", step=2)
    assert len(stream.getvalue().splitlines()) == 1
    assert "the ledger could not be written" in stream.getvalue()


def refusing(tells: Teller, times: int) -> None:
    """The disk refuses so many lines."""
    assert tells.ledger is not None
    write, left = tells.ledger.write, [times]

    def refuse(kind: str, **data: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        write(kind, **data)

    tells.ledger.write = refuse  # type: ignore[method-assign]


def written(folder: Path) -> list[int]:
    return [each.data["step"] for each in Ledger(folder / "ledger").events()]


def test_a_line_that_was_refused_is_written_before_those_that_come_after_it(
    tmp_path: Path,
) -> None:
    tells, _ = teller(tmp_path)
    refusing(tells, 2)
    for step in (1, 2):
        tells.write("rollback", step=step)
        assert written(tmp_path) == []
    tells.write("rollback", step=3)
    assert written(tmp_path) == [1, 2, 3]


def test_a_line_that_was_refused_is_tried_again_after_a_while_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("hpckit.train.telling.time.monotonic", lambda: now[0])
    tells, _ = teller(tmp_path)
    refusing(tells, 2)
    tells.write("rollback", step=1)
    now[0] += telling.AGAIN_S / 2
    tells.write_waiting()
    now[0] += telling.AGAIN_S / 2
    # Refused once more: it was not tried in between.
    tells.write_waiting()
    assert written(tmp_path) == []
    tells.write_waiting()
    assert written(tmp_path) == []
    tells.write_waiting(at_once=True)
    tells.write_waiting(at_once=True)
    assert written(tmp_path) == [1]


# What was forgotten.


class Loop:
    def __init__(self) -> None:
        self.model = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.registry = Registry()

    def look(self) -> list[str]:
        found = Forgotten(self.registry)
        self.model(torch.ones(1, 2)).sum().backward()
        self.optimizer.step()
        try:
            return list(found.after_a_step())
        finally:
            found.close()


def test_nothing_is_said_when_all_is_registered() -> None:
    loop = Loop()
    loop.registry.add("model", loop.model)
    loop.registry.add("main", loop.optimizer)
    assert loop.look() == []


def test_an_optimizer_and_parameters_that_nobody_registered_are_named() -> None:
    loop = Loop()
    assert loop.look() == ["an optimizer (SGD) steps that was never registered: it is not saved"]
    loop = Loop()
    loop.registry.add("main", loop.optimizer)
    assert loop.look() == ["2 parameters of main are in no registered model: not saved"]


def test_no_hook_stays_behind() -> None:
    from torch.optim.optimizer import _global_optimizer_post_hooks as hooks

    before = len(hooks)
    Loop().look()
    Forgotten(Registry()).close()
    assert len(hooks) == before


def test_a_plateau_that_moves_does_not_stand_still() -> None:
    loop = Loop()
    plateau = lr_scheduler.ReduceLROnPlateau(loop.optimizer)
    loop.registry.add("plateau", plateau)
    found = Forgotten(loop.registry)
    found.close()
    assert list(found.schedules()) == [
        "plateau was never stepped: the learning rate stays as it is"
    ]
    plateau.step(1.0)
    assert list(found.schedules()) == []


# Parameters.


def test_parameters_know_what_was_read() -> None:
    params = Params({"a": 1, "loss": {"alpha": 2, "beta": 3}, "c": 4})
    assert not params.was_read("a")
    assert not params.was_read("loss.alpha")
    assert (params["a"], params["loss"]["alpha"], params.get("c")) == (1, 2, 4)
    assert params.was_read("a")
    assert params.was_read("loss.alpha")
    assert params.was_read("c")
    assert not params.was_read("loss.beta")
    params.forget("loss.alpha")
    assert not params.was_read("loss.alpha")


@pytest.mark.parametrize(
    "read",
    [
        lambda p: dict(**p),
        lambda p: list(p.items()),
        lambda p: list(p.values()),
        lambda p: p.copy(),
    ],
    ids=["unpacked", "items", "values", "copy"],
)
def test_who_takes_all_of_them_has_read_each(read: Any) -> None:
    params = Params({"a": 1, "b": {"c": 2}})
    read(params["b"])
    assert params.was_read("b.c")


def test_the_runs_own_go_over_defaults_part_by_part() -> None:
    defaults = {"a": 1, "loss": {"alpha": 2, "beta": 3}, "list": [1]}
    own = {"a": 5, "loss": {"beta": 9}, "new": {"x": 1}, "list": [2]}
    assert merged(defaults, own) == {
        "a": 5, "loss": {"alpha": 2, "beta": 9}, "new": {"x": 1}, "list": [2]
    }  # fmt: skip
    assert defaults == {"a": 1, "loss": {"alpha": 2, "beta": 3}, "list": [1]}


def test_parameters_are_a_dict_as_any_other() -> None:
    import json

    params = Params({"a": 1, "b": {"c": 2}})
    assert json.loads(json.dumps(params)) == {"a": 1, "b": {"c": 2}}
    assert isinstance(params, dict)
    assert "a" in params


def test_tensorboard_has_every_name_of_the_readings_but_what_is_no_curve(life: Lives) -> None:
    run = life.begin()
    training = Training(run, epochs=2)
    for x, y in run.batches(training.loader, epochs=2):
        loss = (training.model(x) - y).square().mean()
        training.optimizer.zero_grad()
        loss.backward()
        run.log(mel=loss / 2)
        run.step(training.optimizer, loss=loss)
        if run.epoch_ends:
            run.best(loss)
    life.end()
    (folder,) = life.folder.glob("attempts/001/readings/launch-1")
    named = {name for each in read_readings(folder) for name in each.values}
    shown = EventAccumulator(str(life.folder / "tensorboard"), size_guidance={"scalars": 0})
    shown.Reload()
    curves = set(shown.Tags()["scalars"])
    assert curves == {name for name in named if not name.startswith(NO_CURVES)}
    assert {"train/mel", "val/metric", "grad/norm/main", "epoch"} <= curves
    assert "progress/total" in named - curves

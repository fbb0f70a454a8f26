"""What a person asks of a loop: to stop, to save, to end; and the best state."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from hpckit import requests
from hpckit.monitor.incident import Incident
from hpckit.train.healing import Stopped
from tests.train.inside import Lives, Training, strike


def test_stop_ends_the_loop_after_this_pass_and_saves(life: Lives) -> None:
    run = life.begin()
    training = Training(run, epochs=5)
    training.go(each=lambda step: run.stop() if step == 13 else None)
    assert training.steps[-1] == 13
    assert life.checkpoint(14).why == "end"


def test_save_and_a_request_save_at_this_step_and_serve_it(life: Lives) -> None:
    life.monkeypatch.setattr(requests, "LOOK_S", 0.0)
    run = life.begin(checkpoint={"every": "1000 steps"})
    training = Training(run, epochs=5)
    asked = []

    def ask(step: int) -> None:
        if step == 7:
            run.save()
        if step == 21:
            asked.append(requests.ask(life.folder, requests.SAVE))

    training.go(each=ask)
    assert not asked[0].exists()
    found = {each.step: each.why for each in life.wait().all()}
    assert found == {0: "start", 8: "request", 22: "request", 50: "end"}


def test_the_best_state_is_kept_with_its_metric(life: Lives) -> None:
    run = life.begin(checkpoint={"every": "1000 steps", "keep": 1, "confirm_steps": 1000})
    training = Training(run, epochs=5)
    answers = []

    def look(step: int) -> None:
        if step % 10 == 9:
            answers.append(run.best([5.0, 3.0, 4.0, float("nan"), 3.5][step // 10], name="mos"))

    training.go(after=look)
    assert answers == [True, True, False, False, False]
    best = [each for each in life.wait().all() if each.best][-1]
    assert (best.step, best.metrics) == (20, {"mos": 3.0})


def test_sigterm_saves_at_this_step_and_ends_with_143(life: Lives) -> None:
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *args: heard.append(args))
    try:
        run = life.begin(checkpoint={"every": "1000 steps"})
        training = Training(run, epochs=5)
        with pytest.raises(SystemExit) as end:
            training.go(
                each=lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 17 else None
            )
        assert end.value.code == 143
        assert heard, "the program's own handler hears of it, too"
        assert training.steps[-1] == 17
        assert life.checkpoint(18).why == "told to end"
        assert Training(life.begin(), epochs=5).go().steps[0] == 18
    finally:
        signal.signal(signal.SIGTERM, before)


def test_after_the_loop_sigterm_does_what_it_did_before(life: Lives) -> None:
    before = signal.getsignal(signal.SIGTERM)
    Training(life.begin(), epochs=1).go()
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_after_the_last_pass_ends_the_program_with_all_saved(life: Lives) -> None:
    run = life.begin()
    training = Training(run, schedule=None)

    def program() -> None:
        for _ in run.epochs(1):
            for x, y in run.batches(training.loader):
                training.optimizer.zero_grad()
                (training.model(x) - y).square().mean().backward()
                run.step(training.optimizer)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as end:
        program()
    assert end.value.code == 143
    assert life.checkpoint(10).why == "end"


def test_a_loop_on_another_thread_runs(life: Lives) -> None:
    training = Training(life.begin(), epochs=1)
    thread = threading.Thread(target=training.go)
    thread.start()
    thread.join()
    assert len(training.seen) == 10


def test_a_rule_that_is_stopped_by_policy_leaves_no_half_open_incident(life: Lives) -> None:
    run = life.begin(heal={"explosion": {"do": "stop"}})
    training = Training(run, epochs=3)
    strike(run, 15)
    with pytest.raises(Stopped):
        training.go()
    assert Incident.from_json(life.events("incident")[0].data["incident"]).step == 15
    # Whoever begins it again goes on with the newest state.
    assert Training(life.begin(), epochs=3).go().seen != []

"""What a callback promises is the same for Lightning and for transformers."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integrations.conftest import Life
from tests.train.bare import environment

EVERY_7 = {"checkpoint": {"every": "7 steps"}}
ROOT = Path(__file__).parents[2]


class Framework:
    """One of the two, with its small training."""

    def __init__(self, name: str) -> None:
        self.module: Any = importlib.import_module(f"tests.integrations.{name}")
        self.name = name

    def train(self, life: Life, attempt: int | None, **settings: Any) -> Any:
        life.start(attempt)
        callback = self.module.HpckitCallback()
        trainer, model = self.module.train(life.folder, callback=callback, **settings)
        return callback.run, self.module.steps_of(trainer), model

    def dies(self, life: Life, at: int, **settings: Any) -> None:
        with pytest.raises(self.module.Crash):
            self.train(life, 1, disturb={"crash": at}, **settings)


@pytest.fixture(params=["lit", "face"])
def framework(request: pytest.FixtureRequest) -> Framework:
    pytest.importorskip("pytorch_lightning" if request.param == "lit" else "transformers")
    return Framework(request.param)


def same(one: Any, other: Any) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_outside_a_run_the_callback_does_nothing(framework: Framework, life: Life) -> None:
    _, steps, with_it = framework.train(life, None)
    life.start(None)
    _, without = framework.module.train(life.folder)
    assert steps == 40
    assert same(with_it, without)
    assert with_it.losses == without.losses


def test_when_nothing_happens_a_run_trains_as_the_framework_alone(
    framework: Framework, life: Life
) -> None:
    _, _, alone = framework.train(life, None)
    life.submit(**EVERY_7)
    run, steps, inside = framework.train(life, 1)
    assert inside.losses == alone.losses
    assert same(inside, alone)
    assert run.step_number == steps == 40
    assert life.steps == [0, 7, 14, 21, 28, 35, 40]


def test_every_step_has_a_reading(framework: Framework, life: Life) -> None:
    life.submit()
    _, _, model = framework.train(life, 1)
    readings = life.readings()
    assert [each.step for each in readings][:40] == list(range(40))
    losses = [each.values["train/loss"] for each in readings[:40]]
    assert losses == pytest.approx(model.losses)
    wanted = {"grad/norm/main", "grad/clip/main", "lr/main", "epoch", "time/data"}
    assert wanted <= set(readings[20].values)
    assert readings[15].values["epoch"] == 2.0


def test_a_batch_that_is_no_number_is_held_back(framework: Framework, life: Life) -> None:
    life.submit()
    run, steps, model = framework.train(life, 1, disturb={"nan": 30}, size=400)
    assert all(torch.isfinite(each).all() for each in model.state_dict().values())
    assert [each.values["grad/gated/main"] for each in life.readings()[28:31]] == [0.0, 1.0, 0.0]
    assert [each.data["incident"]["kind"] for each in life.events("incident")] == ["non_finite"]
    assert not life.events("rollback")
    assert steps == run.step_number == 250


def test_an_explosion_is_gone_back_from_in_the_process(framework: Framework, life: Life) -> None:
    life.submit(checkpoint={"every": "50 steps"})
    run, steps, model = framework.train(life, 1, disturb={"explosion": 301, "length": 4}, size=800)
    (rollback,) = life.events("rollback")
    assert rollback.data["step"] == 200
    assert rollback.data["incident"]["kind"] == "explosion"
    back = rollback.data["from_step"] - 200
    assert run.step_number == steps == 500 - back
    assert run.stepper.watched["main"].rate == 0.5
    assert run.stepper.watched["main"].clip.norm is not None
    # The factor stands on top of what the schedule makes of the step that was gone back to.
    after = life.readings()[-5]
    scheduled = framework.module.rate_at(after.step, 500)
    assert after.values["lr/main"] == pytest.approx(0.5 * scheduled, rel=1e-4)
    assert model.losses[-1] < 20
    assert life.steps[-1] == 500 - back


@pytest.mark.parametrize("every", ["1 steps", "3 steps", "1 epochs"])
@pytest.mark.parametrize("at", [9, 16, 20])
def test_a_training_that_died_goes_on_to_the_same_weights(
    framework: Framework, life: Life, every: str, at: int
) -> None:
    _, _, whole = framework.train(life, None)
    life.submit(checkpoint={"every": every})
    framework.dies(life, at)
    saved = life.steps[-1]
    run, steps, resumed = framework.train(life, 2)
    assert life.events("resumed")[-1].data["step"] == saved > 0
    assert resumed.losses == whole.losses[saved:]
    assert same(resumed, whole)
    assert run.step_number == steps == 40


def test_a_training_that_was_over_trains_no_more(framework: Framework, life: Life) -> None:
    life.submit()
    _, _, first = framework.train(life, 1)
    _, steps, second = framework.train(life, 2)
    assert second.losses == []
    assert same(first, second)
    assert steps == 40


def test_sigterm_saves_at_the_next_batch_and_ends(framework: Framework, life: Life) -> None:
    _, _, whole = framework.train(life, None)
    life.submit()
    with pytest.raises(SystemExit) as ended:
        framework.train(life, 1, disturb={"term": 12})
    assert ended.value.code == 143
    assert life.steps == [0, 12]
    _, _, resumed = framework.train(life, 2)
    assert same(resumed, whole)


def test_after_a_rollback_and_an_end_the_data_goes_on_where_it_was(
    framework: Framework, life: Life
) -> None:
    life.submit(checkpoint={"every": "50 steps"})
    disturb = {"explosion": 301, "length": 4}
    run, steps, whole = framework.train(life, 1, disturb=disturb, size=800)
    other = Life(life.folder / "other", life.patch)
    other.submit(checkpoint={"every": "50 steps"})
    with pytest.raises(framework.module.Crash):
        framework.train(other, 1, disturb={**disturb, "crash": 420}, size=800)
    again, steps_again, resumed = framework.train(other, 2, size=800)
    assert (again.step_number, steps_again) == (run.step_number, steps)
    assert resumed.losses == whole.losses[-len(resumed.losses) :]
    assert same(resumed, whole)


def test_a_second_training_in_one_run_is_refused(framework: Framework, life: Life) -> None:
    life.submit()
    framework.train(life, 1)
    from hpckit.errors import UsageError
    from hpckit.integrations.hosted import Hosted

    assert Hosted.begun
    with pytest.raises(UsageError, match="a run trains once"):
        framework.module.train(life.folder, callback=framework.module.HpckitCallback())


def start(
    framework: Framework,
    life: Life,
    out: str,
    *,
    attempt: int | None,
    around: dict[str, str] | None = None,
    **settings: Any,
) -> subprocess.Popen[bytes]:
    inside = environment(life.run, attempt=attempt) if attempt is not None else {}
    outside = {key: each for key, each in os.environ.items() if not key.startswith("HPCKIT_")}
    name = f"tests.integrations.{framework.name}"
    return subprocess.Popen(
        [sys.executable, "-m", name, str(life.folder / out), json.dumps(settings)],
        cwd=ROOT,
        env={**outside, **inside, **(around or {}), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def is_same(path: Path, wanted: dict[str, torch.Tensor]) -> bool:
    found = torch.load(path)["weights"]
    return all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_killed_program_goes_on_to_the_same_weights(framework: Framework, life: Life) -> None:
    assert start(framework, life, "whole.pt", attempt=None).wait() == 0
    life.submit(**EVERY_7)
    killed = start(framework, life, "killed.pt", attempt=1, disturb={"kill": 25})
    assert killed.wait() == -signal.SIGKILL
    assert life.steps == [0, 7, 14, 21]
    assert start(framework, life, "end.pt", attempt=2).wait() == 0
    assert is_same(life.folder / "end.pt", torch.load(life.folder / "whole.pt")["weights"])


def test_two_ranks_save_and_end_at_one_batch_when_one_is_told_to(
    framework: Framework, life: Life
) -> None:
    ddp = {"devices": 2, "strategy": "ddp"} if framework.name == "lit" else {"ddp_backend": "gloo"}

    def both(out: str, attempt: int | None, **of_second: Any) -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        started = []
        for rank in ("0", "1"):
            around = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            around |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            more = {**ddp, **(of_second if rank == "1" else {})}
            name = f"{out}-{rank}.pt"
            started.append(start(framework, life, name, attempt=attempt, around=around, **more))
        return [each.wait(timeout=120) for each in started]

    assert both("whole", None) == [0, 0]
    life.submit()
    assert both("ended", 1, disturb={"term": 10}) == [143, 143]
    assert life.steps == [0, 10]
    assert both("end", 2) == [0, 0]
    for rank in ("0", "1"):
        whole = torch.load(life.folder / f"whole-{rank}.pt")["weights"]
        assert is_same(life.folder / f"end-{rank}.pt", whole)

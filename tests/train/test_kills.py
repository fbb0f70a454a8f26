"""A training that is killed at any moment ends as the one that nobody touched, byte for byte.

The whole of it, hundreds of kills, is `python -m benchmarks.kills`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.train.bare import environment
from tests.train.kill_lives import NEVER, SAVER, Death, Nursery
from tests.train.kill_runs import (
    TERMINATED,
    Twin,
    by_step,
    compared,
    curve,
    killed,
    new_run,
    newest,
)

ROOT = Path(__file__).parents[2]
# Of these each form, worker, type and number of ranks is one.
QUICK = [
    "flat",
    "nested, 2 workers",
    "a step every 3rd body",
    "float16, scaler",
    "GAN",
    "late readings",
    "2 ranks, nested",
]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as found:
        yield found


@pytest.fixture(scope="module")
def flat(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Twin:
    return Twin.of(nursery, tmp_path_factory.mktemp("flat") / "twin", "flat")


@pytest.mark.parametrize("variant", QUICK)
def test_a_training_that_is_killed_again_and_again_ends_as_if_nothing_was(
    nursery: Nursery, tmp_path: Path, variant: str
) -> None:
    twin = Twin.of(nursery, tmp_path / "twin", variant)
    kills, seed = 0, 0
    # A moment of the clock may come after the end.
    while kills < 3:
        trial = killed(nursery, tmp_path / f"run{seed}", variant, twin, kills=3, seed=seed)
        assert trial.wrong == []
        kills, seed = kills + trial.kills, seed + 1


def test_a_kill_while_a_checkpoint_is_written_costs_only_that_one(
    nursery: Nursery, tmp_path: Path, flat: Twin
) -> None:
    run = new_run(tmp_path / "run", "flat")
    lines = flat.life.lines[SAVER]
    # At lines all over the life of the thread that saves; the last attempt is left alone.
    deaths = [Death(thread=SAVER, line=round(lines * part)) for part in (0.03, 0.1, 0.1, 0.1)]
    for attempt, death in enumerate([*deaths, NEVER], start=1):
        before = newest(run)
        life = nursery.live(run, "flat", 1, attempt=attempt, launch=1, death=death)
        assert life.codes == [0 if death == NEVER else -signal.SIGKILL]
        assert newest(run) >= before
    assert compared(run, flat) == []


def test_told_to_end_it_saves_at_that_very_step_and_exits_143(
    nursery: Nursery, tmp_path: Path, flat: Twin
) -> None:
    run = new_run(tmp_path / "run", "flat")
    death = Death(by="term", thread=SAVER, line=flat.life.lines[SAVER] // 3)
    life = nursery.live(run, "flat", 1, attempt=1, launch=1, death=death)
    assert life.codes == [TERMINATED]
    saved = newest(run)
    assert f"told to end: saving at step {saved}\n" in life.log
    assert sorted(by_step(curve(run))) == list(range(saved))
    again = nursery.live(run, "flat", 1, attempt=1, launch=2, death=NEVER)
    assert f"going on from step {saved} " in again.log
    assert compared(run, flat) == []


def test_told_to_end_when_a_value_was_the_best_it_keeps_that_state_as_the_best(
    nursery: Nursery, tmp_path: Path, flat: Twin
) -> None:
    run = new_run(tmp_path / "run", "flat")
    # The last step of an epoch, in whose body there is a validation.
    life = nursery.live(run, "flat", 1, attempt=1, launch=1, death=Death(by="term", step=40))
    assert life.codes == [TERMINATED]
    [saved] = run.glob("checkpoints/step-00000040.*/manifest.json")
    assert json.loads(saved.read_text())["best"]
    nursery.live(run, "flat", 1, attempt=2, launch=1, death=NEVER)
    assert compared(run, flat) == []


def test_a_signal_to_the_loaders_workers_too_ends_it_no_other_way(
    nursery: Nursery, tmp_path: Path
) -> None:
    variant = "flat, 2 workers"
    twin = Twin.of(nursery, tmp_path / "twin", variant)
    run = new_run(tmp_path / "run", variant)
    # As a scheduler sends it: to every process.
    death = Death(by="term", step=50, family=True)
    life = nursery.live(run, variant, 1, attempt=1, launch=1, death=death)
    assert (life.codes, newest(run)) == ([TERMINATED], 50), life.log
    nursery.live(run, variant, 1, attempt=2, launch=1, death=NEVER)
    assert compared(run, twin) == []


@pytest.mark.parametrize("by", ["raise", "exit"])
def test_an_error_of_the_program_loses_no_checkpoint_that_was_on_its_way(
    nursery: Nursery, tmp_path: Path, flat: Twin, by: str
) -> None:
    run = new_run(tmp_path / "run", "flat")
    # One step after a wish to save.
    life = nursery.live(run, "flat", 1, attempt=1, launch=1, death=Death(by=by, step=34))
    assert life.codes == [1]
    assert newest(run) == 33
    nursery.live(run, "flat", 1, attempt=2, launch=1, death=NEVER)
    assert compared(run, flat) == []


def test_a_program_of_its_own_is_killed_and_goes_on(tmp_path: Path, flat: Twin) -> None:
    run = new_run(tmp_path / "run", "flat")
    command = [sys.executable, "-m", "tests.train.kill_trainings", "flat"]

    def started(attempt: int) -> subprocess.Popen[bytes]:
        around = {**os.environ, "OMP_NUM_THREADS": "1", **environment(run, attempt=attempt)}
        return subprocess.Popen(command, cwd=ROOT, env=around)

    process = started(1)
    until = time.monotonic() + 60
    while newest(run) < 20 and time.monotonic() < until:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert started(2).wait(timeout=60) == 0
    [event] = [json.loads(each) for each in (run / "ledger/attempt-002-launch-1.jsonl").open()]
    assert event["step"] >= 20
    assert compared(run, flat) == []

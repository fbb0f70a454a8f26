"""On several ranks every number is that of the whole, and every rank decides alike."""

from __future__ import annotations

import functools
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.ranks import data, small

RANKS = 2
ROOT = Path(__file__).parents[2]


@functools.cache
def launch(way: str, poison: int = -1) -> list[dict[str, Any]]:
    """What each rank found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(RANKS):
        about = {"RANK": rank, "WORLD_SIZE": RANKS, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in about.items()}}
        command = [sys.executable, "-m", "tests.train.ranks", way, str(poison)]
        processes.append(
            subprocess.Popen(
                command,
                env=environment,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * RANKS, ends[0][1] + ends[1][1]
    found: list[dict[str, Any]] = json.loads(ends[0][0].splitlines()[-1])
    return found


def whole_batch_norms() -> dict[str, float]:
    """The first step's norms on one process that sees every rank's data."""
    model = small()
    sum(model(data(0, rank)).square().mean() / RANKS for rank in range(RANKS)).backward()
    return {name: float(p.grad.norm()) for name, p in model.named_parameters()}


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def found(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return launch(request.param)


def test_every_rank_reads_and_decides_the_same(found: list[dict[str, Any]]) -> None:
    first, second = found
    assert first["reading"] == second["reading"]
    assert first["weights"] == second["weights"]
    assert first["each"] == second["each"]


def test_norms_are_those_of_the_whole_and_named_as_in_the_model(
    found: list[dict[str, Any]],
) -> None:
    names = set(whole_batch_norms())
    each, total = found[0]["each"], found[0]["reading"]["grad/norm/main"]
    assert set(each) == names
    assert math.sqrt(sum(norm**2 for norm in each.values())) == pytest.approx(total, rel=1e-5)


def test_sharded_training_equals_replicated_training() -> None:
    replicated, sharded = launch("ddp")[0], launch("fsdp")[0]
    assert sharded["reading"]["grad/norm/main"] == pytest.approx(
        replicated["reading"]["grad/norm/main"], rel=1e-4
    )
    torch.testing.assert_close(
        torch.tensor(sharded["weights"]), torch.tensor(replicated["weights"]), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_nan_on_one_rank_is_held_back_on_all(way: str) -> None:
    first, second = launch(way, poison=30)
    assert first["weights"] == second["weights"]
    assert all(math.isfinite(weight) for weight in first["weights"])
    assert [line.split(";")[0] for line in first["said"]] == ["step 30: loss nan"]
    assert first["said"] == second["said"]


def test_a_validation_is_the_mean_of_all_ranks_so_that_plateaus_are_the_same_on_each() -> None:
    first, second = launch("validation")
    assert first == second
    assert first["seen"] == [{"val/loss": 8.0, "val/mel": 3.0}] * 4
    assert first["lr"] == 0.01 / 2**3

"""Two processes that train together: they save, end and go back together, at one step."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpckit.checkpoint.store import Store
from hpckit.ledger import Ledger
from tests.train.bare import bare_run, environment

RANKS = 2
ROOT = Path(__file__).parents[2]
WAYS = pytest.mark.parametrize("way", ["ddp", "fsdp"])


class Ranks:
    """Lives of one run, each of two processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.attempt = 0
        self.said = ""
        self.spec: dict[str, Any] = {"checkpoint": {"every": "10 steps", "confirm_steps": 10}}

    def train(self, way: str, **asked: Any) -> list[dict[str, Any]]:
        """What each rank found."""
        self.attempt += 1
        bare_run(self.folder, **self.spec)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        of_run = environment(self.folder, attempt=self.attempt)
        command = [sys.executable, "-m", "tests.train.ranks_session", way, json.dumps(asked)]
        processes = []
        for rank in range(RANKS):
            about = {
                "RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_WORLD_SIZE": RANKS,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            }  # fmt: skip
            told = {name: str(value) for name, value in about.items()}
            processes.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, **of_run, **told, "OMP_NUM_THREADS": "1"},
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        try:
            ends = [process.communicate(timeout=90) for process in processes]
        finally:
            for process in processes:
                process.kill()
        self.said = ends[0][1] + ends[1][1]
        assert [process.returncode for process in processes] == [0] * RANKS, self.said
        found: list[dict[str, Any]] = json.loads(ends[0][0].splitlines()[-1])
        return found

    def events(self, kind: str) -> list[dict[str, Any]]:
        events = Ledger(self.folder / "ledger").events()
        return [each.data for each in events if each.kind == kind]

    @property
    def store(self) -> Store:
        return Store.of_run(self.folder)


@pytest.fixture
def ranks(tmp_path: Path) -> Ranks:
    return Ranks(tmp_path / "run")


def test_sigterm_to_one_rank_saves_on_all_at_one_step_and_the_next_life_is_the_same_training(
    ranks: Ranks, tmp_path: Path
) -> None:
    way = "fsdp"
    first = ranks.train(way, term=23)
    assert [each["code"] for each in first] == [143, 143]
    assert [each["steps"][-1] for each in first] == [23, 23]
    newest = ranks.store.on_branch()[-1]
    assert (newest.step, newest.why, newest.world_size) == (24, "told to end", 2)
    second = ranks.train(way)
    assert [each["steps"] for each in second] == [[*range(24, 50)]] * 2
    whole = Ranks(tmp_path / "whole").train(way)
    for rank in range(RANKS):
        for step in range(24, 50):
            assert second[rank]["states"][str(step)] == whole[rank]["states"][str(step)], step
        assert second[rank]["end"] == whole[rank]["end"]


@WAYS
def test_one_ranks_own_incident_takes_all_of_them_back_bit_by_bit_and_in_place(
    ranks: Ranks, way: str
) -> None:
    ranks.spec["heal"] = {"one_class": {"do": "rollback", "change": {"lr": "x0.5"}}}
    strikes = [{"rank": 1, "step": 35, "onset": 25, "kind": "one_class"}]
    found = ranks.train(way, strikes=strikes)
    back = ranks.events("rollback")[0]
    assert back["step"] == 20
    assert (back["checkpoint"] == "memory") is (way == "ddp")
    for each in found:
        assert each["rate"] == 0.5
        # Heard of with the next step's numbers.
        assert each["steps"][:38] == [*range(37), 20]
        one, other = each["states"]["20"]
        assert one[:3] == other[:3]
        assert each["places"]["20"][0] == each["places"]["20"][1]
    assert found[0]["end"] == found[1]["end"]


def test_all_go_back_to_the_disk_where_memory_has_no_room(ranks: Ranks) -> None:
    strikes = [{"step": 35, "onset": 25}]
    found = ranks.train("ddp", strikes=strikes, no_memory=True)
    assert ranks.events("rollback")[0]["checkpoint"] == "step-00000020.a1-l1"
    for each in found:
        one, other = each["states"]["20"]
        assert one[:3] == other[:3]


def test_a_stop_by_policy_ends_all_of_them(ranks: Ranks) -> None:
    ranks.spec["heal"] = {"explosion": {"do": "stop"}}
    found = ranks.train("ddp", strikes=[{"step": 15}])
    assert [each["code"] for each in found] == [3, 3]
    assert len(ranks.events("stopped")) == 1


def test_only_told_by_one_rank_nobody_goes_back(ranks: Ranks) -> None:
    ranks.spec["heal"] = {"one_class": {"do": "tell"}}
    strikes = [
        {"rank": 0, "step": 15, "kind": "one_class"},
        {"rank": 1, "step": 16, "kind": "one_class"},
    ]
    found = ranks.train("ddp", strikes=strikes)
    assert [each["steps"] for each in found] == [[*range(50)]] * 2
    assert ranks.events("rollback") == []


def test_a_loss_that_one_rank_has_is_judged_by_all(ranks: Ranks) -> None:
    """What one rank alone sees it acts on alone, and waits for the others without end."""
    found = ranks.train("ddp", loss_on=0)
    assert found[0]["usual"] == found[1]["usual"] is not None

"""Trainings that are struck on this machine: what is done about it, and what comes of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from hpckit.files import write_json
from hpckit.ledger import Event, Ledger
from hpckit.rehearsed import FAULT

TRAINED = Path(__file__).with_name("cluster") / "trained.py"
STEPS = 240


@dataclass
class Struck:
    """A small training on the local scheduler, and how a person handles it."""

    folder: Path
    dir: Path = Path()
    run: str = ""

    def call(self, *args: str, code: int | None = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "hpckit", *args],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        assert code is None or done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def submit(
        self, *lines: str, fault: dict[str, Any] | None = None, trainer: str = "Small"
    ) -> None:
        head = f"name: tiny\nprogram: {{trainer: trained.py:{trainer}}}\n"
        body = ["checkpoint: {every: 20 steps, confirm_steps: 10}", *lines]
        (self.folder / "job.yaml").write_text(head + "".join(f"{line}\n" for line in body))
        shutil.copy(TRAINED, self.folder)
        told = json.loads(self.call("submit", "--json", "--cluster", "local"))["runs"][0]
        self.run, self.dir = told["run"], Path(told["dir"])
        if fault is not None:
            write_json(self.dir / FAULT, fault)

    def end(self, code: int = 0) -> dict[str, Any]:
        self.call("watch", self.run, code=code)
        return self.told()

    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call("show", self.run, "--json"))
        return found

    def events(self, kind: str) -> list[Event]:
        return [each for each in Ledger(self.dir / "ledger").events() if each.kind == kind]

    def until(self, look: Callable[[], Any]) -> Any:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = look()
            if found:
                return found
            time.sleep(0.1)
        raise AssertionError(f"not in time: {self.told()}")

    def until_step(self, step: int) -> None:
        self.until(lambda: (self.told()["step"] or 0) >= step)

    def keepers(self) -> list[int]:
        """Who looks after the running tasks of the local scheduler."""
        jobs = Path(os.environ["HPCKIT_LOCAL_DIR"]).glob("*/tasks/*.json")
        tasks = [json.loads(path.read_text()) for path in jobs]
        return [each["process"][0] for each in tasks if each["state"] == "RUNNING"]

    def processes(self) -> list[int]:
        """All that serve the run, and first those that would tell how it ended."""
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal() or int(folder.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes()
                tells = os.environ["HPCKIT_LOCAL_DIR"].encode() in words
                if tells or str(self.dir).encode() in words + (folder / "environ").read_bytes():
                    found[int(folder.name)] = tells
        return sorted(found, key=lambda pid: not found[pid])

    def saved(self, which: int) -> int:
        """The step of a checkpoint, by its place in the list."""
        return int(self.told()["checkpoints"][which]["step"])

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        newest = max(self.dir.glob("checkpoints/step-*"), key=lambda path: path.stat().st_mtime)
        state = torch.load(newest / "state.pt", weights_only=True)
        (found,) = [each["state"] for each in state["items"].values() if each["kind"] == "module"]
        return dict(found)


@pytest.fixture
def struck(tmp_path: Path) -> Struck:
    return Struck(tmp_path)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What the training comes to when nothing happens to it."""
    training = Struck(tmp_path_factory.mktemp("calm"))
    training.submit()
    training.end()
    return training.weights


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# A fault that changes no numbers, what the spec says of it, what is done, and in which attempts.
FAULTS = [
    ("crash", "", ["relaunch"], 1),
    ("kill", "", ["relaunch"], 1),
    ("crash", "heal: {crash: {do: resubmit}}", ["resubmit"], 2),
    ("hang", "heal: {hang: {after: 2s}}", ["relaunch"], 1),
    ("oom", "resources: {memory: 1G}", ["resubmit"], 2),
]


@pytest.mark.parametrize(("kind", "line", "done", "attempts"), FAULTS)
def test_what_ends_a_training_is_mended_and_the_weights_are_the_same(
    struck: Struck,
    calm: dict[str, torch.Tensor],
    kind: str,
    line: str,
    done: list[str],
    attempts: int,
) -> None:
    # Slow enough that each save is done before the next one.
    lines = ["params: {step_s: 0.01}", *([line] if line else [])]
    struck.submit(*lines, fault={"kind": kind, "step": 50})
    told = struck.end()
    assert (told["state"], told["step"], len(told["attempts"])) == ("done", STEPS, attempts)
    restarts = struck.events("restart")
    assert [each.data["plan"]["do"] for each in restarts] == done
    # Nothing is lost beyond the last checkpoint, and nothing is done otherwise.
    went_on = [each.data["step"] for each in struck.events("resumed")]
    assert went_on == [0, 40]
    assert same(struck.weights, calm)


def test_the_reason_of_a_crash_is_the_programs_own_word(struck: Struck) -> None:
    struck.submit(fault={"kind": "crash", "step": 5})
    struck.end()
    (restart,) = struck.events("restart")
    incident = restart.data["incident"]
    assert "RehearsedCrash: at step 5, as rehearsed at fault.py:" in incident["said"]
    assert incident["place"].endswith("in _crash: hpckit.train.fault.RehearsedCrash")
    # A sign of life is up to a second old, which may be many steps.
    assert incident["step"] == 5
    assert restart.data["lines"][-1].endswith("RehearsedCrash: at step 5, as rehearsed")
    shown = struck.call("show", struck.run)
    assert "RehearsedCrash" in shown


def test_before_a_hang_is_ended_every_rank_says_where_it_is(struck: Struck) -> None:
    struck.submit(
        "heal: {hang: {after: 2s}}", "params: {hangs: 1}", fault={"kind": "hang", "step": 30}
    )
    struck.end()
    (restart,) = struck.events("restart")
    assert restart.data["incident"]["said"].startswith("hang: no step for 2 s on rank 0, after")
    stacks = struck.dir / "attempts/001/logs/launch-1/rank-0.stacks"
    assert "fault.py" in stacks.read_text()


@pytest.mark.parametrize("do", ["relaunch", "resubmit"])
def test_an_explosion_may_be_healed_by_new_processes(struck: Struck, do: str) -> None:
    struck.submit(
        f"heal: {{explosion: {{do: {do}, change: {{clip: x0.5, lr: x0.5}}, skip_batches: 0}}}}",
        "params: {epochs: 4}",
        fault={"kind": "explosion", "step": 150},
    )
    told = struck.end()
    assert told["state"] == "done"
    (incident,) = [each for each in told["incidents"] if each["plan"] == do]
    assert incident["applied"]
    assert "lr 0.01 -> 0.005" in incident["changed"]
    assert len(told["attempts"]) == {"relaunch": 1, "resubmit": 2}[do]
    (back,) = struck.events("rollback")
    assert 0 < back.data["step"] <= 150


def test_an_error_that_comes_back_at_the_same_place_stops_the_run_with_its_words(
    struck: Struck,
) -> None:
    struck.submit("params: {fails_at: 30}", trainer="Failing")
    told = struck.end(code=3)
    assert told["state"] == "stopped"
    assert "ValueError: these data are broken" in told["reason"]
    assert "once more: a restart does not mend that" in told["reason"]
    assert [each.data["plan"]["do"] for each in struck.events("restart")] == ["relaunch"]
    (stopped,) = struck.events("stopped")
    assert stopped.data["lines"][-1] == "ValueError: these data are broken"


def test_a_program_that_never_came_to_training_has_failed_at_once(struck: Struck) -> None:
    struck.submit(trainer="Unstarted")
    told = struck.end(code=4)
    assert (told["state"], len(told["attempts"])) == ("failed", 1)
    assert len(list(struck.dir.glob("attempts/001/logs/launch-*"))) == 1


def test_a_rank_that_refuses_to_die_writes_nothing_more(struck: Struck, calm: Any) -> None:
    """It leaves its session, hears no SIGTERM, and trains on while another launch serves."""
    struck.submit("params: {refuses_at: 30, step_s: 0.02}", trainer="Undead")
    told = struck.end()
    assert told["state"] == "done"
    assert len(list(struck.dir.glob("attempts/001/logs/launch-*"))) == 2
    assert same(struck.weights, calm)
    assert [each.data["launch"] for each in struck.events("resumed")] == [1, 2]


def test_a_person_restarts_a_run_and_it_goes_on_changed(struck: Struck) -> None:
    struck.submit("params: {step_s: 0.02, epochs: 3}")
    struck.until_step(30)
    out = struck.call("restart", struck.run, "--set", "lr=x0.5", "--set", "params.step_s=0")
    assert "saves and ends first" in out
    told = struck.end()
    first, second = told["attempts"]
    assert first["reason"] == "restart asked for"
    assert first["to_step"] == second["from_step"] > 20
    assert told["gpu_hours"]["lost"] == 0.0
    assert "lr 0.01 -> 0.005" in second["changes"]
    assert told["state"] == "done"


def test_a_restart_from_a_step_begins_there(struck: Struck) -> None:
    struck.submit()
    struck.end()
    step = struck.saved(-2)
    struck.call("restart", struck.run, "--from", str(step), "--set", "params.note=1", code=2)
    struck.call("restart", struck.run, "--from", str(step))
    told = struck.end()
    assert [each["from_step"] for each in told["attempts"]] == [0, step]
    assert told["state"] == "done"


def test_a_cancelled_run_that_is_started_again_goes_on_and_can_be_cancelled_again(
    struck: Struck,
) -> None:
    struck.submit("params: {step_s: 0.02}")
    struck.until_step(5)
    struck.call("cancel", struck.run)
    assert struck.told()["state"] == "cancelled"
    struck.call("restart", struck.run)
    struck.until(lambda: len(struck.told()["attempts"]) == 2)
    struck.call("cancel", struck.run)
    assert struck.told()["state"] == "cancelled"
    struck.call("guard", "--once", struck.run)
    assert struck.told()["state"] == "cancelled"


def test_restarted_with_its_code_a_run_has_the_folder_as_it_is_now(struck: Struck) -> None:
    struck.submit()
    struck.end()
    script = struck.folder / "trained.py"
    script.write_text(script.read_text() + "\nprint('the new code')\n")
    struck.call("restart", struck.run, "--from", str(struck.saved(-2)), "--code")
    struck.end()
    assert "the new code" in struck.call("logs", struck.run)


def test_after_a_lost_machine_the_next_attempt_goes_on(struck: Struck) -> None:
    struck.submit("params: {step_s: 0.02}")
    struck.until_step(25)
    (keeper,) = struck.keepers()
    # So a machine that is shut down ends its jobs.
    os.kill(keeper, signal.SIGTERM)
    told = struck.end()
    assert [each["reason"] for each in told["attempts"]] == ["node failed", "done"]


def test_a_guard_goes_on_with_what_has_no_next_attempt(struck: Struck) -> None:
    struck.submit("params: {step_s: 0.02}")
    struck.until_step(25)
    # The machine lost its power: nothing of the job is left, and nobody wrote why.
    for pid in struck.processes():
        os.kill(pid, signal.SIGKILL)
    found = struck.until(lambda: struck.told()["state"] == "healing" and struck.told())
    assert "hpckit guard starts the next one" in found["reason"]
    # Two at once: one of them has it, and the other one sees that.
    guards = [
        subprocess.Popen(
            [sys.executable, "-m", "hpckit", "guard", "--once", struck.run],
            cwd=struck.folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [guard.communicate(timeout=60)[0] for guard in guards]
    assert sum("goes on as job" in each for each in said) == 1, said
    told = struck.end()
    assert (told["state"], len(told["attempts"])) == ("done", 2)


def test_logs_and_watch_follow_a_run_over_its_launches_and_attempts(struck: Struck) -> None:
    struck.submit("heal: {crash: {do: relaunch}}", fault={"kind": "crash", "step": 20})
    followed = subprocess.Popen(
        [sys.executable, "-m", "hpckit", "logs", "-f", struck.run],
        cwd=struck.folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    watched = struck.call("watch", struck.run)
    printed = followed.communicate(timeout=60)[0]
    assert followed.returncode == 0
    assert "RehearsedCrash: at step 20, as rehearsed" in printed
    assert "hpckit: going on from step" in printed
    told = [line for line in watched.splitlines() if ": crash: " in line]
    assert "RehearsedCrash: at step 20" in told[0]
    assert "goes on from step" in told[1]
    assert watched.splitlines()[-1] == f"{struck.run}: done"

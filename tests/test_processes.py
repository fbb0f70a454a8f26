"""Telling the ranks of a step, by what a real scancel was seen to answer."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from hpckit.spec import spec_from_json
from hpckit.worker.launch import layout_of, srun_command
from hpckit.worker.processes import SlurmStep
from hpckit.worker.rank_script import Layout

# Slurm 22.05, when one of two nodes had no rank left; the other one's rank had been told.
BUSY = "srun: error: Unable to create step for job 10: Requested nodes are busy"
NEVER = (
    "srun: error: Unable to create step for job 10: Invalid generic resource (gres) specification"
)
ONE_NODE_LEFT = "scancel: error: Kill job error on job step id 10: Invalid job id specified"
AWAY = "scancel: error: Kill job error on job step id 10.0: Unable to contact slurm controller"
LAYOUT = Layout(nodes=2, per_node=1, master_address="n1", master_port=1)


@pytest.fixture
def step(tmp_path, monkeypatch):
    """A step whose scancel answers as recorded, and writes down how often it was called."""
    tools, logs = tmp_path / "tools", tmp_path / "logs"
    tools.mkdir()
    logs.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "10")
    (tools / "srun").write_text("#!/bin/bash\nexec sleep 60\n")
    (tools / "srun").chmod(0o755)
    made = SlurmStep(LAYOUT, logs)

    def answer(said, code):
        text = f"#!/bin/bash\necho $* >> {tools}/calls\necho '{said}' >&2\nexit {code}\n"
        (tools / "scancel").write_text(text)
        (tools / "scancel").chmod(0o755)
        (logs / "step").write_text("0\n")
        return made

    yield answer, logs, tools / "calls"
    made._srun.kill()
    made._srun.wait()


def test_nobody_is_told_before_every_node_has_started_its_ranks(step):
    answer, logs, calls = step
    made = answer("", 0)
    (logs / "rank-0.log").touch()
    assert not made.signal(signal.SIGTERM)
    assert not calls.exists()
    (logs / "rank-1.log").touch()
    assert made.signal(signal.SIGTERM)
    assert calls.read_text() == "--signal=TERM 10.0\n"


def started_by(srun, tmp_path, monkeypatch):
    """A step whose srun is this script, and waits a second for it."""
    monkeypatch.setattr("hpckit.worker.processes.PATIENCE_S", 1.5)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "srun").write_text(f"#!/bin/bash\necho x >> {tmp_path}/tries\n{srun}\n")
    (tmp_path / "srun").chmod(0o755)
    return SlurmStep(LAYOUT, tmp_path)


def tries(step, folder):
    end = time.monotonic() + 20
    while not step.poll():
        assert time.monotonic() < end
        time.sleep(0.05)
    return len((folder / "tries").read_text().split())


def test_srun_is_asked_anew_where_it_waited_for_its_step_in_vain(tmp_path, monkeypatch):
    """One that waits does not hear for two minutes that a slurmctld is back."""
    busy = f"[ $(wc -l < {tmp_path}/tries) = 3 ] && exit 0; sleep 1; echo '{BUSY}' >&2; exit 1"
    assert tries(started_by(busy, tmp_path, monkeypatch), tmp_path) == 3
    assert (tmp_path / "srun.log").read_text() == ""
    # It gives up only if told so; in a terminal nobody would ask anew.
    assert "--immediate=10" in srun_command(LAYOUT, tmp_path)
    assert "--immediate=10" not in srun_command(LAYOUT, tmp_path, foreground=True)


@pytest.mark.parametrize("srun", [f"echo '{NEVER}' >&2; exit 1", "sleep 1; exit 1"])
def test_what_does_not_pass_and_a_launch_that_ended_are_not_asked_anew(tmp_path, monkeypatch, srun):
    assert tries(started_by(srun, tmp_path, monkeypatch), tmp_path) == 1


def test_a_launch_that_is_to_end_before_it_began_is_not_asked_anew(tmp_path, monkeypatch):
    step = started_by(f"sleep 1; echo '{BUSY}' >&2; exit 1", tmp_path, monkeypatch)
    assert not step.signal(signal.SIGTERM)
    assert tries(step, tmp_path) == 1


@pytest.mark.parametrize(("said", "is_told"), [(ONE_NODE_LEFT, True), (AWAY, False)])
def test_only_a_controller_that_is_away_is_told_again(step, said, is_told):
    answer, logs, _ = step
    for rank in (0, 1):
        (logs / f"rank-{rank}.log").touch()
    assert answer(said, 1).signal(signal.SIGTERM) is is_told


def test_a_bad_node_has_no_part_in_a_launch():
    spec = spec_from_json(
        {
            "name": "a",
            "program": {"command": "x", "processes": "per_node"},
            "resources": {"nodes": 3},
        }
    )
    environ = {"SLURM_NNODES": "3", "SLURM_JOB_NODELIST": "n[1-3]", "SLURMD_NODENAME": "n1"}
    # The worker's own: the others meet elsewhere.
    layout = layout_of(spec, environ, 2, ("n1",))
    assert (layout.world_size, layout.master_address) == (2, "n2")
    command = srun_command(layout, Path("logs"))
    assert {"--nodes=2", "--exclude=n1"} <= set(command)
    assert layout_of(spec, environ, 3, ("n1", "n2")).master_address == "127.0.0.1"


def test_ranks_over_several_nodes_meet_at_a_port_that_nobody_has_taken():
    spec = spec_from_json({"name": "a", "program": "x"})
    environ = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "29"}
    port = layout_of(spec, environ).master_port
    with socket.socket() as taken:
        taken.bind(("", port))
        taken.listen()
        assert layout_of(spec, environ).master_port != port
    assert layout_of(spec, environ).master_port == port

"""`make demo`, over a training of a few steps."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.demos import DOCS, SHORT, environ, processes_naming, started

__all__ = ["environ"]


@pytest.mark.parametrize("script", ["demo.sh", "demo_slurm.sh"])
def test_its_script_is_bash(script):
    subprocess.run(["bash", "-n", DOCS / script], check=True)


def test_it_shows_the_training_from_check_to_report(tmp_path, environ):
    folder = tmp_path / "a demo"
    (folder / "somebody's own").mkdir(parents=True)
    demo = started("demo.sh", folder, environ, *SHORT)
    shown, _ = demo.communicate(timeout=180)
    assert demo.returncode == 0, shown
    commands = re.findall(r"^\$ (\w+(?: \w+)?)", shown, re.MULTILINE)
    steps = ["check incident", "submit incident", "watch", "show", "report"]
    assert commands[2:] == [f"hpckit {each}".split(" incident")[0] for each in steps]
    assert "submitted to the local scheduler" in shown
    assert re.search(r"DONE   step \d+ of \d+", shown)
    report = next(line for line in shown.splitlines() if line.endswith("/report.html"))
    assert report.startswith(str(folder))
    assert "<html" in Path(report).read_text()[:300]
    command = re.search(r"^  export .*\n  hpckit report --open", shown, re.MULTILINE)
    assert command is not None
    root = f'{command[0].splitlines()[0]}; printf %s "$HPCKIT_ROOT"'
    assert subprocess.check_output(["bash", "-c", root], text=True) == str(folder)
    assert sorted(each.name for each in folder.iterdir()) == [
        "creative-agent-incident",
        "somebody's own",
    ]
    assert processes_naming(str(folder)) == []


def test_its_exit_code_is_the_run_s_outcome(tmp_path, environ):
    demo = started("demo.sh", tmp_path / "demo", environ, "-s", "params.judge=-1")
    shown, _ = demo.communicate(timeout=180)
    assert demo.returncode == 4
    assert "FAILED" in shown
    assert "/report.html" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_one_touches_nothing_and_who_ends_it_leaves_nothing_running(
    tmp_path, environ, number
):
    folder = tmp_path / "demo"
    demo = started("demo.sh", folder, environ)
    assert demo.stdout is not None
    for line in demo.stdout:
        if re.search(r"running$", line):
            break
    second = started("demo.sh", folder, environ)
    said, _ = second.communicate(timeout=60)
    assert (second.returncode, said.count("\n")) == (1, 1)
    assert f"another demo runs in {folder}" in said
    assert len(list(folder.glob("creative-agent-incident/*/run.json"))) == 1
    os.killpg(demo.pid, number)
    shown, _ = demo.communicate(timeout=60)
    assert demo.returncode == 128 + number, shown
    assert "ending the run" in shown
    # The scheduler's own process sees within a moment that its job is gone.
    for _ in range(100):
        if not processes_naming(str(folder)):
            break
        time.sleep(0.1)
    assert processes_naming(str(folder)) == []


def test_what_a_demo_that_was_killed_has_left_running_is_not_destroyed(tmp_path, environ):
    folder = tmp_path / "demo"
    demo = started("demo.sh", folder, environ)
    assert demo.stdout is not None
    for line in demo.stdout:
        if re.search(r"running$", line):
            break
    os.killpg(demo.pid, signal.SIGKILL)
    demo.communicate(timeout=60)
    second = started("demo.sh", folder, environ)
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "another demo runs" in said
    cancel = ["hpckit", "cancel", "creative-agent-incident", "--root", str(folder)]
    subprocess.run(cancel, env=environ, check=True, capture_output=True)

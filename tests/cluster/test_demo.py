"""`make demo-slurm`, over a training of a few steps, on the cluster that it brings up itself."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tests.demos import SHORT, environ, processes_naming, started

__all__ = ["environ"]


def cluster_of(shown: str) -> str:
    found = re.search(r"up after .* s in (\S+)", shown)
    assert found is not None, shown
    return found[1]


def test_it_shows_the_chain_and_takes_its_cluster_down(tmp_path, environ):
    demo = started("demo_slurm.sh", tmp_path / "demo", environ, *SHORT)
    shown, _ = demo.communicate(timeout=180)
    assert demo.returncode == 0, shown
    assert "-s heal.explosion.do=resubmit" in shown
    assert re.search(r"submitted to Slurm as job 1$", shown, re.MULTILINE)
    assert re.search(r"^1_\[1-3%1\]", shown, re.MULTILINE) or re.search(r"^1_1 ", shown, re.M)
    assert re.search(r"^1_1 .* COMPLETED", shown, re.MULTILINE)
    assert "DONE" in shown
    assert "/report.html" in shown
    cluster = cluster_of(shown)
    assert not Path(cluster).exists()
    assert processes_naming(cluster) == []


def test_who_ends_it_ends_its_cluster_too(tmp_path, environ):
    demo = started("demo_slurm.sh", tmp_path / "demo", environ)
    assert demo.stdout is not None
    shown = ""
    for line in demo.stdout:
        shown += line
        if re.search(r"running$", line):
            break
    os.killpg(demo.pid, signal.SIGINT)
    rest, _ = demo.communicate(timeout=120)
    assert demo.returncode == 130, shown + rest
    cluster = cluster_of(shown)
    assert not Path(cluster).exists()
    assert processes_naming(cluster) == []
    assert processes_naming(str(tmp_path / "demo")) == []

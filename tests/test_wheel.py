"""An installed wheel works without the source tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
SOURCES = ("hpckit", "slurm", "setup.py", "pyproject.toml", "README.md")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's files in a folder of their own; the tree it was built from is gone."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        path = REPOSITORY / name
        if path.is_dir():
            shutil.copytree(path, source / name, symlinks=True)
        else:
            shutil.copy(path, source / name)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(target), str(source)], check=True, capture_output=True)
    shutil.rmtree(source)
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target / "site")
    return target / "site"


def test_a_job_is_made_checked_and_run_from_the_wheel_alone(installed, tmp_path):
    environ = {**os.environ, "PYTHONPATH": str(installed)}

    def hpckit(*args: str, cwd: Path = tmp_path) -> str:
        command = [sys.executable, "-m", "hpckit", *args]
        done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [sys.executable, "-c", "import hpckit; print(hpckit.__file__)"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
    ).stdout
    assert where.startswith(str(installed))
    hpckit("init", "spiral")
    folder = tmp_path / "spiral"
    hpckit("submit", "--cluster", "local", "--follow", "-s", "params.epochs=1", cwd=folder)
    assert json.loads(hpckit("show", "--json", cwd=folder))["state"] == "done"
    page = Path(hpckit("report", cwd=folder).strip()).read_text()
    assert "class Chart {" in page
    schema = json.loads(hpckit("check", "--schema"))
    assert schema["properties"]["program"]


@pytest.mark.parametrize(
    "file",
    [
        "hpckit/slurm_files/dev/slurm.conf",
        "hpckit/slurm_files/profiles/example.yaml",
        "hpckit/spec.schema.json",
        "hpckit/py.typed",
    ],
)
def test_the_wheel_holds_what_is_no_python(installed, file):
    assert (installed / file).exists()


def test_the_wheel_holds_no_tests(installed):
    assert {path.name for path in installed.iterdir()} == {"hpckit", "hpckit-0.1.0.dist-info"}

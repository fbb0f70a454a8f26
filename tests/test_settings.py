"""Where runs live: a flag, then the environment, the spec, the project, the user."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpckit import settings
from hpckit.errors import SpecError, UsageError


@pytest.fixture
def project(tmp_path, monkeypatch, own_home):
    (tmp_path / "project" / "jobs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "jobs")
    (own_home / "config" / "hpckit").mkdir(parents=True)
    return tmp_path / "project"


def test_each_place_stands_above_the_next(project, own_home, monkeypatch):
    assert settings.root() == project / "jobs" / "runs"
    (own_home / "config" / "hpckit" / "config.yaml").write_text("root: /user\n")
    assert settings.root() == Path("/user")
    (project / ".hpckit.yaml").write_text("root: results\ncluster: local\n")
    assert settings.root() == project / "results"
    assert settings.root(None, "/from/the/spec") == Path("/from/the/spec")
    monkeypatch.setenv("HPCKIT_ROOT", "/environment")
    assert settings.root(None, "/from/the/spec") == Path("/environment")
    assert settings.root("/flag", "/from/the/spec") == Path("/flag")


def test_the_scheduler_is_chosen_the_same_way(project, monkeypatch):
    (project / ".hpckit.yaml").write_text("cluster: local\n")
    assert settings.scheduler().kind == "local"
    assert settings.profile_name() is None
    monkeypatch.setenv("HPCKIT_CLUSTER", "lab")
    assert settings.profile_name() == "lab"


def test_a_configuration_with_a_mistake_is_told_with_its_place(project):
    (project / ".hpckit.yaml").write_text("cluster: local\nrooot: x\n")
    with pytest.raises(SpecError, match=r"\.hpckit\.yaml:2:1: rooot: unknown key.*root"):
        settings.root()


def test_a_home_folder_that_nobody_has_is_a_sentence(project):
    with pytest.raises(UsageError, match="~nobody-has-this"):
        settings.root("~nobody-has-this/runs")


def test_a_run_is_typed_so_that_a_command_without_a_root_finds_it(project, monkeypatch):
    here = project / "jobs" / "runs" / "a" / "0720-p7d"
    other = project / "my runs" / "a" / "0720-p7d"
    assert settings.typed("a/0720-p7d", here) == "a/0720-p7d"
    assert settings.typed("a/0720-p7d", other) == f"'{other}'"
    monkeypatch.setenv("HPCKIT_ROOT", str(project / "my runs"))
    assert settings.typed("a/0720-p7d", other) == "a/0720-p7d"

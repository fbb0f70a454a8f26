"""The docs say what the program does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from hpckit.cli import COMMANDS
from hpckit.spec import load_spec

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["commands", "healing"])
def test_what_is_made_from_the_program_is_as_the_program_has_it(page):
    where = REPOSITORY / "docs" / f"make_{page}.py"
    spec = importlib.util.spec_from_file_location(where.stem, where)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (REPOSITORY / "docs" / f"{page}.md").read_text()
    assert written == module.text(), "run: make docs"


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/runs.md",
        "docs/spec.md",
        "docs/training.md",
        "docs/hooks.md",
        "docs/healing.md",
        "docs/cluster.md",
        "docs/rehearse.md",
        "docs/data.md",
    ],
)
def test_every_command_in_the_docs_exists(page):
    text = (REPOSITORY / page).read_text()
    named = set(re.findall(r"(?:`|\$ |\()hpckit ([a-z]+)", text))
    assert named
    assert named <= set(COMMANDS)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/spec.md",
        "docs/cluster.md",
        "docs/rehearse.md",
        "docs/runs.md",
        "docs/training.md",
        "docs/watch.md",
        "docs/audio.md",
        "docs/data.md",
    ],
)
def test_every_link_in_the_docs_leads_somewhere(page):
    path = REPOSITORY / page
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert missing == []


def test_the_spec_in_the_docs_is_valid(tmp_path):
    text = (REPOSITORY / "docs" / "spec.md").read_text()
    example = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]
    (tmp_path / "lab.yaml").write_text("resources: {partition: other}\n")
    (tmp_path / "job.yaml").write_text(example.replace("  conda: audio ", "  # conda: audio "))
    environ = {"USER": "ana"}
    spec = load_spec(tmp_path / "job.yaml", environ=environ)
    assert (spec.resources.partition, spec.resources.gpus) == ("gpu", 4)


def test_the_programs_that_resume_by_themselves_in_the_docs_are_valid(tmp_path):
    text = (REPOSITORY / "docs" / "spec.md").read_text()
    section = text.partition("## Programs that resume by themselves")[2].partition("\n## ")[0]
    newest, argument = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    for example, resume in ((f"program: b\n{newest}", "newest"), (argument, "argument")):
        (tmp_path / "job.yaml").write_text(f"name: a\n{example}")
        assert load_spec(tmp_path / "job.yaml").resume == resume


def test_the_hooks_and_mails_in_the_docs_are_valid(tmp_path):
    text = (REPOSITORY / "docs" / "hooks.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        (tmp_path / "job.yaml").write_text(f"name: a\nprogram: b\n{example}")
        assert load_spec(tmp_path / "job.yaml").hooks.on_incident == ("bash webhook.sh",)


def test_the_example_profile_is_valid(tmp_path):
    (tmp_path / "job.yaml").write_text("name: a\nprogram: b\n")
    profile = REPOSITORY / "slurm" / "profiles" / "example.yaml"
    spec = load_spec(tmp_path / "job.yaml", includes=[str(profile)], environ={"USER": "ana"})
    assert spec.scratch == "/scratch/ana/runs"


def test_the_changelog_names_this_version_or_what_is_to_come():
    assert "## [Unreleased]" in (REPOSITORY / "CHANGELOG.md").read_text()

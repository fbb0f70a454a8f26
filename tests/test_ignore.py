"""Which files are passed over; git itself is the judge where it is there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hpckit.submission.ignore import ignored, inherited_rules, read_rules

PATTERNS = [
    "*.pt",
    "data/",
    "/top.txt",
    "logs/*.log",
    "**/cache",
    "a/**/b",
    "!keep.pt",
    "build",
    "*.py[co]",
    "name with space",
    "\\#hash",
    "[!x]y",
    "?z",
    "deep/*/end",
]
FILES = [
    "x.pt",
    "keep.pt",
    "sub/x.pt",
    "data/one",
    "sub/data/two",
    "top.txt",
    "sub/top.txt",
    "logs/a.log",
    "logs/deep/a.log",
    "sub/logs/a.log",
    "cache/f",
    "q/r/cache",
    "a/b",
    "a/1/2/b",
    "build/out",
    "sub/build",
    "m.pyc",
    "m.pyx",
    "name with space",
    "#hash",
    "xy",
    "ay",
    "az",
    "aaz",
    "deep/1/end",
    "deep/1/2/end",
]


def make(folder: Path) -> None:
    for name in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def kept(folder: Path) -> set[str]:
    """What a walk keeps; a folder that is passed over is not entered."""
    found = set()
    rules = inherited_rules(folder) + read_rules(folder)

    def walk(place: Path) -> None:
        for entry in place.iterdir():
            path = entry.relative_to(folder).as_posix()
            if entry.name == ".git" or ignored(path, entry.is_dir(), rules):
                continue
            if entry.is_dir():
                walk(entry)
            else:
                found.add(path)

    walk(folder)
    return found


def by_git(folder: Path) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name for name in listed.stdout.split("\0") if name}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_what_git_says_it_means(pattern, tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    make(tmp_path)
    (tmp_path / ".gitignore").write_text(f"# a comment\n\n*.pt\n{pattern}\n")
    assert kept(tmp_path) == by_git(tmp_path)


def test_rules_of_the_repository_above_reach_the_job_folder(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    folder = tmp_path / "jobs" / "one"
    folder.mkdir(parents=True)
    make(folder)
    (tmp_path / ".gitignore").write_text("*.pt\n/jobs/one/data/\n")
    (tmp_path / "jobs" / ".gitignore").write_text("!keep.pt\none/top.txt\n")
    assert kept(folder) == by_git(folder)

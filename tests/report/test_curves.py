"""Curves for a paper."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hpckit.run import Run
from tests.conftest import Cli
from tests.report.written import HOSTILE, attempt, made, steps


def test_a_png_and_an_svg_of_each_chart_lie_in_the_runs_folder(healed: Run, cli: Cli) -> None:
    written = cli("curves", healed.dir).stdout.split()
    names = {Path(each).name for each in written}
    assert {"grad-norm-generator.svg", "loss.png", "val-error.svg", "lr.png"} <= names
    for each in map(Path, written):
        head = each.read_bytes()[:4]
        assert head == (b"\x89PNG" if each.suffix == ".png" else b"<?xm")


def test_the_same_run_gives_the_same_bytes(healed: Run, cli: Cli, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        cli("curves", healed.dir, "-o", tmp_path / name, "--only", "norm,loss")
    first = (tmp_path / "a.svg").read_bytes()
    assert first == (tmp_path / "b.svg").read_bytes()
    # The text is text, and the incident and the limit are in it.
    for word in (b">Gradient norm", b">held back above<", b">1<"):
        assert word in first


def test_no_picture_tells_on_which_day_it_was_drawn(tmp_path: Path, cli: Cli) -> None:
    run = made(tmp_path / "run")
    attempt(run, steps(0, 20))
    for suffix in ("png", "svg", "pdf"):
        cli("curves", run.dir, "-o", tmp_path / f"a.{suffix}", "--only", "norm")
        assert b"Date" not in (tmp_path / f"a.{suffix}").read_bytes()


def test_only_what_was_asked_for_is_drawn(healed: Run, cli: Cli, tmp_path: Path) -> None:
    done = cli("curves", healed.dir, "-o", tmp_path, "--only", "train/balance,lr", "--json")
    told = json.loads(done.stdout)
    found = sorted(Path(each).name for each in told["curves"])
    assert found == ["lr.png", "lr.svg", "train-balance.png", "train-balance.svg"]
    assert told["runs"] == [healed.id]


def test_a_word_that_means_no_reading_is_refused_with_those_there_are(
    healed: Run, cli: Cli
) -> None:
    done = cli("curves", healed.dir, "--only", "loss,nrm", code=2)
    assert "--only nrm: no such reading" in done.stderr
    assert "train/balance" in done.stderr


def test_a_name_of_no_picture_and_a_run_without_readings_are_refused(
    tmp_path: Path, cli: Cli
) -> None:
    run = made(tmp_path / "run")
    assert "no picture's name" in cli("curves", run.dir, "-o", "a.doc", code=2).stderr
    assert "has no readings yet" in cli("curves", run.dir, code=5).stderr


def test_names_are_text_and_no_formula(tmp_path: Path, cli: Cli) -> None:
    run = made(tmp_path / "run")
    attempt(run, steps(0, 20, **{"train/$\\frac{$": 1.0, f"train/{HOSTILE}": 1.0, "val/_x": 2.0}))
    out = tmp_path / "all.svg"
    cli("curves", run.dir, "-o", out)
    assert "<script>" not in out.read_text()
    assert "$\\frac{$" in out.read_text()


def test_a_limit_far_above_the_curve_does_not_press_it_together(tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "norm.svg"
    for number, limit in enumerate((20.0, 2e9)):
        run = made(tmp_path / str(number))
        attempt(run, steps(0, 40, **{"grad/limit/main": limit}))
        cli("curves", run.dir, "-o", out, "--only", "norm")
        # The largest power of ten on the axis.
        powers = re.findall(r"10\^\{(\d+)\}", out.read_text())
        assert max(map(int, powers), default=0) < 4, limit


def test_several_runs_are_laid_over_each_other(tmp_path: Path, cli: Cli) -> None:
    runs = [made(tmp_path / str(lr), run_id=f"agent/{lr}", lr=lr) for lr in (0.1, 0.2)]
    for run in runs:
        attempt(run, steps(0, 30))
    out = tmp_path / "both.svg"
    cli("curves", *(run.dir for run in runs), "-o", out, "--only", "loss")
    assert re.findall(r">(lr=[\d.]+)<", out.read_text()) == ["lr=0.1", "lr=0.2"]

"""hpckit curves"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpckit.cli.options import json_option, print_json, root_option, run_argument
from hpckit.cli.report import meant_by, place_of, points_of

if TYPE_CHECKING:
    from hpckit.report.charts import Chart
    from hpckit.report.facts import Facts

PICTURES = (".png", ".svg", ".pdf")


@click.command()
@run_argument("[RUN]...")
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="A folder, or one file: .png, .svg or .pdf; by default the run's folder curves/.",
)
@click.option(
    "--only",
    metavar="WORDS",
    help="Of which readings: norm,loss,train,val,lr,time,memory, or names as train/mel.",
)
@root_option
@json_option
def curves(
    names: tuple[str, ...], output: str | None, only: str | None, root: str | None, as_json: bool
) -> None:
    """Draw a run's curves for a paper, as PNG and SVG; several runs are laid over each other."""
    # matplotlib: half a second.
    from hpckit.cli.show import describe_run
    from hpckit.errors import NotFound, UsageError
    from hpckit.files import told_apart
    from hpckit.report import figures
    from hpckit.report.facts import facts_of

    meant = meant_by(root, names)
    path = place_of(output, meant, "curves")
    if path.suffix and path.suffix not in PICTURES and not path.is_dir():
        raise UsageError(
            f"-o {path}: no picture's name", f"end it in {', '.join(PICTURES)}, or name a folder"
        )
    found = [facts_of(run, describe_run) for run in points_of(meant)]
    runs = [each for each in found if len(each.columns.step)]
    charts = figures.known(runs)
    if not charts:
        raise NotFound(f"{meant[0].id} has no readings yet", "hpckit show tells what it does")
    if only:
        words = [word for word in re.split(r"[,\s]+", only) if word]
        charts, unknown = figures.asked(charts, words)
        if unknown:
            there = ", ".join(chart.id for chart in figures.known(runs))
            raise UsageError(f"--only {', '.join(unknown)}: no such reading", f"there are: {there}")
    else:
        charts = [chart for chart in charts if chart.section != "other"]
    with told_apart(path, "choose another place with -o"):
        written = _write(charts, runs, path)
    if as_json:
        print_json({"curves": [str(each) for each in written], "runs": [e.run.id for e in runs]})
    else:
        for each in written:
            print(each)


def _write(charts: Sequence[Chart], runs: Sequence[Facts], path: Path) -> list[Path]:
    """One file with all of them, or a folder with a PNG and an SVG of each."""
    from hpckit.report import figures

    if path.suffix in PICTURES and not path.is_dir():
        figures.save(charts, runs, path)
        return [path]
    path.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix in (".png", ".svg"):
        paths = [path / f"{figures.file_name(chart)}{suffix}" for chart in charts]
        for chart, each in zip(charts, paths, strict=True):
            figures.save([chart], runs, each)
        written += paths
    return written

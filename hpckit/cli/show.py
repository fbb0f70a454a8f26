"""hpckit show"""

from __future__ import annotations

from typing import Any

import click

from hpckit.cli.options import find_run, json_option, print_json, root_option, run_argument
from hpckit.run import Run


@click.command()
@run_argument()
@root_option
@json_option
def show(name: str | None, root: str | None, as_json: bool) -> None:
    """Tell all about one run, a point of a sweep, or a sweep; the latest if none is named."""
    run = find_run(root, name)
    told = describe_sweep(run) if run.is_sweep else describe_run(run)
    if as_json:
        print_json(told)
    elif run.is_sweep:
        print(sweep_text(told))
    else:
        from hpckit.cli.run_text import run_text

        print(run_text(told))


def describe_run(run: Run) -> dict[str, Any]:
    from hpckit.status.index import CacheOf
    from hpckit.status.view import show as view

    return view(run, CacheOf()(run.scheduler))


def describe_sweep(run: Run, settled: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """A sweep and its points; `settled` remembers what has ended from one look to the next."""
    from hpckit.status.index import CacheOf
    from hpckit.status.state import states_of
    from hpckit.status.view import row, sweep_row

    known = {} if settled is None else settled
    runs = run.point_runs()
    asked = [each for each in runs if each.id not in known]
    rows = dict(known)
    for facts, state in states_of(asked, CacheOf()(run.scheduler)):
        rows[facts.run.id] = row(facts, state)
        if facts.final is not None and (rows[facts.run.id]["ended"] or not facts.attempts):
            known[facts.run.id] = rows[facts.run.id]
    points = [rows[each.id] for each in runs]
    return {**sweep_row(run, points), "varied": list(run.varied), "runs": points}


def sweep_text(told: dict[str, Any]) -> str:
    """A sweep as a table: each point with what is varied."""
    from hpckit.heal.changes import get_path
    from hpckit.paint import paint, short, table

    head = f"{paint(told['run'], 'bold')}   {told['points']} runs: {told['reason']}"
    rows = []
    for point in told["runs"]:
        values = [short(get_path(point["params"], key)) for key in told["varied"]]
        number = point["run"].rpartition("/")[2]
        job = str(point["job_id"] or "-")
        reason = "" if point["reason"] == point["state"] else str(point["reason"] or "")
        rows.append([number, *values, point["state"], job, reason])
    columns = ["point", *told["varied"], "state", "job", "why"]
    body = table(columns, rows, right=(0,), state=len(columns) - 3)
    return f"{head}\nfolder  {told['dir']}\n\n{body}"

"""hpckit ls"""

from __future__ import annotations

import click

from hpckit.cli.options import json_option, print_json, root_option
from hpckit.paint import note, table

SHOWN = 30
STATES = ("pending", "running", "healing", "done", "stopped", "failed", "cancelled", "unknown")


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help=f"More than the newest {SHOWN}.")
@click.option(
    "--state", type=click.Choice(STATES), metavar="STATE", help="Only runs in this state."
)
@click.argument("name", required=False)
@root_option
@json_option
def ls(
    everything: bool, state: str | None, name: str | None, root: str | None, as_json: bool
) -> None:
    """List runs, the newest last; with NAME, those whose name begins so."""
    from hpckit import settings
    from hpckit.status.index import CacheOf, Index

    place = settings.root(root)
    rows = Index(place).rows(CacheOf())
    wanted = [
        row
        for row in rows
        if (not state or row["state"] == state) and (not name or row["run"].startswith(name))
    ]
    live = ("running", "pending", "healing", "unknown")
    newest = wanted if everything else wanted[-SHOWN:]
    older = [] if everything else [row for row in wanted[:-SHOWN] if row["state"] in live]
    if as_json:
        print_json({"root": str(place), "total": len(wanted), "runs": older + newest})
        return
    if rows and not wanted:
        note(f"none of the {len(rows)} runs under {place} is so")
        return
    _print(older + newest, len(wanted), str(place))


def _print(rows: list[dict[str, object]], total: int, place: str) -> None:
    from hpckit.clock import local_words

    if not rows:
        note(f"no runs under {place}: start one with hpckit submit job.yaml")
        return
    lines = []
    for row in rows:
        job = str(row["job_id"] or "-")
        when = local_words(str(row["started"] or row["created"]))
        reason = "" if row["reason"] == row["state"] else str(row["reason"] or "")
        if row.get("expected"):
            reason += f"{', ' if reason else ''}expected {local_words(str(row['expected']))}"
        lines.append((str(row["run"]), str(row["state"]), job, str(row["attempts"]), when, reason))
    head = ("run", "state", "job", "tries", "since", "why")
    print(table(head, lines, right=(3,), state=1))
    if len(rows) < total:
        note(f"{len(rows)} of {total} runs: hpckit ls --all shows the rest")

"""hpckit prune"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpckit.cli.options import json_option, print_json, root_option

if TYPE_CHECKING:
    from hpckit.pruning import Verdict


@click.command()
@click.option("--older", default="30d", show_default=True, help="Only runs that ended so long ago.")
@click.option(
    "--keep",
    default=3,
    type=click.IntRange(min=0),
    show_default=True,
    help="The newest so many of each name stay.",
)
@click.option(
    "--max-size",
    metavar="SIZE",
    help="A quota: beyond it the oldest that have ended go, whatever their age and --keep.",
)
@click.option("-y", "--yes", is_flag=True, help="Delete; without it, only tell.")
@root_option
@json_option
def prune(
    older: str, keep: int, max_size: str | None, yes: bool, root: str | None, as_json: bool
) -> None:
    """Tell what of old runs may go and what is kept, and delete it with --yes.

    A run that is not known to have ended is never deleted.
    """
    from hpckit import settings
    from hpckit.pruning import Rules, decide, leftovers

    place = settings.root(root)
    rules = Rules(older_s=_seconds(older), keep=keep, max_mb=_mb(max_size))
    rows = _rows(place)
    verdicts = decide(rows, rules, time.time()) + leftovers(place)
    going = [verdict for verdict in verdicts if verdict.goes]
    if yes:
        _delete(going)
    if as_json:
        told = [dataclasses.asdict(verdict) for verdict in verdicts]
        print_json({"root": str(place), "deleted": yes, "runs": told})
        return
    _print(verdicts, yes)


def _rows(place: Path) -> list[dict[str, object]]:
    from hpckit.pruning import size_mb
    from hpckit.status.index import CacheOf, Index

    rows = Index(place).rows(CacheOf())
    return [{**row, "mb": size_mb(Path(row["dir"]))} for row in rows]


def _seconds(text: str) -> float:
    from hpckit.errors import UsageError
    from hpckit.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--older {text}: {error}") from error


def _mb(text: str | None) -> float | None:
    from hpckit.errors import UsageError
    from hpckit.units import parse_size

    try:
        return None if text is None else parse_size(text)
    except ValueError as error:
        raise UsageError(f"--max-size {text}: {error}") from error


def _delete(going: list[Verdict]) -> None:
    from hpckit.paint import note
    from hpckit.pruning import delete

    for number, verdict in enumerate(going, start=1):
        note(f"deleting {number} of {len(going)}: {verdict.run}")
        delete(verdict)


def _print(verdicts: list[Verdict], deleted: bool) -> None:
    from hpckit.paint import note, size, table

    word = "deleted" if deleted else "may go"
    rows = [
        (v.run, v.state, size(v.mb), word if v.goes else "kept", v.why)
        for v in sorted(verdicts, key=lambda v: v.goes)
    ]
    if rows:
        print(table(("run", "state", "size", "", "because"), rows, right=(2,)))
    freed = sum(v.mb for v in verdicts if v.goes)
    count = sum(v.goes for v in verdicts)
    note(f"{count} of {len(verdicts)} {word}, {size(freed)}")
    if count and not deleted:
        note("nothing was deleted: add --yes")

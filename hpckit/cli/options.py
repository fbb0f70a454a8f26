"""Options and arguments that several commands share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import click

from hpckit.run import Run

root_option = click.option(
    "--root", metavar="DIR", help="Where runs live (HPCKIT_ROOT; ./runs by default)."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
cluster_option = click.option(
    "--cluster", metavar="NAME", help="A cluster profile, or 'slurm' or 'local' (HPCKIT_CLUSTER)."
)
from_option = click.option(
    "--from",
    "origin",
    metavar="RUN[@STEP]",
    help="Begin with a checkpoint of another run: its newest, @STEP, @good or @best.",
)
set_option = click.option(
    "-s", "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a spec's value."
)


def complete_run(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The runs whose name or id begins so."""
    from hpckit import settings
    from hpckit.run import run_folders

    root = settings.root(ctx.params.get("root"))
    ids = sorted(f"{folder.parent.name}/{folder.name}" for folder in run_folders(root))
    return [i for i in ids if i.startswith(incomplete) or i.split("/")[1].startswith(incomplete)]


def run_argument(metavar: str = "[RUN]") -> Callable[[Any], Any]:
    """A run, or many, as RUN...: an id, a unique beginning of one, a folder."""
    name, nargs = ("names", -1) if metavar.endswith("...") else ("name", 1)
    return click.argument(
        name, metavar=metavar, nargs=nargs, required=False, shell_complete=complete_run
    )


def find_run(root: str | None, name: str | None) -> Run:
    """The run that is meant, under the root that is meant."""
    from hpckit import settings
    from hpckit.run import find

    return find(settings.root(root), name)


def print_json(value: Any) -> None:
    """One object for other programs; JSON has no word for nan and inf, so they are texts."""
    try:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_speakable(value), indent=1, ensure_ascii=False)
    print(text)


def _speakable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _speakable(each) for key, each in value.items()}
    return [_speakable(each) for each in value] if isinstance(value, (list, tuple)) else value

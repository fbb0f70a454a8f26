"""hpckit guard"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from hpckit.cli.options import (
    find_run,
    json_option,
    print_json,
    root_option,
    run_argument,
)
from hpckit.paint import note
from hpckit.run import Run

if TYPE_CHECKING:
    from hpckit.guarding import Guarded

# As often as squeue may be asked.
EVERY_S = 30.0


@click.command()
@run_argument("[RUN]...")
@click.option("--once", is_flag=True, help="Look once and end; for cron.")
@root_option
@json_option
def guard(names: tuple[str, ...], once: bool, root: str | None, as_json: bool) -> None:
    """Start the next attempt of runs that have none: RUN..., or all runs under the root.

    Most runs need no guard: their next attempts wait in the queue. It is for where a job may not
    submit another, and for what a lost node has left. It ends when all runs have ended. With
    --once the exit code is 1 where Slurm did not answer, or did not take a run's next attempt;
    a run that it does not know any more is unknown, and no reason.
    """
    from hpckit.guarding import guard as look
    from hpckit.guarding import to_guard
    from hpckit.status.index import CacheOf

    if as_json and not once:
        raise click.UsageError("a guard that goes on has no end for --json to wait for: --once")
    said: dict[str, str] = {}
    while True:
        found = look(to_guard(_runs(root, names)), CacheOf())
        if as_json:
            print_json({"runs": [_plain(each) for each in found]})
        else:
            _tell(found, said)
        if once or not found:
            break
        time.sleep(EVERY_S)
    if not as_json:
        note(f"{len(found)} of the runs have not ended" if found else "all runs have ended")
    sys.exit(1 if any(each.failed for each in found) else 0)


def _runs(root: str | None, names: tuple[str, ...]) -> list[Run]:
    if names:
        return [find_run(root, name) for name in names]
    from hpckit import settings
    from hpckit.run import open_run, run_folders

    place = settings.root(root)
    return [run for folder in run_folders(place) if (run := open_run(folder)) is not None]


def _plain(guarded: Guarded) -> dict[str, object]:
    state = guarded.state
    about = {"run": guarded.run.id, "state": state.state, "reason": state.reason}
    return {**about, "job_id": guarded.job_id, "done": guarded.said}


def _tell(found: list[Guarded], said: dict[str, str]) -> None:
    """What is new, a line for each run."""
    for each in found:
        text = f"{each.state.words}: {each.said}" if each.said else each.state.words
        if said.get(each.run.id) != text:
            said[each.run.id] = text
            print(f"{each.run.id}: {text}", flush=True)

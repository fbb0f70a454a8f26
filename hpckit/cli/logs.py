"""hpckit logs"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpckit.cli.options import find_run, json_option, print_json, root_option, run_argument

if TYPE_CHECKING:
    from hpckit.run import Run


@click.command()
@run_argument()
@click.option("-f", "--follow", is_flag=True, help="Go on, over all attempts, until the run ends.")
@click.option(
    "--rank",
    default=0,
    type=click.IntRange(min=0),
    show_default=True,
    help="Which process's output.",
)
@click.option(
    "--attempt", type=click.IntRange(min=1), help="Which attempt (the last one by default)."
)
@click.option("-n", "--lines", type=click.IntRange(min=1), help="Only so many lines from the end.")
@click.option("--worker", is_flag=True, help="What hpckit itself and Slurm printed.")
@root_option
@json_option
def logs(
    name: str | None,
    follow: bool,
    rank: int,
    attempt: int | None,
    lines: int | None,
    worker: bool,
    root: str | None,
    as_json: bool,
) -> None:
    """Print what a run printed; with -f, return its outcome as the exit code."""
    from hpckit.errors import UsageError

    run = find_run(root, name)
    if run.is_sweep:
        raise UsageError(f"{run.id} is a sweep of {run.points} runs", f"name one: {run.id}/000")
    if follow and attempt is not None:
        raise UsageError("--follow goes over all attempts", "leave out --attempt")
    if follow and as_json:
        raise UsageError("--follow has no end for --json to wait for", "give one of them")
    if follow:
        from hpckit.follow import follow_run
        from hpckit.status.index import CacheOf

        sys.exit(follow_run(run, CacheOf()(run.scheduler), rank=rank, last_lines=lines))
    from hpckit.logs import tail, whole

    number, path = _log(run, attempt, None if worker else rank)
    if as_json:
        about = {"run": run.id, "attempt": number, "rank": rank, "path": str(path)}
        print_json({**about, "lines": tail(path, lines) if lines else whole(path)})
        return
    if lines is not None:
        print("\n".join(tail(path, lines)))
        return
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            sys.stdout.write(line)


def _log(run: Run, attempt: int | None, rank: int | None) -> tuple[int | None, Path]:
    """The attempt that is meant and the log of a rank of it, or of the worker."""
    from hpckit.errors import NotFound
    from hpckit.logs import newest_link_log, rank_log, worker_log
    from hpckit.settings import typed

    if rank is None and attempt is None and (newest := newest_link_log(run)):
        # Maybe of a worker that came to no attempt: why, it or the shell before it has said.
        by = (each.number for each in run.attempts() if worker_log(run, each) == newest)
        return next(by, None), newest
    chosen = [each for each in run.attempts() if attempt in (None, each.number)]
    if not chosen:
        what = f"attempt {attempt}" if attempt else "attempt yet"
        raise NotFound(
            f"{run.id} has no {what}",
            f"hpckit show {typed(run.id, run.dir)} tells what it waits for",
        )
    found = worker_log(run, chosen[-1]) if rank is None else rank_log(chosen[-1], rank)
    if found is None or not found.exists():
        who = "the worker" if rank is None else f"rank {rank}"
        raise NotFound(
            f"{run.id}, attempt {chosen[-1].number}: {who} has printed nothing",
            ""
            if rank is None
            else f"the worker may have: hpckit logs --worker {typed(run.id, run.dir)}",
        )
    return chosen[-1].number, found

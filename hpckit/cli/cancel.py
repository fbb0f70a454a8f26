"""hpckit cancel"""

from __future__ import annotations

import click

from hpckit.cli.options import find_run, json_option, print_json, root_option, run_argument
from hpckit.run import Run


@click.command()
@run_argument("RUN...")
@root_option
@json_option
def cancel(names: tuple[str, ...], root: str | None, as_json: bool) -> None:
    """Cancel runs, sweeps or points of a sweep, for good: nothing starts them again."""
    from hpckit.cancelling import cancel_jobs, cancel_run
    from hpckit.errors import HpckitError, UsageError

    if not names:
        raise UsageError("which run?", "hpckit ls --state running shows what can be cancelled")
    try:
        found = [(name, _found(root, name)) for name in names]
    except HpckitError as error:
        error.message += ": nothing was cancelled"
        raise
    told = {}
    for name, run in found:
        told[run.id if run else name] = cancel_run(run) if run else cancel_jobs(name)
    if as_json:
        print_json({"runs": [{"run": run, "state": state} for run, state in told.items()]})
        return
    for run_id, state in told.items():
        print(f"{run_id}: {state}")


def _found(root: str | None, name: str) -> Run | None:
    """The run that is meant; none where jobs are called so whose folder is gone."""
    from hpckit.cancelling import has_jobs
    from hpckit.errors import NotFound

    try:
        return find_run(root, name)
    except NotFound:
        if "/" in name and has_jobs(name):
            return None
        raise

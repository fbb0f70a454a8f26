"""hpckit cancel"""

from __future__ import annotations

import click

from hpckit.cli.options import find_run, json_option, print_json, root_option, run_argument
from hpckit.run import Run


@click.command()
@run_argument(many=True)
@root_option
@json_option
def cancel(names: tuple[str, ...], root: str | None, as_json: bool) -> None:
    """Cancel runs, sweeps or points of a sweep, for good: nothing starts them again."""
    from hpckit.cancelling import cancel_run
    from hpckit.errors import UsageError

    if not names:
        raise UsageError("which run?", "hpckit ls --state running shows what can be cancelled")
    runs: list[Run] = [find_run(root, name) for name in names]
    told = {run.id: cancel_run(run) for run in runs}
    if as_json:
        print_json({"runs": [{"run": run, "state": state} for run, state in told.items()]})
        return
    for run_id, state in told.items():
        print(f"{run_id}: {state}")

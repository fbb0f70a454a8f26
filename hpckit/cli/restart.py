"""hpckit restart"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hpckit.cli.options import find_run, json_option, print_json, root_option, run_argument
from hpckit.paint import note
from hpckit.settings import typed

if TYPE_CHECKING:
    from hpckit.restarting import Restarted


@click.command()
@run_argument()
@click.option(
    "--from",
    "origin",
    metavar="STEP|good|best",
    help="Where to go on: by default the newest state that is sound.",
)
@click.option(
    "-s",
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=CHANGE",
    help="clip=x0.5, lr=x0.5, params.NAME=VALUE, resources.NAME=VALUE.",
)
@click.option("--time", help="Another time limit for the attempts to come: 2d.")
@click.option("--code", is_flag=True, help="With the job's folder as it is now.")
@click.option(
    "--now", is_flag=True, help="By scancel: what runs may save for Slurm's KillWait only."
)
@root_option
@json_option
def restart(
    name: str | None,
    origin: str | None,
    changes: tuple[str, ...],
    time: str | None,
    code: bool,
    now: bool,
    root: str | None,
    as_json: bool,
) -> None:
    """Start a run again: what runs of it saves and ends, and a new chain of attempts goes on.

    It goes on from the newest sound state of it, with all that was changed since it was submitted,
    and with what you change now: x0.5 is a factor, anything else the new value.
    """
    from hpckit.heal.changes import shown, written
    from hpckit.restarting import Wish
    from hpckit.restarting import restart as start_again
    from hpckit.spec.changes import read_changes

    given = [*changes, *([f"resources.time={time}"] if time is not None else [])]
    run = find_run(root, name)
    wish = Wish(origin=origin, changes=read_changes(given), now=now, code=code)
    done = start_again(run, wish, note)
    if as_json:
        about: dict[str, Any] = {"run": run.id, "dir": str(run.dir), "job_id": done.job_id}
        about |= {"ends": done.ends, "plan": done.plan.to_json(), "in_force": done.in_force}
        print_json(about)
        return
    print(f"{run.id}  goes on as job {done.job_id}")
    print(f"  from    {_origin(done)}")
    if done.ends is not None:
        saves = "ends first" if done.begins_anew else "saves and ends first"
        ends = "is scancelled" if now else saves
        print(f"  before  job {done.ends} {ends}")
    for key, change in done.plan.changes.items():
        print(f"  change  {key} {written(change)}")
    if done.in_force:
        said = ", ".join(f"{key} {shown(value)}" for key, value in done.in_force.items())
        print(f"  now     {said}")
    named = typed(run.id, run.dir)
    note(f"\nnext\n  hpckit watch {named}\n  hpckit show {named}")


def _origin(done: Restarted) -> str:
    anew = "the beginning, step 0: nothing is saved"
    return done.checkpoint or (anew if done.begins_anew else "the newest state that is sound")

"""hpckit report"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from hpckit.cli.options import find_run, json_option, print_json, root_option, run_argument
from hpckit.errors import NotFound, UsageError
from hpckit.paint import note
from hpckit.run import Run

NAME = "report.html"


@click.command()
@run_argument("[RUN]...")
@click.option("-o", "--output", metavar="FILE", help="Where to; of one run by default its folder.")
@click.option("--open", "opens", is_flag=True, help="Show it in a browser, where there is one.")
@root_option
@json_option
def report(
    names: tuple[str, ...], output: str | None, opens: bool, root: str | None, as_json: bool
) -> None:
    """Write what happened as one HTML page: curves, incidents, changes, hours, spec.

    Several runs, or a sweep, are laid over each other. The page needs no network and no other file.
    """
    # numpy; listing runs must not pay for it.
    from hpckit.cli.show import describe_run
    from hpckit.files import told_apart, write_atomic
    from hpckit.report.facts import facts_of
    from hpckit.report.page import page

    meant = meant_by(root, names)
    runs = points_of(meant)
    path = place_of(output, meant, NAME)
    title = meant[0].id if len(meant) == 1 else None
    text = page([facts_of(run, describe_run) for run in runs], title=title)
    with told_apart(path, "choose another place with -o"):
        # A name of a program's may be what UTF-8 has no sign for; a page is UTF-8.
        write_atomic(path, text.encode(errors="replace"))
    if as_json:
        print_json({"report": str(path), "runs": [run.id for run in runs]})
    else:
        print(path)
    if opens:
        _open(path.absolute())


def meant_by(root: str | None, names: tuple[str, ...]) -> list[Run]:
    """The runs of these names, each once; the latest if none is named."""
    return _once(find_run(root, name) for name in names or (None,))


def points_of(runs: list[Run]) -> list[Run]:
    """The points of a sweep in its stead."""
    found = _once(each for run in runs for each in (run.point_runs() if run.is_sweep else [run]))
    if not found:
        raise NotFound(f"{runs[0].id} is a sweep without runs", f"see {runs[0].dir}/sweep.json")
    return found


def place_of(output: str | None, runs: list[Run], name: str) -> Path:
    """Where to: of one run its folder; what is of several belongs in none of theirs."""
    if output:
        return Path(output)
    if len(runs) > 1:
        raise UsageError(f"where to write {name} of {len(runs)} runs", "name a place with -o")
    return runs[0].dir / name


def _once(runs: Iterable[Run]) -> list[Run]:
    return list({str(each.dir): each for each in runs}.values())


def _open(path: Path) -> None:
    import webbrowser

    if _has_screen() and webbrowser.open(path.as_uri()):
        return
    import shlex
    import socket

    place = shlex.quote(f"{socket.gethostname()}:{path}")
    note(f"no browser here; on your own machine: scp {place} .")


def _has_screen() -> bool:
    import os

    if sys.platform != "linux":
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))

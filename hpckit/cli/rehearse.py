"""hpckit rehearse"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpckit.cli.options import cluster_option, json_option, print_json, root_option, set_option
from hpckit.paint import note, table
from hpckit.rehearsed import KINDS

if TYPE_CHECKING:
    from hpckit.rehearsal.rehearsal import Wish
    from hpckit.rehearsal.result import Result


@click.command()
@click.argument("spec_path", metavar="[SPEC]", default="job.yaml", type=click.Path())
@click.option(
    "--fault",
    "faults",
    multiple=True,
    type=click.Choice(KINDS),
    metavar="FAULT",
    help=f"{', '.join(KINDS)}; may be repeated, without it all.",
)
@click.option("--step", type=click.IntRange(min=1), help="Where it strikes, in steps done.")
@set_option
@click.option("--timeout", default="10m", show_default=True, help="How long to wait, a fault.")
@click.option("--to-end", is_flag=True, help="Let the run go on to its end once it has healed.")
@cluster_option
@root_option
@json_option
def rehearse(
    spec_path: str,
    faults: tuple[str, ...],
    step: int | None,
    overrides: tuple[str, ...],
    timeout: str,
    to_end: bool,
    cluster: str | None,
    root: str | None,
    as_json: bool,
) -> None:
    """Run SPEC (job.yaml), have it fail on purpose, and tell whether it heals.

    On this machine, or on the development cluster where SLURM_CONF names it; in another queue
    only if --cluster says so. Without --fault, all faults that can be rehearsed there. The exit
    code is 0 where all went as the spec's policy says, 4 otherwise.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        # What was done to the cluster is undone, however we are told to end.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    from hpckit.rehearsal.faults import why_not
    from hpckit.rehearsal.rehearsal import rehearse as rehearse_one

    wish = _wish(spec_path, overrides, cluster, root)
    wish = dataclasses.replace(wish, timeout_s=_seconds(timeout), to_end=to_end)
    not_here = {each: why for each in KINDS if (why := why_not(each, wish.stage)) is not None}
    results = []
    for each in _wanted(faults, not_here):
        results.append(rehearse_one(wish, each, _step(each, step, wish)))
        if not as_json:
            note("")
    left = {} if faults else not_here
    if as_json:
        print_json(_as_json(results, left))
    elif faults and len(results) == 1:
        _tell(results[0])
    else:
        _tell_all(results, left)
    sys.exit(0 if all(each.as_expected for each in results) else 4)


def _wish(
    spec_path: str, overrides: tuple[str, ...], cluster: str | None, root: str | None
) -> Wish:
    from hpckit.cli.submit import load
    from hpckit.errors import UsageError
    from hpckit.rehearsal.faults import Stage
    from hpckit.rehearsal.place import choose, has_no_gpus
    from hpckit.rehearsal.program import has_session, has_steps
    from hpckit.rehearsal.rehearsal import Wish

    place = choose(cluster)
    spec, runs = load(spec_path, overrides, place.name, root)
    if spec.sweep is not None:
        raise UsageError(
            "a sweep is not rehearsed, but one run of it",
            "-s sweep=null takes the parameters as they stand",
        )
    if has_no_gpus(place, spec):
        asked = spec.resources.gpus_per_node
        note(f"no GPU here: rehearsed with gpus_per_node=0, where the spec asks for {asked}")
        spec = dataclasses.replace(
            spec, resources=dataclasses.replace(spec.resources, gpus_per_node=0)
        )
    source = Path(spec_path).absolute()
    session = has_session(spec, source.parent, runs)
    stage = Stage(
        has_session=session,
        has_steps=has_steps(spec, session=session),
        is_here=place.is_here,
        asks_nodes=spec.resources.nodes,
        nodes=place.nodes(),
        is_root=os.geteuid() == 0,
    )
    text = source.read_text(encoding="utf-8-sig")
    return Wish(
        spec=spec,
        source=source.parent,
        text=text,
        root=runs,
        place=place,
        stage=stage,
        timeout_s=0.0,
        say=note,
    )


def _seconds(text: str) -> int:
    from hpckit.errors import UsageError
    from hpckit.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--timeout: {error}") from error


def _wanted(faults: tuple[str, ...], not_here: dict[str, str]) -> list[str]:
    from hpckit.errors import UsageError

    for each in faults:
        if each in not_here:
            raise UsageError(f"{each} cannot be rehearsed: {not_here[each]}")
    return list(dict.fromkeys(faults)) or [each for each in KINDS if each not in not_here]


def _step(fault: str, step: int | None, wish: Wish) -> int | None:
    """Where it strikes; None for a program that tells no steps."""
    from hpckit.errors import UsageError
    from hpckit.rehearsal.faults import default_step

    if wish.stage.has_steps:
        return default_step(fault) if step is None else step
    if step is not None:
        raise UsageError(
            "--step: nobody tells the program's steps",
            "monitor.log would; without --step it is struck some seconds after it began",
        )
    return None


def _as_json(results: list[Result], not_here: dict[str, str]) -> dict[str, Any]:
    left = [{"fault": fault, "reason": why} for fault, why in not_here.items()]
    return {"rehearsals": [each.to_json() for each in results], "not_here": left}


def _tell(result: Result) -> None:
    took = f" in {_number(result.seconds)} s" if result.healed else ""
    print(f"{result.fault}: {result.word}{took}")
    print(f"  {result.sentence}")
    if result.healed:
        print(f"  lost: {_lost(result)}")
    if result.state == "running":
        print("  the run was ended there: --to-end has it go on")


def _lost(result: Result) -> str:
    if result.steps_lost is None or result.hours_lost is None:
        return "unknown: nobody tells the program's steps"
    steps = f"{result.steps_lost} step{'s' * (result.steps_lost != 1)} done again"
    return f"{steps}, {_number(result.hours_lost)} {result.unit}"


def _tell_all(results: list[Result], not_here: dict[str, str]) -> None:
    rows = [
        [each.fault, each.word, *_figures(each), each.plan or "-", each.sentence]
        for each in results
    ]
    rows += [[fault, "not here", "-", "-", "-", "-", why] for fault, why in not_here.items()]
    unit = results[0].unit if results else "h"
    head = ["fault", "outcome", "seconds", "steps lost", f"{unit} lost", "done", "how"]
    print(table(head, sorted(rows, key=lambda row: KINDS.index(row[0])), right=(2, 3, 4)))


def _figures(result: Result) -> list[str]:
    found = (result.seconds, result.steps_lost, result.hours_lost)
    return ["-" if each is None else _number(each) for each in found]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2g}" if value < 1 else f"{value:.1f}".removesuffix(".0")

"""hpckit checkpoint: what a run has saved, and its weights as a plain file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpckit.cli.options import find_run, json_option, print_json, root_option, run_argument
from hpckit.run import Run

if TYPE_CHECKING:
    from hpckit.checkpoint.manifest import Checkpoint
    from hpckit.checkpoint.store import Store


@click.group()
def checkpoint() -> None:
    """What a run has saved: list it, ask for more, export weights."""


@checkpoint.command("ls")
@run_argument()
@click.option("--verify", is_flag=True, help="Read all files; exit code 1 if one is damaged.")
@root_option
@json_option
@click.pass_context
def ls(
    context: click.Context, name: str | None, verify: bool, root: str | None, as_json: bool
) -> None:
    """List a run's checkpoints, the newest last."""
    from hpckit.checkpoint.listing import listing
    from hpckit.paint import note

    run = _one_run(root, name)
    store = _store(run)
    told = listing(store)
    if verify:
        _verify(store, told)
    if as_json:
        print_json({"run": run.id, "checkpoints": told})
    elif told:
        print(checkpoint_table(told))
    else:
        note(f"{run.id} has no checkpoints")
    context.exit(1 if verify and any(each.get("problem") for each in told) else 0)


@checkpoint.command("save")
@run_argument()
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=60.0,
    metavar="SECONDS",
    help="Seconds to wait for it; 0: none.",
)
@root_option
def save(name: str | None, wait_s: float, root: str | None) -> None:
    """Ask a live training for a checkpoint now."""
    from hpckit.errors import HpckitError
    from hpckit.paint import note
    from hpckit.requests import SAVE, ask

    run = _one_run(root, name)
    _refuse_if_over(run)
    path = ask(run.dir, SAVE)
    until = time.monotonic() + wait_s
    while path.exists() and time.monotonic() < until:
        time.sleep(0.2)
    if path.exists() and wait_s > 0:
        path.unlink(missing_ok=True)
        # It may have ended while we waited.
        _refuse_if_over(run)
        raise HpckitError(
            f"{run.id} did not save within {wait_s:g} s",
            "is it running, and does its loop use run.batches? hpckit show tells",
        )
    note(f"{run.id}: asked" if path.exists() else f"{run.id}: saving")


@checkpoint.command("export")
@run_argument()
@click.option("--step", type=int, metavar="N", help="The one of this step.")
@click.option("--good", is_flag=True, help="The newest good one.")
@click.option("--best", is_flag=True, help="The one with the best metric.")
@click.option(
    "-o",
    "out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to  [default: NAME-step-N.safetensors in the current folder]",
)
@click.option("--part", metavar="NAME", help="One registered part; all modules by default.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@root_option
@json_option
def export(
    name: str | None,
    step: int | None,
    good: bool,
    best: bool,
    out: Path | None,
    part: str | None,
    force: bool,
    root: str | None,
    as_json: bool,
) -> None:
    """Write weights as a .safetensors file.

    Without an option they are those of the newest checkpoint that is intact.
    """
    from hpckit.checkpoint.choosing import choose
    from hpckit.errors import UsageError

    run = _one_run(root, name)
    found = choose(run, step=step, good=good, best=best)
    path = _target(run, found, out)
    if path.exists() and not force:
        raise UsageError(f"{path} is there already", "give --force, or another file with -o")
    names = _export(found, path, part)
    if as_json:
        about = {"run": run.id, "checkpoint": found.name, "step": found.step}
        print_json({**about, "file": str(path), "tensors": names})
    else:
        print(f"{path}: {len(names)} tensors of {found.name}")


def checkpoint_table(told: Sequence[dict[str, Any]], most: int | None = None) -> str:
    """A line a checkpoint, the newest last; of many the last ones."""
    from hpckit.paint import table

    shown = told[-most:] if most is not None else told
    head = ("step", "epoch", "saved", "because", "size", "is", "metrics")
    lines = table(head, [_row(each) for each in shown], right=(0, 1, 4))
    left_out = len(told) - len(shown)
    return f"{lines}\n+ {left_out} more: hpckit checkpoint ls" if left_out else lines


def _row(about: dict[str, Any]) -> Sequence[str]:
    from hpckit.paint import harmless, short, size

    if about["damaged"]:
        step = str(about["step"])
        wrong = f"damaged: {about['problem']}" if about.get("problem") else "damaged"
        return (step, "-", "-", "-", "-", wrong, harmless(about["name"]))
    metrics = "  ".join(f"{short(key)}={short(value)}" for key, value in about["metrics"].items())
    return (
        str(about["step"]),
        str(about["epoch"]),
        _saved(about["created"]),
        short(about["why"]),
        size(about["bytes"] / 1e6),
        _words(about),
        metrics,
    )


def _saved(created: str) -> str:
    from hpckit.clock import local_words

    with contextlib.suppress(ValueError):
        return local_words(created)
    return "-"


def _words(about: dict[str, Any]) -> str:
    """What a person wants to know before going back to it."""
    words = ["good"] if about["good"] else []
    if about["finite"] is False:
        words.append("not finite")
    if about["best"]:
        words.append("best")
    if about.get("problem"):
        words.append(f"damaged: {about['problem']}")
    return ", ".join(words)


def _one_run(root: str | None, name: str | None) -> Run:
    from hpckit.errors import UsageError

    run = find_run(root, name)
    if run.is_sweep:
        raise UsageError(f"{run.id} is a sweep", f"name one of its runs: {run.id}/000")
    return run


def _store(run: Run) -> Store:
    from hpckit.checkpoint.store import Store

    return Store.of_run(run.dir)


def _refuse_if_over(run: Run) -> None:
    """Nobody would serve a request to a run that has ended."""
    from hpckit.errors import HpckitError
    from hpckit.status.index import CacheOf
    from hpckit.status.state import states_of

    ((_, state),) = states_of([run], CacheOf()(run.scheduler))
    if not state.is_final:
        return
    saved = _store(run).on_branch()
    newest = f"its newest checkpoint is {saved[-1].name}" if saved else "it has saved nothing"
    raise HpckitError(f"{run.id} is over, nobody saves any more: {state.words}", newest)


def _verify(store: Store, told: list[dict[str, Any]]) -> None:
    """Add to each what is wrong with it; nothing is renamed: the run may be alive."""
    from hpckit.checkpoint.manifest import problem

    problems = {found.name: problem(found) for found in store.on_branch()}
    for each in told:
        if each["name"] in problems:
            each["problem"] = problems[each["name"]]


def _target(run: Run, found: Checkpoint, out: Path | None) -> Path:
    point = "" if run.point is None else f"-{run.point:03d}"
    default = f"{run.name}{point}-step-{found.step}.safetensors"
    if out is None:
        return Path(default)
    return out / default if out.is_dir() else out


def _export(found: Checkpoint, path: Path, part: str | None) -> list[str]:
    from hpckit.checkpoint.export import export as write
    from hpckit.errors import HpckitError

    try:
        return write(found, path, part)
    except ModuleNotFoundError as error:
        raise HpckitError(
            f"exporting needs {error.name}, which this Python does not have",
            "call hpckit in the environment that the run trains in",
        ) from error

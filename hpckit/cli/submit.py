"""hpckit submit, hpckit run"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpckit.cli.options import (
    cluster_option,
    from_option,
    json_option,
    print_json,
    root_option,
    set_option,
)
from hpckit.paint import note

if TYPE_CHECKING:
    from hpckit.spec import JobSpec
    from hpckit.submission.fork import Fork
    from hpckit.submission.plan import SubmissionPlan


@click.command()
@click.argument("spec_path", metavar="[SPEC]", default="job.yaml", type=click.Path())
@set_option
@cluster_option
@root_option
@from_option
@click.option("-n", "--dry-run", is_flag=True, help="Print what would be submitted; write nothing.")
@click.option("-f", "--follow", is_flag=True, help="Follow the run's output until it ends.")
@json_option
def submit(
    spec_path: str,
    overrides: tuple[str, ...],
    cluster: str | None,
    root: str | None,
    origin: str | None,
    dry_run: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Submit the job that SPEC (job.yaml) describes: one run, or a sweep of runs."""
    if follow and as_json:
        raise click.UsageError("--follow prints what the run prints: leave out --json")
    spec, place = load(spec_path, overrides, cluster, root)
    if dry_run:
        _fork(place, origin)
        _print_dry_run(_dry_plan(spec, place, cluster), as_json)
        return
    from hpckit import settings
    from hpckit.status.queue_cache import QueueCache
    from hpckit.submission.commit import commit, reserve

    source = Path(spec_path).absolute()
    text = _text(source)
    fork = _fork(place, origin)
    scheduler = settings.scheduler(cluster)
    limit = scheduler.max_array_size()
    plan = reserve(spec, root=place, scheduler=scheduler.kind, max_array_size=limit)
    plan = dataclasses.replace(plan, fork=fork)
    cache = QueueCache(scheduler)
    try:
        done = commit(plan, scheduler, source=source.parent, spec_text=text, progress=note)
    finally:
        cache.forget()
    from hpckit.cli import submitted

    try:
        if as_json:
            print_json(submitted.as_json(plan, done))
        else:
            submitted.tell(plan, done, cache)
        sys.stdout.flush()
    except OSError as error:
        # It is submitted all the same: whoever took this for a failure would submit it twice.
        note(f"hpckit: submitted as {done.run.id}, which cannot be printed: {error.strerror}")
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (it lasts as long as the program)
    if follow and done.run.is_sweep:
        from hpckit.cli.watch import watch_run

        sys.exit(watch_run(done.run))
    if follow:
        from hpckit.follow import follow_run

        sys.exit(follow_run(done.run, cache))


def load(
    spec_path: str, overrides: tuple[str, ...], cluster: str | None, root: str | None
) -> tuple[JobSpec, Path]:
    """The spec with its cluster profile, and the folder where its runs live."""
    from hpckit import settings
    from hpckit.spec import load_spec

    profile = settings.profile_name(cluster)
    spec = load_spec(Path(spec_path), overrides, (profile,) if profile else ())
    return spec, settings.root(root, spec.scratch)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def _dry_plan(spec: JobSpec, place: Path, cluster: str | None) -> SubmissionPlan:
    import time

    from hpckit import settings
    from hpckit.errors import HpckitError
    from hpckit.submission.plan import plan as make_plan

    kind, limit = "slurm", 1001
    try:
        scheduler = settings.scheduler(cluster)
        kind, limit = scheduler.kind, scheduler.max_array_size()
    except HpckitError as error:
        # A dry run needs no scheduler; where one answers, its limits make it exact.
        note(f"no scheduler asked: {error.message}")
    run_id = f"{spec.name}/{time.strftime('%m%d')}-xxx"
    return make_plan(spec, run_id=run_id, root=place, scheduler=kind, max_array_size=limit)


def _print_dry_run(plan: SubmissionPlan, as_json: bool) -> None:
    import json

    spec = plan.spec.to_json()
    scripts = [plan.script(chain) for chain in plan.chains]
    if as_json:
        points = [{"index": point.index, "values": point.values} for point in plan.points]
        told: dict[str, Any] = {"run": plan.run_id, "dir": str(plan.dir), "spec": spec}
        print_json({**told, "points": points, "scripts": scripts, "warnings": plan.warnings})
        return
    print(f"# the spec, resolved\n{json.dumps(spec, indent=1, ensure_ascii=False)}\n")
    for number, script in enumerate(scripts, start=1):
        of = f", {number} of {len(scripts)}" if len(scripts) > 1 else ""
        print(f"# what sbatch gets{of}\n{script}")
    if plan.points:
        note(f"a sweep of {len(plan.points)} runs")
    for warning in plan.warnings:
        note(f"warning: {warning}")
    note("nothing was written (xxx stands for what makes the run's id its own)")


@click.command()
@click.argument("spec_path", metavar="[SPEC]", default="job.yaml", type=click.Path())
@set_option
@cluster_option
@root_option
@from_option
def run(
    spec_path: str,
    overrides: tuple[str, ...],
    cluster: str | None,
    root: str | None,
    origin: str | None,
) -> None:
    """Run a job here, in the foreground: on this machine, or inside salloc.

    Output goes to the terminal, and with one process stdin stays yours, for a debugger.
    Nothing is queued, and nothing is started again.
    """
    spec, place = load(spec_path, overrides, cluster, root)
    from hpckit.worker.foreground import run_here

    source = Path(spec_path).absolute()
    fork = _fork(place, origin)
    sys.exit(run_here(spec, root=place, source=source.parent, spec_text=_text(source), fork=fork))


def _fork(place: Path, origin: str | None) -> Fork | None:
    from hpckit.submission.fork import find_fork

    return find_fork(place, origin) if origin is not None else None

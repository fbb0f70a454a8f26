"""hpckit check"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpckit.cli.options import cluster_option, json_option, print_json, set_option
from hpckit.paint import note

if TYPE_CHECKING:
    from hpckit.errors import Problem
    from hpckit.monitor.log.tryout import Tryout
    from hpckit.spec import JobSpec


@click.command()
@click.argument("spec_path", metavar="[SPEC]", default="job.yaml", type=click.Path())
@set_option
@cluster_option
@json_option
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a spec, for editors.")
@click.option(
    "--log",
    "log_path",
    type=click.Path(exists=True, dir_okay=False),
    help="Try monitor.log on a log that a program wrote: what is read, what would be told.",
)
def check(
    spec_path: str,
    overrides: tuple[str, ...],
    cluster: str | None,
    as_json: bool,
    schema: bool,
    log_path: str | None,
) -> None:
    """Look for every error in SPEC (job.yaml) at once; nothing is submitted."""
    # The spec brings yaml with it, which --help and completion must not pay for.
    from hpckit import settings
    from hpckit.errors import SpecError
    from hpckit.spec import load_spec

    if schema:
        print(schema_text(), end="")
        return
    profile = settings.profile_name(cluster)
    try:
        spec = load_spec(spec_path, overrides, (profile,) if profile else ())
    except SpecError as error:
        _print_problems(error.problems, as_json)
        sys.exit(error.exit_code)
    folder = Path(spec_path).absolute().parent
    missing = spec.missing(folder)
    tried = _tried(spec, Path(log_path), folder) if log_path else None
    if as_json:
        warnings = [{"path": path, "message": what} for path, what in missing]
        found: dict[str, Any] = {"valid": True, "errors": []}
        found |= {"warnings": warnings} if warnings else {}
        print_json(found | ({"log": tried.to_json()} if tried else {}))
    else:
        for path, what in missing:
            note(f"warning: {path}: {what}")
        print(f"{spec_path}: valid ({summary(spec)})")
        if tried:
            first, *rest = tried.lines()
            print(f"{log_path}: {first}", *rest, sep="\n")
    if tried and not tried.readings:
        sys.exit(1)


def _tried(spec: JobSpec, path: Path, folder: Path) -> Tryout:
    """What monitor.log makes of a log."""
    from hpckit.errors import UsageError
    from hpckit.monitor.log.tryout import try_log

    if spec.monitor.log is None:
        raise UsageError(
            "the spec has no monitor.log to try", "give it one, such as -s monitor.log=tqdm"
        )
    return try_log(spec.monitor, path, folder)


def schema_text() -> str:
    """The JSON Schema of a spec, as the file that comes with hpckit has it."""
    from hpckit.model.fields import json_schema
    from hpckit.spec import JobSpec

    return json.dumps(json_schema(JobSpec), indent=1, ensure_ascii=False) + "\n"


def summary(spec: JobSpec) -> str:
    """What a valid spec asks for, in a few words."""
    from hpckit import units
    from hpckit.spec.sweep import count

    asked, runs = spec.resources, count(spec.sweep)
    words = [f"{runs} run{'s' if runs > 1 else ''}"]
    words.append(f"{asked.nodes} node{'s' if asked.nodes > 1 else ''}")
    if asked.gpus:
        words[-1] += f" with {asked.gpus_per_node} GPU{'s' if asked.gpus > 1 else ''}"
    words[-1] += " each" if runs * asked.nodes > 1 else ""
    words.append(f"{units.format_duration(asked.time)} an attempt")
    return ", ".join(words)


def _print_problems(problems: list[Problem], as_json: bool) -> None:
    if as_json:
        errors = [dataclasses.asdict(problem) for problem in problems]
        print_json({"valid": False, "errors": errors})
        return
    for problem in problems:
        print(problem)
    many = "s" if len(problems) > 1 else ""
    print(f"{len(problems)} error{many}", file=sys.stderr)

"""hpckit doctor"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click

from hpckit.cli.options import cluster_option, json_option, print_json, root_option, set_option

MARKS = {"ok": "done", "warn": "warning", "fail": "failed", "skip": "pending"}


@click.command()
@click.argument("spec_path", metavar="[SPEC]", required=False, type=click.Path())
@set_option
@cluster_option
@root_option
@click.option("--no-probe", is_flag=True, help="Send no job: look from this machine only.")
@json_option
def doctor(
    spec_path: str | None,
    overrides: tuple[str, ...],
    cluster: str | None,
    root: str | None,
    no_probe: bool,
    as_json: bool,
) -> None:
    """Look for what would go wrong here, before it does; with SPEC, for that job.

    A small job on a node looks at what the login node cannot know. Exit code 1 if anything fails.
    """
    from hpckit import settings
    from hpckit.doctor import FAIL, examine
    from hpckit.paint import note, paint

    spec = None
    place = settings.root(root)
    if spec_path is not None:
        from hpckit.spec import load_spec

        profile = settings.profile_name(cluster)
        spec = load_spec(Path(spec_path), overrides, (profile,) if profile else ())
        place = settings.root(root, spec.scratch)
    findings = []
    for finding in examine(
        root=place, cluster=cluster, spec=spec, probe=not no_probe, progress=note
    ):
        findings.append(finding)
        if not as_json:
            mark = paint(f"{finding.status:<4}", MARKS[finding.status])
            print(f"{mark}  {finding.check}: {finding.message}", flush=True)
            if finding.remedy:
                print(f"      {finding.remedy}", flush=True)
    ok = all(finding.status != FAIL for finding in findings)
    if as_json:
        print_json({"ok": ok, "findings": [dataclasses.asdict(f) for f in findings]})
    sys.exit(0 if ok else 1)

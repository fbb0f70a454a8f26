"""Looking for what would go wrong on a cluster, before it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpckit.spec import JobSpec

OK, WARN, FAIL, SKIP = "ok", "warn", "fail", "skip"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at; everything that is not ok has a remedy."""

    check: str
    status: str
    message: str
    remedy: str = ""


def examine(
    *,
    root: Path,
    cluster: str | None,
    spec: JobSpec | None,
    probe: bool,
    progress: Callable[[str], None],
) -> Iterator[Finding]:
    """Every finding, the cheap ones first; a probe job on a node comes last."""
    from hpckit import settings
    from hpckit.doctor import here, on_node, site
    from hpckit.errors import HpckitError

    yield from here.check(root)
    try:
        scheduler = settings.scheduler(cluster)
    except HpckitError as error:
        yield Finding(check="scheduler", status=FAIL, message=error.message, remedy=error.hint)
        return
    if scheduler.kind != "slurm":
        yield Finding(
            check="scheduler",
            status=OK,
            message="no Slurm on this machine: jobs run here, under the local scheduler",
        )
        return
    from hpckit.scheduler.slurm import Slurm

    slurm = Slurm()
    try:
        yield from site.check(slurm, spec)
        if probe:
            yield from on_node.check(slurm, root, spec, progress)
    except HpckitError as error:
        yield Finding(check="slurm", status=FAIL, message=error.message, remedy=error.hint)

"""Where a job is rehearsed: on this machine, or in a queue that a person has named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpckit import settings
from hpckit.errors import UsageError

if TYPE_CHECKING:
    from hpckit.devcluster import DevCluster
    from hpckit.scheduler.base import Scheduler
    from hpckit.spec import JobSpec


@dataclass(frozen=True, kw_only=True)
class Place:
    """A scheduler, and the development cluster where it is that one's."""

    scheduler: Scheduler
    # As --cluster has it.
    name: str
    cluster: DevCluster | None = None

    @property
    def is_here(self) -> bool:
        """Whether what runs there runs on this machine."""
        return self.scheduler.kind == "local" or self.cluster is not None

    @property
    def words(self) -> str:
        if self.cluster is not None:
            return f"the development cluster in {self.cluster.folder}"
        return f"the cluster {self.name}" if self.scheduler.kind == "slurm" else "this machine"

    def nodes(self) -> int | None:
        """How many nodes of the development cluster answer; None of any other place."""
        if self.cluster is None:
            return None
        return sum(node.answers for node in self.cluster.status().nodes)


def choose(named: str | None) -> Place:
    """The place that a person names, else the development cluster, else this machine.

    What a setting says for real runs does not hold: faults have no business in a queue that others
    wait in, unless somebody says so each time.
    """
    cluster = development_cluster(os.environ)
    name = named or ("slurm" if cluster is not None else _this_machine())
    scheduler = settings.scheduler(name)
    is_its = scheduler.kind == "slurm" and cluster is not None
    return Place(scheduler=scheduler, name=name, cluster=cluster if is_its else None)


def _this_machine() -> str:
    """Not a login node of a Slurm that is somebody's: there it is for the person to say."""
    from hpckit.scheduler.slurm import is_here

    if settings.setting("cluster") != "local" and is_here():
        raise UsageError(
            "this machine's Slurm is no development cluster: nothing is rehearsed there unasked",
            "hpckit cluster up makes one; --cluster local takes this machine, "
            "--cluster slurm the queue all the same",
        )
    return "local"


def development_cluster(environ: Mapping[str, str]) -> DevCluster | None:
    """The one that SLURM_CONF names, if it is up."""
    path = Path(environ.get("SLURM_CONF", "none"))
    folder = path.parent.parent
    from hpckit.devcluster import DevCluster
    from hpckit.devcluster.layout import Layout

    layout = Layout(folder.resolve())
    if layout.slurm_conf != path.resolve() or not layout.is_whole():
        return None
    found = DevCluster(folder)
    is_up = any(each.name == "slurmctld" and each.pid for each in found.status().daemons)
    return found if is_up else None


def has_no_gpus(place: Place, spec: JobSpec) -> bool:
    """Whether the job asks for GPUs where there are none; make-believe ones do not count."""
    from hpckit.scheduler.local import visible_gpus

    return place.is_here and spec.resources.gpus > 0 and not visible_gpus(os.environ)

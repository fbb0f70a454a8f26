"""What the policy knows of a run: the spec's remedies, and the defaults for the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpckit.errors import UsageError
from hpckit.monitor.reading import MAIN
from hpckit.spec.parts import Change, Checkpoint, Remedy

if TYPE_CHECKING:
    from hpckit.spec.job import JobSpec

# One trouble under three names.
ONE_TROUBLE = ("explosion", "non_finite", "loss_lost")
# Half the clip alone lets one run of six be lost unseen; half the learning rate alone heals them
# all, and both together need fewer restarts.
TIGHTENED = Remedy(
    do="rollback",
    change={"clip": Change(times=0.5), "lr": Change(times=0.5)},
    of="blamed",
    skip_batches=100,
    limit=3,
)
# Nothing is known of what a rule saw but that it was in this batch.
AS_IT_WAS = Remedy(do="rollback", change={}, skip_batches=1, limit=3)
# Of these only the run's own limits say how often: the cluster is the cause, or nobody.
ENDS = Remedy(do="resubmit", change={})
NUMERIC_DEFAULTS: Mapping[str, Remedy] = dict.fromkeys(ONE_TROUBLE, TIGHTENED)
MACHINE_DEFAULTS: Mapping[str, Remedy] = {
    "crash": Remedy(do="relaunch", change={}, limit=2),
    "hang": Remedy(do="relaunch", change={}, limit=2),
    "out_of_memory": Remedy(do="resubmit", change={"resources.memory": Change(times=1.5)}, limit=2),
    "node_failure": ENDS,
    "time_limit": ENDS,
    "preemption": ENDS,
}
DEFAULTS: Mapping[str, Remedy] = {**NUMERIC_DEFAULTS, **MACHINE_DEFAULTS}
NOT_SAID = Remedy()
# What a script calls an optimizer that is the only one.
ALONE = "optimizer"
# So many healthy steps, or so many times what confirms a checkpoint, are progress.
REFILL_STEPS = 1000
REFILL_TIMES = 10


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the policy knows of a run.

    Where the optimizers are known, a remedy of another one is refused: it would change nothing.
    """

    remedies: Mapping[str, Remedy] = field(default_factory=dict)
    # Their names; empty where they are not known.
    optimizers: tuple[str, ...] = ()
    confirm_steps: int = Checkpoint.confirm_steps
    # So many nodes the allocation has beyond those that a launch must have.
    spare_nodes: int = 0

    def __post_init__(self) -> None:
        for kind, remedy in self.remedies.items():
            if remedy.of in (None, "blamed", "all") or not self.optimizers:
                continue
            if self.registered(str(remedy.of)) not in self.optimizers:
                raise UsageError(
                    f"heal.{kind}.of: no optimizer is registered as {remedy.of}",
                    f"write blamed, all, or one of these: {', '.join(self.optimizers)}",
                )

    def registered(self, name: str) -> str:
        """The name that an optimizer is known by."""
        is_main = name == ALONE and name not in self.optimizers and MAIN in self.optimizers
        return MAIN if is_main else name

    @classmethod
    def of(cls, spec: JobSpec) -> Rules:
        """As a spec asks for it."""
        return cls(
            remedies=spec.heal,
            optimizers=tuple(spec.monitor.optimizers),
            confirm_steps=spec.checkpoint.confirm_steps,
        )

    @property
    def refill_steps(self) -> int:
        """How many healthy steps after a restart are progress."""
        return max(REFILL_STEPS, REFILL_TIMES * self.confirm_steps)

    def remedy(self, kind: str) -> Remedy:
        """What is done about a kind: what the spec says of it, and the defaults for the rest."""
        given = vars(self.remedies.get(kind, NOT_SAID))
        said = {name: value for name, value in given.items() if value != getattr(NOT_SAID, name)}
        return dataclasses.replace(DEFAULTS.get(kind, AS_IT_WAS), **said)

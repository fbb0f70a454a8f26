"""The faults that can be rehearsed: what each is to the policy, and where it can be done: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hpckit.heal.rules import ONE_TROUBLE
from hpckit.rehearsed import BY_LIBRARY

# To the policy, an incident of one of these kinds.
INCIDENTS: Mapping[str, tuple[str, ...]] = {
    "explosion": ONE_TROUBLE,
    "nan": ONE_TROUBLE,
    "crash": ("crash",),
    "hang": ("hang",),
    "kill": ("crash",),
    "timeout": ("time_limit",),
    "preempt": ("preemption",),
    "oom": ("out_of_memory",),
    "node": ("node_failure",),
}
NUMERIC = ("explosion", "nan")
# A detector knows what is usual after some 80 steps; the others need a step to go back to.
NUMERIC_STEP, OTHER_STEP = 100, 20

BY_NOBODY = (
    "the program is not a Trainer, and no file of its folder imports hpckit: "
    "it cannot be struck from within"
)
NO_CLUSTER = "needs the development cluster: hpckit cluster up, then eval its hpckit cluster env"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What is known of the program, and of the place where it is rehearsed."""

    # Whether the library is inside the program; and whether anybody tells its steps.
    has_session: bool
    has_steps: bool
    # Whether the job's processes are on this machine.
    is_here: bool
    # Nodes of the job; and of the development cluster, where it is one.
    asks_nodes: int = 1
    nodes: int | None = None
    is_root: bool = False


def default_step(fault: str) -> int:
    return NUMERIC_STEP if fault in NUMERIC else OTHER_STEP


def is_by_library(fault: str, stage: Stage) -> bool:
    """Whether the training does it to itself, at exactly its step."""
    return fault in BY_LIBRARY and stage.has_session


def why_not(fault: str, stage: Stage) -> str | None:
    """Why a fault cannot be rehearsed here; None where it can."""
    if fault == "timeout" and not stage.is_here:
        return "the worker is on another machine: -s resources.time=2m has the limit come by itself"
    if fault == "kill" and not stage.has_session and not stage.is_here:
        return "the program's processes are on another machine, where only hpckit inside it could"
    if fault in BY_LIBRARY and fault != "kill" and not stage.has_session:
        return BY_NOBODY
    if fault in ("preempt", "node") and stage.nodes is None:
        return NO_CLUSTER
    if fault == "node" and not stage.is_root:
        return "needs root, to end a node's slurmd"
    if fault == "node" and stage.asks_nodes >= (stage.nodes or 0):
        return f"the job takes all {stage.nodes} nodes: none is left to go on with"
    return None

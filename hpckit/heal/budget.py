"""Which of the restarts of before still count, and when it is no use to try again."""

from __future__ import annotations

from collections.abc import Sequence

from hpckit.heal.past import Past
from hpckit.heal.rules import ONE_TROUBLE, Rules
from hpckit.monitor.incident import Incident
from hpckit.spec.parts import INFRASTRUCTURE

# Restarts in a row that brought nothing; after these the run is stopped, whatever its budgets say.
MOST_IN_VAIN = 3
# A person's own restart is no trouble: it only ends what was before it.
BY_HAND = "by_hand"
# What is the program's own doing, and not the cluster's.
OF_THE_PROGRAM = ("crash", "hang", "out_of_memory")


def trouble(kind: str) -> str:
    """What comes back under another of these names has not gone away."""
    return ONE_TROUBLE[0] if kind in ONE_TROUBLE else kind


def counting(history: Sequence[Past], rules: Rules) -> list[Past]:
    """The restarts since the last progress, stop, or restart by hand."""
    found: list[Past] = []
    for past in history:
        if past.plan.do == "stop" or past.incident.kind == BY_HAND:
            found.clear()
        elif past.plan.restarts:
            found.append(past)
            if past.healthy >= rules.refill_steps:
                found.clear()
    return found


def spent(incident: Incident, counted: Sequence[Past]) -> list[Past]:
    """Those for the same trouble."""
    wanted = trouble(incident.kind)
    return [past for past in counted if trouble(past.incident.kind) == wanted]


def in_vain(counted: Sequence[Past]) -> int:
    """How many of the last restarts, whatever they were for, brought nothing.

    Where nobody knows what a restart brought, it is not counted against it.
    """
    number = 0
    for past in reversed(counted):
        gained = past.gained
        if gained is None and past.incident.kind not in INFRASTRUCTURE:
            gained = past.healthy
        if gained is None or gained > 0:
            break
        number += 1
    return number


def died_early_before(incident: Incident, counted: Sequence[Past]) -> bool:
    """Whether the attempt before this one came to no step either, by the program's own doing."""
    if not _is_early(incident):
        return False
    for past in reversed(counted):
        if not _is_early(past.incident):
            return False
        if past.plan.do == "resubmit":
            return True
    return False


def _is_early(incident: Incident) -> bool:
    """Whether the program came to no step; that its node is bad it may say by its own mistake."""
    by_itself = incident.kind in OF_THE_PROGRAM or incident.place is not None
    return incident.early and by_itself

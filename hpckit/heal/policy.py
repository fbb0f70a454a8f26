"""What is to be done about an incident, by what was done before and what the spec says.

Explosion, non_finite and loss_lost are one trouble: what comes back under another of these names
has not gone away. Every other kind is a trouble of its own.

A trouble's restarts are *spent*, and when the remedy's limit of them is spent, the run is stopped.
Progress refills: after `refill_steps` healthy steps nothing that was done before counts any more.
Nor does it after a stop: a person looked at the run and started it again.

Earlier than that it is stopped where two restarts with tightened clip or learning rate met the
same growth in the same parameter again: that is in the model, see hpckit.heal.diagnosis.

A state from before the trouble's onset is wanted. But a growth that began long ago has done little
for most of its time, and to replay it all is dear: the first restart takes it to have begun no
more than `NEAR` steps ago. Should the trouble come back before the run is `confirm_steps` past the
former incident, what it went back to may already have been damaged: then the oldest onset counts,
and one good state further back than the one before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpckit.errors import UsageError
from hpckit.heal import diagnosis
from hpckit.heal.changes import OF_OPTIMIZERS
from hpckit.heal.past import Past
from hpckit.heal.plan import Plan
from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import MAIN
from hpckit.spec.parts import Change, Checkpoint, Remedy

if TYPE_CHECKING:
    from hpckit.spec.job import JobSpec

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
DEFAULTS: Mapping[str, Remedy] = dict.fromkeys(ONE_TROUBLE, TIGHTENED)
NOT_SAID = Remedy()
# What a script calls an optimizer that is the only one.
ALONE = "optimizer"
# So many healthy steps, or so many times what confirms a checkpoint, are progress.
REFILL_STEPS = 1000
REFILL_TIMES = 10
# With a state in memory every 25 steps a first restart replays 150 at most, if one of them is good.
NEAR = 125


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the policy knows of a run.

    Where the optimizers are known, a remedy of another one is refused: it would change nothing.
    """

    remedies: Mapping[str, Remedy] = field(default_factory=dict)
    # Their names; empty where they are not known.
    optimizers: tuple[str, ...] = ()
    confirm_steps: int = Checkpoint.confirm_steps

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


def decide(incident: Incident, history: Sequence[Past], rules: Rules) -> Plan:
    """The plan for an incident; `history` begins with the oldest."""
    if incident.answer == "tell":
        return Plan(do="tell", reason=f"{incident.kind} asks for no more than to be told")
    if incident.answer == "skip":
        return Plan(do="skip", reason=f"{incident.kind}: this one update was worth nothing")
    remedy = rules.remedy(incident.kind)
    if remedy.do == "tell":
        return Plan(do="tell", reason=f"heal.{incident.kind} says: tell")
    if remedy.do == "stop":
        return _stop(f"heal.{incident.kind} says: stop", diagnosis.of_one(incident))
    spent = _spent(incident, history, rules)
    if diagnosis.is_structural(incident, spent, rules.confirm_steps):
        reason = "the same growth in the same parameter, after two restarts"
        return _stop(reason, diagnosis.structural(incident, spent))
    if len(spent) >= (remedy.limit or 0):
        reason = f"heal.{incident.kind}.limit of {remedy.limit} is spent"
        return _stop(reason, diagnosis.exhausted(incident, spent, remedy.limit or 0))
    return _restart(incident, spent, remedy, rules)


def _stop(reason: str, told: str) -> Plan:
    return Plan(do="stop", reason=reason, diagnosis=told)


def _restart(incident: Incident, spent: Sequence[Past], remedy: Remedy, rules: Rules) -> Plan:
    assert remedy.do in ("rollback", "relaunch", "resubmit")
    back = _back(incident, spent, rules)
    reason = f"{incident.kind} at step {incident.step}: restart {len(spent) + 1} of {remedy.limit}"
    if back:
        reason += f"; the one from step {spent[-1].step} came no further than before"
    return Plan(
        do=remedy.do,
        reason=reason,
        changes=dict(remedy.change or {}),
        of=_whose(incident, remedy, rules),
        skip_batches=remedy.skip_batches or 0,
        before=_before(incident, spent[len(spent) - back :]),
        back=back,
    )


def _spent(incident: Incident, history: Sequence[Past], rules: Rules) -> list[Past]:
    """The restarts for the same trouble that still count."""
    found: list[Past] = []
    for past in history:
        if past.plan.do == "stop":
            found.clear()
        elif past.plan.restarts:
            found.append(past)
            if past.healthy >= rules.refill_steps:
                found.clear()
    trouble = _trouble(incident.kind)
    return [past for past in found if _trouble(past.incident.kind) == trouble]


def _trouble(kind: str) -> str:
    return ONE_TROUBLE[0] if kind in ONE_TROUBLE else kind


def _whose(incident: Incident, remedy: Remedy, rules: Rules) -> tuple[str, ...] | None:
    """Whose clip and learning rate change; None is all optimizers'."""
    if not OF_OPTIMIZERS & set(remedy.change or ()) or remedy.of == "all":
        return None
    if remedy.of in (None, "blamed"):
        return None if incident.optimizer is None else (incident.optimizer,)
    return (rules.registered(str(remedy.of)),)


def _before(incident: Incident, repeated: Sequence[Past]) -> int:
    """A state of a later step than this may be damaged."""
    if repeated:
        return min(_onset(each) for each in (*(past.incident for past in repeated), incident))
    return max(_onset(incident), incident.step - NEAR)


def _onset(incident: Incident) -> int:
    return incident.step if incident.onset is None else incident.onset


def _back(incident: Incident, spent: Sequence[Past], rules: Rules) -> int:
    """How many good states further back than the newest one that comes into question."""
    if not spent:
        return 0
    last = spent[-1]
    got_past = incident.step > last.incident.step + rules.confirm_steps
    return 0 if got_past and last.healthy >= rules.confirm_steps else last.plan.back + 1

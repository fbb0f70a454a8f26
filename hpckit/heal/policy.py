"""What is to be done about an incident, by what was done before and what the spec says.

Explosion, non_finite and loss_lost are one trouble: what comes back under another of these names
has not gone away. Every other kind is a trouble of its own.

A trouble's restarts are *spent*, and when the remedy's limit of them is spent, the run is stopped.
Progress refills: after `refill_steps` healthy steps nothing that was done before counts any more.
Nor does it after a stop, or after a restart by hand: a person looked at the run.

Three restarts in a row that brought nothing stop the run, whatever they were for, and so do two
attempts in a row that the program ended before its first step.

Of the numbers' troubles: it is stopped earlier where two restarts with tightened clip or learning
rate met the same growth in the same parameter again: that is in the model, see
hpckit.heal.diagnosis. A state from before the trouble's onset is wanted. But a growth that began
long ago has done little for most of its time, and to replay it all is dear: the first restart takes
it to have begun no more than `NEAR` steps ago. Should the trouble come back before the run is
`confirm_steps` past the former incident, what it went back to may already have been damaged: then
the oldest onset counts, and one good state further back than the one before.

Of the machine's troubles: any intact state will do, the newest first. What fails is started again
in its allocation, and when that is spent once more in another one. A bad node is left out where
fewer are enough, and else the next allocation is one without it. An error of Python that comes back
at the same place without having come further is the program's own: it is stopped.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpckit.heal import diagnosis
from hpckit.heal.budget import MOST_IN_VAIN, counting, died_early_before, in_vain, spent
from hpckit.heal.changes import OF_OPTIMIZERS
from hpckit.heal.past import Past
from hpckit.heal.plan import Do, Plan
from hpckit.heal.rules import Rules
from hpckit.monitor.incident import Incident
from hpckit.spec.parts import INFRASTRUCTURE, Remedy

# With a state in memory every 25 steps a first restart replays 150 at most, if one of them is good.
NEAR = 125
# Where the cluster is the cause and nothing was gained, the next attempt waits, twice as long each
# time.
WAIT_S = 60
LONGEST_WAIT_S = 900
OF_THE_CLUSTER = ("node_failure", "preemption")


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
    counted = counting(history, rules)
    of_this = spent(incident, counted)
    decided = _repair if incident.kind in INFRASTRUCTURE else _heal
    plan = decided(incident, of_this, remedy, rules, in_vain(counted))
    if not plan.restarts:
        return plan
    if in_vain(counted) >= MOST_IN_VAIN:
        tried = counted[-MOST_IN_VAIN:]
        return _stop("no progress in three restarts", diagnosis.in_vain(incident, tried))
    if plan.do == "resubmit" and died_early_before(incident, counted):
        reason = "two attempts in a row came to no step"
        return _stop(reason, f"{reason}: {diagnosis.of_one(incident)}")
    return plan


def _stop(reason: str, told: str) -> Plan:
    return Plan(do="stop", reason=reason, diagnosis=told)


def _heal(
    incident: Incident, spent: Sequence[Past], remedy: Remedy, rules: Rules, _in_vain: int
) -> Plan:
    """About numbers that went wrong."""
    if diagnosis.is_structural(incident, spent, rules.confirm_steps):
        reason = "the same growth in the same parameter, after two restarts"
        return _stop(reason, diagnosis.structural(incident, spent))
    limit = remedy.limit or 0
    if len(spent) >= limit:
        return _exhausted(incident, spent, limit)
    back = _back(incident, spent, rules)
    reason = f"{incident.kind} at step {incident.step}: restart {len(spent) + 1} of {limit}"
    if back:
        reason += f"; the one from step {spent[-1].step} came no further than before"
    return Plan(
        do=remedy.do or "rollback",
        reason=reason,
        changes=dict(remedy.change or {}),
        of=_whose(incident, remedy, rules),
        skip_batches=remedy.skip_batches or 0,
        before=_before(incident, spent[len(spent) - back :]),
        back=back,
    )


def _repair(
    incident: Incident, spent: Sequence[Past], remedy: Remedy, rules: Rules, in_vain: int
) -> Plan:
    """About a program that ended, or a machine that failed it."""
    if spent and _is_same_error(incident, spent[-1]):
        reason = "the same error at the same place, after a restart"
        return _stop(reason, f"{incident.said}, once more: a restart does not mend that")
    do: Do = remedy.do or "resubmit"
    if incident.kind == "node_failure" and incident.node is not None and rules.spare_nodes > 0:
        do = "relaunch"
    tries = len(spent)
    # When it is spent here, another allocation may be better.
    most = remedy.limit
    if most is not None and tries >= most:
        if do != "relaunch" or tries > most or not most:
            return _exhausted(incident, spent, most)
        do = "resubmit"
    where = "" if most is None else f" of {most + (remedy.do == 'relaunch')}"
    waits = WAIT_S * 2 ** (in_vain - 1) if incident.kind in OF_THE_CLUSTER and in_vain else 0
    return Plan(
        do=do,
        reason=f"{incident.kind} at step {incident.step}: restart {tries + 1}{where}",
        changes=dict(remedy.change or {}),
        intact=True,
        exclude=_bad_nodes(incident, do),
        wait_s=min(waits, LONGEST_WAIT_S),
    )


def _is_same_error(incident: Incident, before: Past) -> bool:
    """Whether it came no further than to where it failed before; a bad node fails it anywhere."""
    if incident.kind == "node_failure":
        return False
    earlier = before.incident
    same = incident.place is not None and incident.place == earlier.place
    return same and incident.step <= earlier.step


def _bad_nodes(incident: Incident, do: Do) -> tuple[str, ...]:
    """What could not be mended on a node may be its fault."""
    is_suspect = incident.kind == "node_failure" or (incident.kind == "hang" and do == "resubmit")
    return (incident.node,) if is_suspect and incident.node is not None else ()


def _exhausted(incident: Incident, spent: Sequence[Past], limit: int) -> Plan:
    reason = f"heal.{incident.kind}.limit of {limit} is spent"
    return _stop(reason, diagnosis.exhausted(incident, spent, limit))


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

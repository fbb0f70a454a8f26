"""Why a run is stopped, for the person who has to go on with it.

*Structural* is what no restart heals. A gradient that grows because something is divided by what
shrinks is above every clip, and at half the learning rate it only comes a little later. It is
told by its return: at the third incident, when both restarts before it had a tightened clip or
learning rate, the same parameter was the worst each time, the growth (norm over its usual) has
not fallen below its root, which is half its decades, and neither restart came `confirm_steps`
past the step of the first incident. Where the growth or the parameter is unknown it is never said:
broken data makes everything non-finite, too, and has no such numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hpckit.heal.changes import OF_OPTIMIZERS, asked
from hpckit.heal.past import Past
from hpckit.monitor.incident import Incident, number
from hpckit.spec.parts import INFRASTRUCTURE

# So many of the incidents of before are told one by one.
TOLD = 3
LOOK = (
    "Look beside this parameter for a division by something that shrinks (a normalisation, a "
    "rescale, a variance) and bound it"
)
REMEDY = "a clamp on the quotient, or a floor under the divisor"


def is_structural(incident: Incident, spent: Sequence[Past], confirm_steps: int) -> bool:
    """Whether two tightened restarts have met the same growth in the same parameter again."""
    if len(spent) < 2 or incident.parameter is None:
        return False
    first, *later = _three(incident, spent)
    return (
        all(_tightened(past) for past in spent[-2:])
        and all(_same_place(first, each) for each in later)
        and all(each.step <= first.step + confirm_steps for each in later)
        and all(_grew_as_much(first, each) for each in later)
    )


def structural(incident: Incident, spent: Sequence[Past]) -> str:
    """What a structural trouble looked like each time, and what to look at."""
    three = _three(incident, spent)
    seen = "; ".join(f"step {each.step}: {_growth_words(each)}" for each in three)
    # What one restart changed, the next may have changed otherwise.
    tried = " and then ".join(dict.fromkeys(asked(past.plan) for past in spent[-2:]))
    return (
        f"structural: the same growth in {incident.parameter} after two restarts with {tried} "
        f"({seen}). Clipping and learning rate cannot heal that. {_look(three)}: {REMEDY}"
    )


def _look(three: Sequence[Incident]) -> str:
    """Where to: at the division that was seen last, if one was."""
    seen = [each.division for each in three if each.division is not None]
    return f"The division beside it, {seen[-1]}. Bound it" if seen else LOOK


def exhausted(incident: Incident, spent: Sequence[Past], limit: int) -> str:
    """How often it was tried, with what changes, and what it looked like each time."""
    if not limit:
        return f"{of_one(incident)}. heal.{incident.kind}.limit is 0, so nothing was tried"
    times = "once" if len(spent) == 1 else f"{len(spent)} times"
    did = "was started again" if incident.kind in INFRASTRUCTURE else "went back"
    return (
        f"{did} {times} without lasting progress, and heal.{incident.kind}.limit is {limit}: "
        f"{_story(incident, spent)}"
    )


def in_vain(incident: Incident, tried: Sequence[Past]) -> str:
    """What the last restarts were for, none of which came further than the one before."""
    return f"no progress in {len(tried)} restarts: {_story(incident, tried)}"


def _story(incident: Incident, spent: Sequence[Past]) -> str:
    shown = [f"{_of_before(past.incident)} -> {_tried(past)}" for past in spent[-TOLD:]]
    if len(set(shown)) == 1 and len(shown) > 1:
        shown = [f"{shown[0]}, each time"]
    if len(spent) > TOLD:
        shown.insert(0, f"{len(spent) - TOLD} more before these")
    again = bool(spent) and _of_before(spent[-1].incident) == of_one(incident)
    return "; ".join([*shown, "now the same" if again else f"now {of_one(incident)}"])


def of_one(incident: Incident) -> str:
    """One incident: `explosion at step 8123, gradient norm 4.1e6, worst parameter out.weight`."""
    worst = "" if incident.parameter is None else f", worst parameter {incident.parameter}"
    return f"{_in_short(incident)}, {incident.said}{worst}"


def _of_before(incident: Incident) -> str:
    """What the machine said of it was told with it, and may be long."""
    return _in_short(incident) if incident.kind in INFRASTRUCTURE else of_one(incident)


def _in_short(incident: Incident) -> str:
    return f"{incident.kind} at step {incident.step}"


def _three(incident: Incident, spent: Sequence[Past]) -> list[Incident]:
    return [*(past.incident for past in spent[-2:]), incident]


def _tightened(past: Past) -> bool:
    changes = [past.plan.changes.get(name) for name in OF_OPTIMIZERS]
    # What a value was before is not known here: one that is set is taken for tighter.
    return any(each is not None and (each.times is None or each.times < 1) for each in changes)


def _same_place(one: Incident, other: Incident) -> bool:
    return (one.optimizer, one.parameter) == (other.optimizer, other.parameter)


def _grew_as_much(first: Incident, later: Incident) -> bool:
    before, now = _growth(first), _growth(later)
    return before is not None and now is not None and now >= math.sqrt(before) > 1


def _growth(incident: Incident) -> float | None:
    """The norm over its usual; what is not finite has grown without bound."""
    value, usual = incident.value, incident.usual
    if value is None:
        return None
    if not math.isfinite(value):
        return math.inf
    return None if usual is None or not usual > 0 else value / usual


def _growth_words(incident: Incident) -> str:
    growth = _growth(incident)
    if growth is None or math.isinf(growth):
        return "norm not finite"
    value, usual = number(incident.value), number(incident.usual)
    return f"norm {value}, {number(growth)} times its usual {usual}"


def _tried(past: Past) -> str:
    benign = past.incident.kind in INFRASTRUCTURE
    changes = asked(past.plan) or ("" if benign else "nothing changed")
    return ", ".join([f"went on from step {past.step}", *([changes] if changes else [])])

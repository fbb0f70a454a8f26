"""From which step to which each attempt came, what was changed in it, and what of it was lost."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpckit.heal.budget import BY_HAND
from hpckit.heal.history import tells_incident
from hpckit.heal.plan import RESTARTS
from hpckit.ledger import Event, last
from hpckit.run import Attempt, launches_in
from hpckit.spec.parts import INFRASTRUCTURE


@dataclass(kw_only=True)
class Stretch:
    """One attempt's steps."""

    begin: int | None = None
    end: int | None = None
    # Where it took up by the steps that its log tells, where nobody says `begin`.
    first: int | None = None
    # Done, and given up in the attempt itself, which went back.
    given_up: int = 0
    # Done, and done again by a later attempt, which took up further back.
    repeated: int = 0
    changes: list[str] = field(default_factory=list)

    @property
    def since(self) -> int | None:
        return self.first if self.begin is None else self.begin

    @property
    def lost(self) -> int:
        return self.given_up + self.repeated

    @property
    def lost_share(self) -> float:
        """The part of the attempt's work that was for nothing."""
        if self.since is None or self.end is None:
            return 0.0
        done = self.end - self.since + self.given_up
        return min(1.0, self.lost / done) if done > 0 else 0.0


def stretches(attempts: Sequence[Attempt], events: Sequence[Event]) -> dict[int, Stretch]:
    """By attempt's number."""
    found = {attempt.number: Stretch(end=steps_done(attempt)) for attempt in attempts}
    ended: dict[int, int] = {}
    for event in events:
        number = int(event.data.get("attempt", 0))
        mine = found.get(number)
        if mine is None:
            continue
        if event.kind == "resumed":
            step = int(event.data["step"])
            mine.begin = step if mine.begin is None else mine.begin
            # A launch before it, in the same attempt, came further.
            mine.given_up += max(0, ended.pop(number, step) - step)
            mine.changes += [str(each) for each in event.data.get("changed", ())]
        elif event.kind == "applied":
            mine.changes += [str(each) for each in event.data.get("changed", ())]
        elif event.kind == "restart" and _about(event).get("kind") != BY_HAND:
            ended[number] = int(_about(event).get("step") or 0)
        elif event.kind == "incident" and (event.data.get("plan") or {}).get("do") in RESTARTS:
            # Gone back from in the same process, or by one that comes after it.
            ended[number] = int(_about(event).get("step") or 0)
        elif event.kind == "rollback":
            ended.pop(number, None)
            mine.given_up += max(0, int(event.data["from_step"]) - int(event.data["step"]))
            mine.changes += [str(each) for each in event.data.get("changed", ())]
    _by_their_logs(attempts, found)
    for number, mine in found.items():
        later = [each.since for n, each in found.items() if n > number and each.since is not None]
        if mine.end is not None and later:
            mine.repeated = max(0, mine.end - max(min(later), mine.since or 0))
    return found


def _by_their_logs(attempts: Sequence[Attempt], found: dict[int, Stretch]) -> None:
    """Where a program took up that says nothing of it: at 0 if it began as it first did."""
    firsts = {
        attempt.number: step
        for attempt in attempts
        if found[attempt.number].begin is None and (step := _first_step(attempt)) is not None
    }
    for number, step in firsts.items():
        found[number].first = step if step > next(iter(firsts.values())) else 0


def steps_done(attempt: Attempt) -> int | None:
    """Steps that were done when the attempt's last reading was written."""
    launches = reversed(launches_in(attempt.dir / "readings"))
    found = (launch_steps(attempt, each.name) for each in launches)
    return next((step for step in found if step is not None), None)


def _first_step(attempt: Attempt) -> int | None:
    """The first step of which an attempt has a reading."""
    from hpckit.monitor.readings.reader import first_step

    for folder in launches_in(attempt.dir / "readings"):
        with contextlib.suppress(OSError):
            if (step := first_step(folder)) is not None:
                return step
    return None


def launch_steps(attempt: Attempt, launch: str) -> int | None:
    """The same of one launch."""
    # Only a run that is watched pays for it.
    from hpckit.monitor.readings.reader import last_step

    with contextlib.suppress(OSError):
        if (step := last_step(attempt.dir / "readings" / launch)) is not None:
            return step + 1
    return None


def unsaved(
    events: Sequence[Event], checkpoints: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The last state that could not be written, and why; none where as much was saved since."""
    event = last(list(events), "unsaved")
    step = event.data.get("step") if event is not None else None
    if event is None or not isinstance(step, int):
        return None
    if any(each["step"] >= step for each in checkpoints if not each["damaged"]):
        return None
    return {"step": step, "reason": str(event.data.get("reason", ""))}


def incidents(
    events: Sequence[Event],
    *,
    came_to: float = -math.inf,
    is_over: bool = False,
    confirm_steps: int = 1,
) -> list[dict[str, Any]]:
    """What was found wrong, what was done about it, and whether that healed it.

    `came_to`: the steps that are done by now, infinite where they bear no doubt. Numbers that went
    wrong are healed by `confirm_steps` past them, what ended the program by one. Numbers that went
    wrong again before that have come back, even where a later remedy healed them all.
    """
    told: list[dict[str, Any]] = []
    furthest, is_last = came_to, not is_over
    next_step: int | None = None
    for place in reversed(range(len(events))):
        event = events[place]
        if event.kind == "resumed":
            furthest = max(furthest, int(event.data["step"]))
        if not (tells_incident(event) or event.kind == "incident"):
            continue
        each = _incident(event, _answer(event, events[place + 1 :]))
        is_ending = each["kind"] in INFRASTRUCTURE
        if each["applied"]:
            needs = 1 if is_ending else confirm_steps
            # What died before it read a step knows of none.
            step = max(each["step"] or 0, each["resumed_step"] or 0)
            each["healed"] = True if furthest - step >= needs else None if is_last else False
            if not is_ending and next_step is not None and next_step - step < needs:
                each["came_back"] = next_step
        if each["plan"] in (*RESTARTS, "stop"):
            furthest, is_last = max(furthest, each["step"] or 0), False
            next_step = next_step if is_ending else each["step"]
        told.append(each)
    return told[::-1]


def _answer(asked: Event, later: Sequence[Event]) -> Event | None:
    """The rollback after an incident, of it: what comes back at the same step has its own.

    Who died in between was followed by another attempt, which wrote it. What ended the program is
    answered by the one that took up after it.
    """
    for event in later:
        if asked.kind == "restart" and event.kind == "resumed":
            return event
        is_same = _key(event) == _key(asked)
        if event.kind == "rollback" and is_same:
            return event
        if event.kind == "incident" and is_same:
            return None
    return None


def _key(event: Event) -> tuple[Any, ...]:
    about = _about(event)
    return about.get("kind"), about.get("step"), about.get("value")


def _about(event: Event) -> dict[str, Any]:
    """What another version wrote may make no sense here."""
    found = event.data.get("incident")
    return found if isinstance(found, dict) else {}


def _incident(event: Event, answer: Event | None) -> dict[str, Any]:
    found = _about(event)
    plan = event.data.get("plan")
    asked = plan if isinstance(plan, dict) else {}
    return {
        "kind": found.get("kind"),
        "time": event.time,
        "step": found.get("step"),
        "attempt": event.data.get("attempt"),
        "optimizer": found.get("optimizer"),
        "value": found.get("value"),
        "usual": found.get("usual"),
        "onset": found.get("onset"),
        "parameter": found.get("parameter"),
        "division": found.get("division"),
        "sentence": found.get("sentence"),
        "lines": list(event.data.get("lines") or ()),
        "plan": asked.get("do"),
        "plan_sentence": asked.get("sentence"),
        "changes": asked.get("changes") or {},
        "changed": list(answer.data.get("changed", ())) if answer is not None else [],
        "applied": answer is not None,
        # None where nothing was done about it, or where it is too early to say.
        "healed": None,
        # The step at which numbers went wrong again before it counted as healed.
        "came_back": None,
        "resumed_step": answer.data.get("step") if answer is not None else None,
    }

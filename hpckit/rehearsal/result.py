"""What a rehearsal has shown, as data and as a sentence: pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.paint import duration
from hpckit.rehearsal.course import Course, Struck

if TYPE_CHECKING:
    from hpckit.heal.plan import Do
    from hpckit.status.state import State


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What the fault took: steps that were done again, and hours up to the next applied step."""

    steps: int | None = None
    hours: float | None = None
    unit: str = "node h"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One rehearsal's outcome."""

    fault: str
    healed: bool
    # As the policy says: healed, stopped where it says stop, and left alone where it says tell.
    as_expected: bool
    # Of the run when it was judged; one that had healed by then is ended.
    state: str
    seconds: float | None
    steps_lost: int | None
    hours_lost: float | None
    unit: str
    plan: str | None
    sentence: str
    run: str
    # None where nothing of it was kept.
    dir: str | None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def word(self) -> str:
        """The outcome in a word or two."""
        if self.healed:
            return "healed" if self.as_expected else "healed, not as said"
        if self.as_expected:
            return "stopped, as said" if self.plan == "stop" else "told, as said"
        return "NOT healed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How far a rehearsal came, and why it was over."""

    fault: str
    wanted_step: int | None
    struck: Struck | None
    course: Course
    # What the policy answers to such an incident.
    expected: Do | None
    is_healed: bool
    state: State
    # Seconds after which nobody waited any longer; None where nobody had to give up.
    late_s: float | None = None


def result_of(ending: Ending, cost: Cost, *, run: str, folder: Path) -> Result:
    """The verdict."""
    plan, expected = ending.course.plan, ending.expected
    as_said = plan is not None and plan.do == expected
    if expected == "stop":
        is_good = as_said and ending.state.state == "stopped"
    else:
        is_good = as_said and (ending.is_healed or expected == "tell")
    # A run that healed and failed for another reason has not shown what it was to show.
    is_good = is_good and (
        expected in ("stop", "tell") or ending.state.state in ("done", "running")
    )
    seconds = _seconds(ending)
    return Result(
        fault=ending.fault,
        healed=ending.is_healed,
        as_expected=is_good,
        state=ending.state.state,
        seconds=seconds,
        steps_lost=cost.steps if ending.is_healed else None,
        hours_lost=cost.hours if ending.is_healed else None,
        unit=cost.unit,
        plan=plan.do if plan is not None else None,
        sentence=_sentence(ending, is_good),
        run=run,
        dir=None if is_good else str(folder),
    )


def _seconds(ending: Ending) -> float | None:
    applied = ending.course.applied
    if not ending.is_healed or ending.struck is None or applied is None:
        return None
    return round(max(0.0, applied - ending.struck.at), 2)


def _sentence(ending: Ending, is_good: bool) -> str:
    if ending.struck is None:
        return _never_struck(ending)
    incident, plan = ending.course.incident, ending.course.plan
    if incident is None or plan is None:
        return f"{_where(ending.struck)}, and nothing was done about it: {_state(ending)}"
    seen = f"{_where(ending.struck)}; {incident}"
    if plan.do != ending.expected:
        return f"{seen}; {plan}, and not {ending.expected}, as heal.{incident.kind} says"
    if plan.do == "stop":
        return f"{seen}; {plan}"
    if plan.do == "tell":
        return f"{seen}; told, and nothing done, as heal.{incident.kind} says"
    if not ending.is_healed:
        return f"{seen}; {plan}; it did not come past that again: {_state(ending)}"
    came = f"; {_state(ending)}" if not is_good else ""
    return f"{seen}; {plan}{came}"


def _never_struck(ending: Ending) -> str:
    step = ending.wanted_step
    what = "the program did not begin" if step is None else f"the run did not come to step {step}"
    return f"it never struck: {what}: {_state(ending)}"


def _where(struck: Struck) -> str:
    return "struck" if struck.step is None else f"struck at step {struck.step}"


def _state(ending: Ending) -> str:
    if ending.late_s is not None:
        return f"{ending.state.words} after {duration(ending.late_s)}"
    return f"the run is {ending.state.words}"

"""What `show`, `ls` and `watch` tell of a run, as plain data with the keys that --json promises."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hpckit.checkpoint.lineage import believed
from hpckit.clock import iso, seconds_of
from hpckit.heal.changes import asked
from hpckit.heal.in_force import params_in_force, plans_in_force
from hpckit.heal.plan import Plan
from hpckit.ledger import Event, is_by_hand
from hpckit.limits import attempt_hours, hours_used, left_s, no_more, unit_name, units
from hpckit.run import Attempt, Run, launches_in
from hpckit.status.live import total_of
from hpckit.status.pace import Pace
from hpckit.status.state import Facts, State, states_of
from hpckit.status.steps import Stretch, incidents, steps_done, stretches, unsaved
from hpckit.worker.outcome import TERMINATED

if TYPE_CHECKING:
    from hpckit.monitor.reading import Reading
    from hpckit.spec import JobSpec
    from hpckit.status.queue_cache import QueueCache

# So many of the last readings say what a training looks like now.
LOOKED_AT = 100
SHOWN = ("train/loss",)
SHOWN_OF_EACH = ("grad/norm/", "grad/clip/", "train/loss/")


def show(run: Run, cache: QueueCache | None) -> dict[str, Any]:
    """One run, whole."""
    facts, state = states_of([run], cache)[0]
    return describe(facts, state)


def describe(facts: Facts, state: State) -> dict[str, Any]:
    """A run's facts and state as `show --json` gives them."""
    run = facts.run
    spec = run.spec()
    hour_units = units(spec)
    alive = facts.attempts[-1].number if facts.attempts and state.state == "running" else None
    used = hours_used(facts.attempts, hour_units, alive)
    steps = stretches(facts.attempts, facts.events)
    checkpoints = _checkpoints(run)
    told = [_attempt(each, state, facts, hour_units, steps) for each in facts.attempts]
    lost = sum(each["lost"] for each in told)
    step = _step(facts.attempts, steps)
    readings = _readings_since(facts.attempts, _went_on(facts.events))
    return {
        "run": run.id,
        "name": run.name,
        "dir": str(run.dir),
        "state": state.state,
        "reason": state.reason,
        "created": run.created,
        "scheduler": run.scheduler,
        "params": run.params,
        "varied": list(run.varied),
        "params_now": _params_now(facts),
        "asked": [] if state.is_final else [_wish(event) for event in _open_wishes(facts)],
        "step": step,
        "total_steps": total_of(readings),
        "done_about": _done_about(state, readings),
        "exit_code": state.exit_code,
        "gpu_hours": {
            "used": round(used, 3),
            "lost": round(lost, 6),
            "limit": spec.limits.gpu_hours,
            "unit": unit_name(spec),
        },
        "next": state.next,
        "ends_by": _ends_by(run, spec, state, used),
        "attempts_left": 0 if state.is_final else facts.attempts_left,
        "limit_reached": no_more(run) if state.is_final else None,
        "attempts": told,
        "waited_s": round(_waited_s(facts, told), 1),
        "now": now(readings),
        "incidents": incidents(
            facts.events,
            came_to=_came_to(state, step, readings),
            is_over=state.is_final,
            confirm_steps=spec.checkpoint.confirm_steps,
        ),
        "unsaved": unsaved(facts.events, checkpoints),
        "checkpoints": checkpoints,
    }


def _ends_by(run: Run, spec: JobSpec, state: State, used: float) -> str | None:
    """When its job or its limits end what runs."""
    if state.ends_by is None:
        return None
    now = time.time()
    return iso(min(seconds_of(state.ends_by), now + left_s(run, spec, used, now)))


def _done_about(state: State, readings: Sequence[Reading]) -> str | None:
    """When the last step that is wanted will be done, if it goes on as it does now."""
    total, pace = total_of(readings), Pace()
    for reading in readings:
        pace.add(reading.step, reading.time)
    if state.state != "running" or total is None or not readings[-1].time:
        return None
    left_s = pace.left_s(max(0, total - readings[-1].step - 1))
    return None if left_s is None else iso(readings[-1].time + left_s)


def _step(attempts: list[Attempt], steps: dict[int, Stretch] | None = None) -> int | None:
    """Steps that are done, or the last one that a log told of; None without readings."""
    done = next((n for each in reversed(attempts) if (n := steps_done(each)) is not None), None)
    if done is None:
        return None
    is_counted = any(each.begin is not None for each in (steps or {}).values())
    return done if is_counted else done - 1


def _open_wishes(facts: Facts) -> list[Event]:
    """The restarts by hand since the newest attempt began."""
    begun = len(facts.attempts)
    return [each for each in facts.events if is_by_hand(each) and each.data.get("after") == begun]


def _wish(event: Event) -> dict[str, Any]:
    changes = ""
    # What another version wrote may make no sense here, and must not hide the rest.
    with contextlib.suppress(Exception):
        changes = asked(Plan.from_json(event.data["plan"]))
    return {"time": event.time, "checkpoint": event.data.get("checkpoint"), "changes": changes}


def _params_now(facts: Facts) -> dict[str, Any]:
    """The parameters with all that was changed by now, but for what still waits."""
    waits = _open_wishes(facts)
    # What makes no sense must not hide the rest.
    with contextlib.suppress(Exception):
        events = believed([event for event in facts.events if event not in waits])
        return params_in_force(facts.run.params, plans_in_force(events))
    return facts.run.params


def _came_to(state: State, step: int | None, readings: Sequence[Reading]) -> float:
    """The steps that were done since the training last went on.

    Of a program that tells no steps it is known only that it runs on, or was done.
    """
    if state.state == "done" or (step is None and state.state == "running"):
        return math.inf
    return readings[-1].step + 1 if readings else -math.inf


def _went_on(events: Sequence[Event]) -> float:
    """When the training last went on from a state of before, or ended."""
    kinds = ("resumed", "rollback", "restart")
    times = [seconds_of(e.time) for e in events if e.kind in kinds and not is_by_hand(e)]
    return max(times, default=0.0)


def _waited_s(facts: Facts, told: Sequence[dict[str, Any]]) -> float:
    """How long nothing of the run ran though it was submitted, up to its newest attempt."""
    waited, since = 0.0, seconds_of(facts.run.created)
    submitted = [seconds_of(event.time) for event in facts.events if event.kind == "submit"]
    for each in told:
        if each["started"] is None:
            continue
        started = seconds_of(each["started"])
        # What was done, stopped or left to a guard waited for nobody but a person.
        since = max([since, *(time for time in submitted if time <= started)])
        waited += max(0.0, started - since)
        since = seconds_of(each["ended"]) if each["ended"] else float("inf")
    return waited


def now(readings: Sequence[Reading]) -> dict[str, float]:
    """What the training looks like by its last readings: medians of loss, norm, and clipping."""
    return _medians(readings[-LOOKED_AT:])


def _readings_since(attempts: Sequence[Attempt], since: float) -> list[Reading]:
    """The newest ones, without those from before the training last went on."""
    for attempt in reversed(attempts):
        for folder in reversed(launches_in(attempt.dir / "readings")):
            # Only a run that is watched pays for it.
            from hpckit.monitor.readings.reader import last_readings

            with contextlib.suppress(OSError):
                if found := last_readings(folder):
                    return [each for each in found if (each.time or since) >= since]
    return []


def _medians(readings: Sequence[Reading]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for reading in readings:
        for name, value in reading.values.items():
            if name in SHOWN or name.startswith(SHOWN_OF_EACH):
                values.setdefault(name, []).append(value)
    found = {name: statistics.median(each) for name, each in values.items()}
    for name, each in values.items():
        if name.startswith("grad/clip/"):
            found[name] = sum(value < 1 for value in each) / len(each)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _checkpoints(run: Run) -> list[dict[str, Any]]:
    """What it has saved, newest last; a folder that cannot be read must not hide the rest."""
    from hpckit.checkpoint.listing import listing
    from hpckit.checkpoint.store import Store

    with contextlib.suppress(OSError):
        return listing(Store.of_run(run.dir))
    return []


def _attempt(
    attempt: Attempt, state: State, facts: Facts, hour_units: int, steps: dict[int, Stretch]
) -> dict[str, Any]:
    about, ended = attempt.about(), attempt.ended()
    is_last = attempt is facts.attempts[-1]
    live = ended is None and is_last and state.state == "running"
    hours = attempt_hours(attempt, hour_units, live)
    return {
        "number": attempt.number,
        "job_id": about.get("job_id"),
        "node": about.get("node"),
        "state": "ended" if ended or state.is_final or not is_last else state.state,
        "started": about.get("started"),
        "ended": ended.get("ended") if ended else None,
        "reason": _reason(ended, state, is_last),
        "program": ended.get("program") if ended else None,
        "changes": steps[attempt.number].changes,
        "from_step": steps[attempt.number].begin,
        "to_step": steps[attempt.number].end,
        "hours": round(hours, 3),
        "lost": round(steps[attempt.number].lost_share * hours, 6),
        "dir": str(attempt.dir),
    }


def _reason(ended: dict[str, Any] | None, state: State, is_last: bool) -> str | None:
    """Why an attempt ended; the last one's own word may be less than what is known of the run."""
    if is_last and state.is_final and (ended is None or ended.get("reason") == TERMINATED):
        return state.reason
    return ended.get("reason") if ended else None


def row(facts: Facts, state: State) -> dict[str, Any]:
    """One line of `ls`: what can be told without opening the spec."""
    about = facts.attempts[-1].about() if facts.attempts else {}
    ended = facts.attempts[-1].ended() if facts.attempts else None
    return {
        "run": facts.run.id,
        "name": facts.run.name,
        "dir": str(facts.run.dir),
        "state": state.state,
        "reason": state.reason,
        "created": facts.run.created,
        "attempts": len(facts.attempts),
        "job_id": about.get("job_id") or (state.next or {}).get("job_id"),
        "node": about.get("node"),
        "started": about.get("started"),
        "ended": ended.get("ended") if ended else None,
        "params": facts.run.params,
        "expected": (state.next or {}).get("expected"),
    }


def sweep_row(run: Run, points: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of `ls` for a whole sweep."""
    counts: dict[str, int] = {}
    for point in points:
        counts[point["state"]] = counts.get(point["state"], 0) + 1
    ended = [point["ended"] for point in points if point["ended"]]
    return {
        "run": run.id,
        "name": run.name,
        "dir": str(run.dir),
        "state": sweep_state(counts),
        "reason": ", ".join(f"{count} {state}" for state, count in sorted(counts.items())),
        "created": run.created,
        "attempts": sum(point["attempts"] for point in points),
        # The array's; a sweep that was split has more, its points tell them.
        "job_id": next((p["job_id"].partition("_")[0] for p in points if p["job_id"]), None),
        "node": None,
        "started": min((p["started"] for p in points if p["started"]), default=None),
        "ended": max(ended, default=None) if len(ended) == len(points) else None,
        "params": run.params,
        "points": len(points),
        "counts": counts,
    }


def sweep_state(counts: dict[str, int]) -> str:
    """A sweep is what its liveliest point is; ended, it is what its worst point is."""
    order = ("running", "healing", "pending", "unknown", "failed", "stopped", "cancelled", "done")
    return next((state for state in order if counts.get(state)), "unknown")

"""The verdict on a run: what went wrong, since when, in what, what was done, and what it cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hpckit.monitor.incident import number
from hpckit.paint import harmless
from hpckit.report.changed import summed
from hpckit.report.words import Told, count, enumeration, redone
from hpckit.spec.parts import INFRASTRUCTURE

HAPPENED = {
    "explosion": "Gradients exploded",
    "non_finite": "Gradients were not finite",
    "loss_lost": "The loss was lost",
    "crash": "The program crashed",
    "hang": "The program hung",
    "out_of_memory": "Memory ran out",
    "node_failure": "A node was lost",
    "preemption": "The job was preempted",
    "time_limit": "The time limit was reached",
}
STATES = {
    "done": "Done.",
    "pending": "Waiting to start.",
    "running": "Running.",
    "healing": "Between two attempts.",
    "stopped": "Stopped by hpckit.",
    "failed": "Failed.",
    "cancelled": "Cancelled.",
    "unknown": "Nobody knows what became of it.",
}
MOST_STEPS = 4
STRUCTURAL = "structural: "
TRIED = re.compile(r": \w+ at step \d")
LISTED = re.compile(r" \([^()]*step \d[^()]*\)")


def verdict(told: Told) -> str:
    """The whole of it, for somebody who never saw the run."""
    acted = [each for each in told["incidents"] if each["plan"] not in (None, "tell", "skip")]
    groups: dict[str, list[Told]] = {}
    for each in acted:
        groups.setdefault(str(each["kind"]), []).append(each)
    parts = [_state(told)]
    for group in groups.values():
        parts += [_happened(group), *_done(group, told, ends=acted[-1] in group)]
    if told["state"] in ("failed", "stopped", "unknown", "cancelled"):
        parts += _why(told, acted)
    if (lost := sum(redone(each) for each in acted if each["applied"])) > 0:
        parts.append(f"{count(lost)} step{'s were' if lost != 1 else ' was'} done again.")
    if not acted and told["state"] == "done":
        parts.append("Nothing went wrong that needed help.")
    if not acted and told["state"] == "running":
        parts.append("Nothing has gone wrong so far.")
    return harmless(" ".join(parts))


def _state(told: Told) -> str:
    if told["state"] == "running" and told["step"] is not None:
        return f"Running, at step {count(told['step'])}."
    return STATES.get(told["state"], f"{told['state'].capitalize()}.")


def _happened(group: Sequence[Told]) -> str:
    """All incidents of a kind in a sentence."""
    kind = str(group[0]["kind"])
    said = HAPPENED.get(kind, f"There was {kind.replace('_', ' ')}")
    times = f" {_times(len(group))}{',' * bool(_at(group))}" if len(group) > 1 else ""
    found = [each["parameter"] for each in group if each["parameter"] is not None]
    where = f", {'first ' if len(set(found)) > 1 else ''}in {found[0]}" if found else ""
    return f"{said}{times}{_at(group)}{_how_bad(group)}{where}."


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _at(group: Sequence[Told]) -> str:
    found = [count(each["step"]) for each in group if each["step"] is not None]
    steps = list(dict.fromkeys(found))
    if not steps:
        return ""
    if len(steps) > MOST_STEPS:
        return f" between steps {steps[0]} and {steps[-1]}"
    return f" at step{'s' if len(steps) > 1 else ''} {enumeration(steps)}"


def _how_bad(group: Sequence[Told]) -> str:
    """How large the norm was, and since when it grew."""
    found = [times for each in group if (times := _times_usual(each)) is not None]
    if not found:
        return ""
    upto = "up to " if len(found) > 1 else ""
    parts = [f"{upto}{number(max(found))} times the usual norm"]
    if group[0]["onset"] is not None and group[0]["onset"] < (group[0]["step"] or 0):
        parts.append(f"growing since step {count(group[0]['onset'])}")
    return f" ({', '.join(parts)})"


def _times_usual(each: Told) -> float | None:
    """None where there is no norm, or where it is no number."""
    value, usual = each["value"], each["usual"]
    if each["kind"] != "explosion" or not all(isinstance(v, (int, float)) for v in (value, usual)):
        return None
    return float(value / usual) if usual > 0 else None


def _done(group: Sequence[Told], told: Told, *, ends: bool) -> list[str]:
    """What was done about it, and where it is the last of all, what came of that."""
    applied = [each for each in group if each["applied"]]
    if not applied:
        asked = [each["plan_sentence"] for each in group if each["plan"] != "stop"]
        return [f"hpckit asked to {asked[-1]}."] if asked and asked[-1] else []
    went = _went(applied, len(group))
    clauses = [went, *summed(change for each in applied for change in each["changed"])]
    came = _came_of_it(applied, told, is_last=ends)
    return [f"hpckit {enumeration(clauses)}{came}."]


def _went(applied: Sequence[Told], number: int) -> str:
    went = "went on" if applied[-1]["kind"] in INFRASTRUCTURE else "went back"
    if len(applied) == 1:
        way = "from" if went == "went on" else "to"
        return f"{went} {way} step {count(applied[0]['resumed_step'])}"
    if len(applied) < number:
        return f"{went} {_times(len(applied))}"
    return f"{went} {'both times' if number == 2 else 'each time'}"


def _came_of_it(applied: Sequence[Told], told: Told, *, is_last: bool) -> str:
    last = applied[-1]
    came_back = [each["came_back"] is not None or each["healed"] is False for each in applied]
    if came_back[-1]:
        return f", but it came back{' each time' if len(applied) > 1 and all(came_back) else ''}"
    if not is_last:
        return ""
    if last["healed"] is None:
        return "; it is too early to say whether that helped"
    if told["state"] == "done":
        return ", and the training finished"
    since = (told["step"] or 0) - max(last["step"] or 0, last["resumed_step"] or 0)
    return f", and it has been well for {count(since)} steps since" if since > 0 else ""


def _why(told: Told, acted: Sequence[Told]) -> list[str]:
    stopped = [each for each in acted if each["plan"] == "stop" and each["plan_sentence"]]
    if not stopped:
        reason = str(told["reason"] or "")
        return [] if reason in ("", told["state"]) else [f"Why: {reason.rstrip('.')}."]
    why = str(stopped[-1]["plan_sentence"]).removeprefix("stop: ")
    if why.startswith(STRUCTURAL):
        return _structural(acted)
    return [f"It was stopped: {_in_short(why)}."]


def _structural(acted: Sequence[Told]) -> list[str]:
    """That it is the program's own, and which of its lines, where that was seen."""
    seen = [each["division"] for each in acted if _is_whole(each["division"])]
    said = "No clip and no learning rate heals that."
    if not seen:
        return [f"{said} Look beside this parameter for a division by something that shrinks."]
    about = seen[-1]
    least, most = (number(float(about[each])) for each in ("smallest", "largest"))
    return [
        f"{said} Look at the division beside this parameter: {about['line']}, {about['place']}, "
        f"divided by as little as {least} and gave as much as {most}. "
        "Bound it: a clamp on the quotient, or a floor under the divisor."
    ]


def _is_whole(division: Any) -> bool:
    """What another version wrote may make no sense here."""
    return isinstance(division, dict) and division.keys() >= {
        "place",
        "line",
        "smallest",
        "largest",
    }


def _in_short(sentence: str) -> str:
    """Without all that was tried, which the table below has, too; two sentences of it."""
    cut = TRIED.split(LISTED.sub("", sentence))[0]
    return ". ".join(cut.split(". ")[:2]).rstrip(".")

"""The verdict on a run in plain words: what it did, what happened, and what was done about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from hpckit.clock import seconds_of
from hpckit.paint import duration, harmless
from hpckit.spec.parts import INFRASTRUCTURE

Told = dict[str, Any]
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
# A number with more digits than a person reads.
TRIED = re.compile(r": \w+ at step \d")
LISTED = re.compile(r" \([^()]*step \d[^()]*\)")
LONG = re.compile(r"(?<![\w.])\d+\.\d{4,}(?:e-?\d+)?(?![\w.])")


def verdict(told: Told) -> str:
    """The whole of it, for somebody who never saw the run."""
    acted = [each for each in told["incidents"] if each["plan"] not in (None, "tell", "skip")]
    stopped = [each for each in acted if each["plan"] == "stop"]
    parts = [STATES.get(told["state"], f"{told['state'].capitalize()}.")]
    if told["state"] == "running" and told["step"] is not None:
        parts = [f"Running, at step {count(told['step'])}."]
    ordered = sorted((e for e in acted if e["plan"] != "stop"), key=lambda each: str(each["kind"]))
    groups = [list(group) for _, group in groupby(ordered, key=lambda each: each["kind"])]
    for group in sorted(groups, key=lambda group: str(group[0]["time"])):
        parts.append(_of_kind(group, told))
    if told["state"] in ("failed", "stopped", "unknown", "cancelled"):
        parts += _why(told, stopped)
    if not acted and told["state"] == "done":
        parts.append("Nothing went wrong that needed help.")
    if not acted and told["state"] == "running":
        parts.append("Nothing has gone wrong so far.")
    return harmless(" ".join(parts))


def _of_kind(group: Sequence[Told], told: Told) -> str:
    """All incidents of a kind in a sentence."""
    kind = str(group[0]["kind"])
    first = group[0]
    said = HAPPENED.get(kind, f"There was {kind.replace('_', ' ')}")
    said = f"{said} {_times(len(group))}{_at(group)}"
    if first["parameter"] is not None:
        same = all(each["parameter"] == first["parameter"] for each in group)
        said += f", {'' if same else 'first '}in {first['parameter']}"
    return f"{said}; {_done(group, told)}."


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _at(group: Sequence[Told]) -> str:
    found = [count(each["step"]) for each in group if each["step"] is not None]
    steps = list(dict.fromkeys(found))
    if not steps:
        return ""
    if len(steps) > MOST_STEPS:
        return f", between steps {steps[0]} and {steps[-1]}"
    return f", at step{'s' if len(steps) > 1 else ''} {enumeration(steps)}"


def _done(group: Sequence[Told], told: Told) -> str:
    """What was done about it, and what came of that."""
    applied = [each for each in group if each["applied"]]
    if not applied:
        asked = group[-1]["plan_sentence"]
        return f"hpckit asked to {asked}" if asked else "nothing was done about it yet"
    last = applied[-1]
    went = "went on from" if last["kind"] in INFRASTRUCTURE else "went back to"
    steps = [count(each["resumed_step"]) for each in applied[:MOST_STEPS]]
    more = " and so on" if len(applied) > MOST_STEPS else ""
    said = f"hpckit {went} step{'s' if len(applied) > 1 else ''} {enumeration(steps)}{more}"
    changed = [change for each in applied for change in each["changed"]]
    if changed:
        said += f" with {enumeration([arrows(change) for change in changed])}"
    lost = sum(redone(each) for each in applied)
    again = f"; {count(lost)} step{'s were' if lost != 1 else ' was'} done again" if lost else ""
    return f"{said}{_came_of_it(last, told)}{again}"


def arrows(change: str) -> str:
    """A change as one reads it: `lr 0.000741181 -> 0.00037059` has more digits than matter."""
    return LONG.sub(lambda found: f"{float(found[0]):.3g}", change).replace(" -> ", " → ")


def redone(incident: Told) -> int:
    """Steps that were done, and given up by going back."""
    step, resumed = incident["step"], incident["resumed_step"]
    if step is None or resumed is None:
        return 0
    # The step of an incident was done; of a program's end it is told how many were done.
    done = step if incident["kind"] in INFRASTRUCTURE else step + 1
    return int(max(0, done - resumed))


def _came_of_it(last: Told, told: Told) -> str:
    if last["healed"] is None:
        return ", and it is too early to say whether that helped"
    if not last["healed"]:
        return ", and it came back"
    if told["state"] == "done":
        return ", and it finished"
    since = (told["step"] or 0) - max(last["step"] or 0, last["resumed_step"] or 0)
    return f", and it has been well for {count(since)} steps since" if since > 0 else ""


def _why(told: Told, stopped: Sequence[Told]) -> list[str]:
    if stopped and stopped[-1]["plan_sentence"]:
        why = _in_short(str(stopped[-1]["plan_sentence"]).removeprefix("stop: "))
        last = stopped[-1]
        where = f" in {last['parameter']}" if last["parameter"] else ""
        kind = str(last["kind"]).replace("_", " ")
        at = f" at step {count(last['step'])}" if last["step"] is not None else ""
        return [f"The last one was {_a(kind)}{where}{at}: {why}."]
    reason = str(told["reason"] or "")
    return [] if reason in ("", told["state"]) else [f"Why: {reason.rstrip('.')}."]


def _in_short(sentence: str) -> str:
    """Without all that was tried, which the table below has, too; two sentences of it."""
    cut = TRIED.split(LISTED.sub("", sentence))[0]
    return ". ".join(cut.split(". ")[:2]).rstrip(".")


def _a(word: str) -> str:
    return f"an {word}" if word[:1] in "aeiou" else f"a {word}"


def enumeration(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def count(value: Any) -> str:
    """A count with room between its thousands."""
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else str(value)


def cause(incident: Told) -> str:
    """Whose fault it was, by which it has its colour."""
    return "machine" if incident["kind"] in INFRASTRUCTURE else "numeric"


def amount(value: float) -> str:
    """Hours, and the like, at a glance."""
    return f"{value:.3g}" if value < 1000 else count(round(value))


def took(told: Told, now: float) -> str:
    """From the first attempt's start to the last one's end."""
    started = [each["started"] for each in told["attempts"] if each["started"]]
    if not started:
        return "-"
    last = told["attempts"][-1]
    ended = seconds_of(last["ended"]) if last["ended"] else now
    return duration(max(0.0, ended - seconds_of(started[0])))

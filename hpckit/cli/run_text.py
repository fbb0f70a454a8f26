"""A run as a person reads it after a bad night: what it does, what happened, what is to be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from hpckit.cli.params_text import params_text
from hpckit.clock import local_words
from hpckit.paint import duration, harmless, paint, spaced, table
from hpckit.scheduler.base import Cause
from hpckit.settings import typed
from hpckit.spec.parts import INFRASTRUCTURE
from hpckit.status.state import CANCEL_AGAIN, FOREGROUND

Told = dict[str, Any]
# Incidents that a person is shown; --json has all.
MOST_INCIDENTS = 8
MOST_CHECKPOINTS = 6
# Steps before an incident within which what was told was the beginning of it.
FIRST_SIGNS = 64
# A reason in the table is a word or two; the incident beneath it has the rest.
LONGEST_REASON = 40
# One of a kind, and several; what was healed, and what just happens to a job.
HEALED = {
    "explosion": ("explosion", "explosions"),
    "non_finite": ("non-finite gradient", "non-finite gradients"),
    "loss_lost": ("lost loss", "lost losses"),
    "crash": ("crash", "crashes"),
    "hang": ("hang", "hangs"),
    "out_of_memory": ("want of memory", "wants of memory"),
}
BECAME = {True: " healed", None: " not healed yet", False: " not healed"}
HAPPENED = {
    "node_failure": ("node lost", "nodes lost"),
    "bad_node": ("bad node", "bad nodes"),
    "preemption": ("preemption", "preemptions"),
    "time_limit": ("time limit", "time limits"),
}


def run_text(told: Told) -> str:
    """All about one run, the most important first."""
    lines = [_head(told)]
    if told["reason"] not in ("", told["state"]):
        lines += [harmless(told["reason"])]
    lines += summary(told)
    lines += [wish_text(each, told) for each in told["asked"]]
    if told["unsaved"]:
        lines.append(unsaved_text(told["unsaved"], told["checkpoints"]))
    if told["attempts"]:
        lines += ["", attempts_table(told)]
    lines += _incidents(told)
    lines += ["", *_facts(told)]
    if told["checkpoints"]:
        lines += ["", _checkpoints(told["checkpoints"])]
    lines += _last_words(told)
    return "\n".join(lines)


def _head(told: Told) -> str:
    head = [paint(told["run"], "bold"), paint(told["state"].upper(), told["state"])]
    if told["step"] is not None:
        head.append(steps_text(told["step"], told["total_steps"]))
    if told["attempts"]:
        last = told["attempts"][-1]
        job, node = last["job_id"] or "-", last["node"] or "-"
        head.append(f"attempt {last['number']}, job {job}, {node}")
    return "   ".join(head)


def steps_text(step: int, total: int | None) -> str:
    """How far it is, and how far it goes where that is known."""
    return f"step {spaced(step)}" + (f" of {spaced(total)}" if total else "")


def summary(told: Told) -> list[str]:
    """What happened so far in a sentence, and whether anybody has to do anything."""
    parts = [", ".join(_events(told)) + "."] if _events(told) else []
    healthy = _healthy(told)
    if parts and healthy:
        parts.append(f"Healthy for {spaced(healthy)} steps.")
    to_do = _to_do(told)
    if to_do and (parts or told["state"] not in ("running", "pending")):
        parts.append(to_do)
    return [f"So far: {' '.join(parts)}" if _events(told) else " ".join(parts)] if parts else []


def wish_text(wish: Told, told: Told) -> str:
    """A restart that a person has asked for, and that has not begun."""
    parts = [f"from {wish['checkpoint'] or 'the newest state that is sound'}"]
    parts += [wish["changes"]] if wish["changes"] else []
    running = told["state"] == "running" and told["attempts"]
    waits = f"when attempt {told['attempts'][-1]['number']} has ended" if running else "waits"
    return harmless(f"asked: restart, {local_words(wish['time'])}: {', '.join(parts)}: {waits}")


def _events(told: Told) -> list[str]:
    applied = [each for each in told["incidents"] if each["applied"]]
    healed = Counter(each["kind"] for each in applied if each["kind"] not in HAPPENED)
    found = []
    for kind in sorted(healed, key=[*HEALED, *healed].index):
        words = HEALED.get(kind, (kind, kind))
        answers = Counter(each["healed"] for each in applied if each["kind"] == kind)
        if answers[None]:
            # Of one that came back it is not known yet, either: its second remedy is in force.
            answers[None] += answers.pop(False, 0)
        for answer, said in BECAME.items():
            number = answers[answer]
            found += [f"{number} {words[number > 1]}{said}"] if number else []
    happened = Counter(_happened(each) for each in applied)
    # A plain limit of time is no incident; the attempt's end tells of it.
    happened["time_limit"] = sum(each["reason"] == "time limit" for each in told["attempts"])
    return found + [
        f"{number} {words[number > 1]}"
        for kind, words in HAPPENED.items()
        if (number := happened[kind])
    ]


def _happened(each: Told) -> str:
    """A node that its program complained of was not lost."""
    is_bad_node = each["kind"] == "node_failure" and not _is_plain(each)
    return "bad_node" if is_bad_node else str(each["kind"])


def _is_plain(each: Told) -> bool:
    """Whether the scheduler's word for an end is all that was said of it: the kind has said it."""
    return each["kind"] in HAPPENED and each["sentence"] in set(Cause)


def _healthy(told: Told) -> int:
    """Steps since anything that was acted on, where that has healed it."""
    acted = [each for each in told["incidents"] if is_acted_on(each)]
    if not acted or not acted[-1]["healed"]:
        return 0
    return max(0, (told["step"] or 0) - max(each["step"] or 0 for each in acted))


def _to_do(told: Told) -> str:
    run = typed(told["run"], told["dir"])
    ended = told["state"] in ("stopped", "failed")
    if told["reason"] == CANCEL_AGAIN:
        return f"For you to do: hpckit cancel {run}, once Slurm answers."
    if ended and told["limit_reached"]:
        return f"For you to do: hpckit submit --from {run} for a new run, or let it be."
    if ended and told["scheduler"] == FOREGROUND:
        return f"For you to do: see why, then hpckit run --from {run}, or let it be."
    return {
        "running": "Nothing for you to do.",
        "pending": "Nothing for you to do.",
        "healing": f"For you to do: hpckit guard {run}",
        "stopped": f"For you to do: see why, then hpckit restart {run} --set ..., or let it be.",
        "failed": f"For you to do: see why, then hpckit restart {run}, or let it be.",
    }.get(told["state"], "")


def attempts_table(told: Told) -> str:
    unit = told["gpu_hours"]["unit"]
    rows = [
        (
            str(each["number"]),
            str(each["job_id"] or "-"),
            str(each["node"] or "-"),
            _steps(each),
            local_words(each["started"]),
            local_words(each["ended"]) if each["ended"] else each["state"],
            _because(each, told["incidents"]),
            f"{each['hours']:.3g}",
            f"{each['lost']:.2g}" if each["lost"] else "0",
            ", ".join(each["changes"]) or "-",
        )
        for each in told["attempts"]
    ]
    head = ("#", "job", "node", "steps", "started", "ended", "because", unit, "lost", "changed")
    return table(head, rows, right=(0, 7, 8))


def _steps(attempt: Told) -> str:
    begin, end = attempt["from_step"], attempt["to_step"]
    if begin is None and end is None:
        return "-"
    return f"{spaced(begin or 0)} -> {'' if end is None else spaced(end)}".rstrip()


def _because(attempt: Told, incidents: Sequence[Told]) -> str:
    """Why it ended, in a word or two."""
    reason = harmless(str(attempt["reason"] or ""))
    mine = [each for each in incidents if each["attempt"] == attempt["number"] and each["plan"]]
    if mine and len(reason) > LONGEST_REASON:
        return str(mine[-1]["kind"]).replace("_", " ")
    return reason if len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 3] + "..."


def _incidents(told: Told) -> list[str]:
    """What was acted on, a block each, and what was only told, a line each."""
    found = without_first_signs(told["incidents"])
    shown = found if len(found) <= MOST_INCIDENTS else [found[0], *found[1 - MOST_INCIDENTS :]]
    lines: list[str] = []
    for number, each in enumerate(shown):
        if number == 1 and len(found) > len(shown):
            lines += ["", f"... {len(found) - len(shown)} more: hpckit show --json has all"]
        block = _block(each, told["reason"])
        lines += ["", *block] if is_acted_on(each) else _line(each, lines)
    if lines and told["now"] and not told["exit_code"]:
        lines += [f"  since: {_now(told['now'])}"]
    return lines


def without_first_signs(incidents: Sequence[Told]) -> list[Told]:
    """Without what was only told shortly before something was done about it: that tells it all."""
    acted = [(each["attempt"], each["step"] or 0) for each in incidents if is_acted_on(each)]
    return [
        each
        for each in incidents
        if is_acted_on(each)
        or not any(
            attempt == each["attempt"] and 0 <= step - (each["step"] or 0) <= FIRST_SIGNS
            for attempt, step in acted
        )
    ]


def is_acted_on(each: Told) -> bool:
    return each["plan"] not in (None, "tell", "skip")


def _line(each: Told, before: Sequence[str]) -> list[str]:
    where = f"told: step {spaced(each['step'])}, attempt {each['attempt']}: {each['kind']}: "
    gap = [] if before and before[-1].startswith("told: ") else [""]
    return [*gap, harmless(f"{where}{each['sentence'] or ''}")]


def _block(each: Told, reason: str) -> Iterator[str]:
    kind = str(each["kind"]).replace("_", " ")
    when = local_words(each["time"])
    title = f"Incident, step {spaced(each['step'])}, attempt {each['attempt']}, {when}: {kind}"
    yield paint(title, "warning")
    said = str(each["sentence"] or "")
    answer = what_was_done(each)
    is_told = _is_plain(each) or (each["plan"] == "stop" and said in answer)
    for part in () if is_told else said.split("; "):
        yield f"  {harmless(part)}"
    yield "  asked: stop" if answer == f"asked: stop: {reason}" else f"  {harmless(answer)}"
    if each["plan"] == "stop":
        yield from (f"    {harmless(line)}" for line in each["lines"])


def what_was_done(each: Told) -> str:
    """What was asked for, and whether it was done."""
    if not each["applied"]:
        return f"asked: {each['plan_sentence']}"
    is_machine = each["kind"] in INFRASTRUCTURE
    went = "went on from" if is_machine else "back to"
    parts = [f"{went} step {spaced(each['resumed_step'])}", *each["changed"]]
    if each["came_back"] is not None:
        came = f"came back at step {spaced(each['came_back'])}"
    elif each["healed"] is False:
        came = "came no further"
    else:
        done = "done" if each["healed"] else "not yet further"
        came = done if is_machine else "applied, in force"
    return f"{', '.join(parts)}: {came}"


def _now(now: dict[str, float]) -> str:
    words = []
    for name, value in now.items():
        *_, last = name.split("/")
        of = "" if last in ("main", "loss") else f" of {last}"
        if name.startswith("grad/norm/"):
            words.append(f"norm{of} {value:.3g}")
        elif name.startswith("grad/clip/"):
            words += [f"{value:.0%} of steps{of} clipped"] if value else []
        else:
            words.append(f"loss{of} {value:.3g}")
    return ", ".join(words)


def _facts(told: Told) -> list[str]:
    hours = told["gpu_hours"]
    used = f"{hours['used']:.3g} of {hours['limit']:g} used"
    if hours["lost"]:
        used += f", {hours['lost']:.2g} lost"
    if told["waited_s"] >= 60:
        used += f"; {duration(told['waited_s'])} in the queue"
    params = params_text(told)
    lines = [f"{hours['unit']:<7} {used}"]
    if told["exit_code"] is None:
        lines.append(f"next    {_next(told)}")
    lines += [f"folder  {told['dir']}", f"since   {local_words(told['created'])}"]
    return [*lines, f"params  {params}"] if params else lines


def _next(told: Told) -> str:
    left = f"{told['attempts_left']} attempts left"
    if told["next"]:
        coming = told["next"]
        expected = coming["expected"]
        when = f", expected {local_words(expected)}" if expected else ""
        return f"job {coming['job_id']}: {coming['reason'] or 'waiting'}{when}; {left}"
    ends = ", ".join(words for words in (_done_about(told), _ends_by(told)) if words)
    return f"{ends}; {left}" if ends else left


def _is_in_time(told: Told) -> bool:
    """Whether this attempt will see the training's end."""
    return not told["ends_by"] or bool(told["done_about"] <= told["ends_by"])


def _done_about(told: Told) -> str:
    if not told["done_about"]:
        return ""
    waits = "" if _is_in_time(told) else " if no attempt waits in the queue"
    return f"done about {local_words(told['done_about'])}{waits}"


def _ends_by(told: Told) -> str:
    if not told["ends_by"]:
        return ""
    is_before = told["done_about"] and _is_in_time(told)
    words = "before its limit at" if is_before else "this attempt ends by"
    return f"{words} {local_words(told['ends_by'])}"


def unsaved_text(unsaved: Told, found: Sequence[Told]) -> str:
    """That its last state is on no disk: of a run that is done one would think it is."""
    steps = [each["step"] for each in found if not each["damaged"]]
    newest = f"the newest checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint"
    step, reason = unsaved["step"], unsaved["reason"]
    return harmless(f"unsaved: the state of step {step} could not be written: {reason}; {newest}")


def _checkpoints(found: list[Told]) -> str:
    from hpckit.cli.checkpoint import checkpoint_table

    return checkpoint_table(found, MOST_CHECKPOINTS)


def _last_words(told: Told) -> list[str]:
    from hpckit.logs import last_words

    found = last_words(told)
    if found is None:
        return []
    log, lines = found
    return ["", f"the end of {log}", *(f"  {harmless(line)}" for line in lines)]

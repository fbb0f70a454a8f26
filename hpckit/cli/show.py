"""hpckit show"""

from __future__ import annotations

from typing import Any

import click

from hpckit.cli.options import find_run, json_option, print_json, root_option, run_argument
from hpckit.run import Run

# Incidents that a person is shown; --json has all.
MOST_INCIDENTS = 12
MOST_CHECKPOINTS = 6


@click.command()
@run_argument()
@root_option
@json_option
def show(name: str | None, root: str | None, as_json: bool) -> None:
    """Tell all about one run, a point of a sweep, or a sweep; the latest if none is named."""
    run = find_run(root, name)
    told = describe_sweep(run) if run.is_sweep else describe_run(run)
    if as_json:
        print_json(told)
    elif run.is_sweep:
        print(sweep_text(told))
    else:
        print(run_text(told))


def describe_run(run: Run) -> dict[str, Any]:
    from hpckit.status.index import CacheOf
    from hpckit.status.view import show as view

    return view(run, CacheOf()(run.scheduler))


def describe_sweep(run: Run, settled: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """A sweep and its points; `settled` remembers what has ended from one look to the next."""
    from hpckit.status.index import CacheOf
    from hpckit.status.state import states_of
    from hpckit.status.view import row, sweep_row

    known = {} if settled is None else settled
    runs = run.point_runs()
    asked = [each for each in runs if each.id not in known]
    rows = dict(known)
    for facts, state in states_of(asked, CacheOf()(run.scheduler)):
        rows[facts.run.id] = row(facts, state)
        if facts.final is not None and (rows[facts.run.id]["ended"] or not facts.attempts):
            known[facts.run.id] = rows[facts.run.id]
    points = [rows[each.id] for each in runs]
    return {**sweep_row(run, points), "varied": list(run.varied), "runs": points}


def run_text(told: dict[str, Any]) -> str:
    """A run as a person reads it: what it does, its attempts, what it has used, what is next."""
    from hpckit.clock import local_words
    from hpckit.paint import paint

    head = [paint(told["run"], "bold"), paint(told["state"].upper(), told["state"])]
    if told["step"] is not None:
        head.append(f"step {told['step']}")
    if told["attempts"]:
        last = told["attempts"][-1]
        head.append(f"attempt {last['number']}, job {last['job_id']}, {last['node']}")
    lines = ["   ".join(head)]
    if told["reason"] not in ("", told["state"]):
        lines.append(told["reason"])
    if told["unsaved"]:
        lines.append(_unsaved(told["unsaved"], told["checkpoints"]))
    lines += ["", *_facts(told)]
    if told["attempts"]:
        lines += ["", _attempts(told)]
    if told["incidents"]:
        lines += ["", *_incidents(told["incidents"])]
    if told["checkpoints"]:
        lines += ["", _checkpoints(told["checkpoints"])]
    last_words = _last_words(told)
    if last_words:
        lines += ["", *last_words]
    if told["ends_by"]:
        lines.append(f"limit   this attempt ends by {local_words(told['ends_by'])}")
    if told["next"]:
        lines.append(f"next    job {told['next']['job_id']}: {_waiting(told['next'])}")
    return "\n".join(lines)


def _waiting(coming: dict[str, Any]) -> str:
    from hpckit.clock import local_words

    when = f", expected {local_words(coming['expected'])}" if coming["expected"] else ""
    return f"{coming['reason'] or 'waiting'}{when}"


def _facts(told: dict[str, Any]) -> list[str]:
    from hpckit.clock import local_words
    from hpckit.paint import short

    hours = told["gpu_hours"]
    params = "  ".join(f"{short(key)}={short(value)}" for key, value in told["params"].items())
    used = f"{hours['used']:.3g} of {hours['limit']:g} used"
    if hours["lost"]:
        used += f", {hours['lost']:.3g} lost"
    if told["exit_code"] is None:
        used += f"; {told['attempts_left']} attempts left"
    lines = [f"folder  {told['dir']}", f"since   {local_words(told['created'])}"]
    if params:
        lines.append(f"params  {params}")
    return [*lines, f"{hours['unit']:<7} {used}"]


def _attempts(told: dict[str, Any]) -> str:
    from hpckit.clock import local_words
    from hpckit.paint import table

    rows = [
        (
            str(attempt["number"]),
            str(attempt["job_id"] or "-"),
            str(attempt["node"]),
            _steps(attempt),
            local_words(attempt["started"]),
            local_words(attempt["ended"]) if attempt["ended"] else attempt["state"],
            str(attempt["reason"] or ""),
            ", ".join(attempt["changes"]) or "-",
            f"{attempt['hours']:.3g}",
        )
        for attempt in told["attempts"]
    ]
    unit = told["gpu_hours"]["unit"]
    head = ("#", "job", "node", "steps", "started", "ended", "because", "changed", unit)
    return table(head, rows, right=(0, 8))


def _steps(attempt: dict[str, Any]) -> str:
    begin, end = attempt["from_step"], attempt["to_step"]
    if begin is None and end is None:
        return "-"
    return f"{begin or 0} -> {'' if end is None else end}"


def _incidents(found: list[dict[str, Any]]) -> list[str]:
    """What went wrong, a line each; of many, the first that says how it began and the last ones."""
    from hpckit.paint import harmless

    lines = []
    for each in found:
        where = f"incident  step {each['step']}, attempt {each['attempt']}: {each['kind']}: "
        answer = _answer(each)
        lines.append(harmless(f"{where}{each['sentence'] or ''}{answer}"))
    if len(lines) <= MOST_INCIDENTS:
        return lines
    left_out = len(lines) - MOST_INCIDENTS
    return [lines[0], f"          ... {left_out} more", *lines[1 - MOST_INCIDENTS :]]


def _answer(incident: dict[str, Any]) -> str:
    """What was done about it."""
    if incident["applied"]:
        changed = ", ".join([f"back to step {incident['resumed_step']}", *incident["changed"]])
        return f"; {changed}"
    return f"; asked: {incident['plan_sentence']}" if incident["plan_sentence"] else ""


def _unsaved(unsaved: dict[str, Any], found: list[dict[str, Any]]) -> str:
    """That its last state is on no disk: of a run that is done one would think it is."""
    from hpckit.paint import harmless

    steps = [each["step"] for each in found if not each["damaged"]]
    newest = f"the newest checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint"
    step, reason = unsaved["step"], unsaved["reason"]
    return harmless(f"unsaved: the state of step {step} could not be written: {reason}; {newest}")


def _checkpoints(found: list[dict[str, Any]]) -> str:
    from hpckit.cli.checkpoint import checkpoint_table

    return checkpoint_table(found, MOST_CHECKPOINTS)


def _last_words(told: dict[str, Any]) -> list[str]:
    """The end of the log of what failed: most questions end there."""
    from hpckit.logs import failed_log, tail
    from hpckit.paint import harmless

    if told["state"] != "failed" or not told["attempts"]:
        return []
    log = failed_log(told["attempts"][-1])
    if log is None:
        return []
    return [f"the end of {log}", *(f"  {harmless(line)}" for line in tail(log, 12))]


def sweep_text(told: dict[str, Any]) -> str:
    """A sweep as a table: each point with what is varied."""
    from hpckit.heal.changes import get_path
    from hpckit.paint import paint, short, table

    head = f"{paint(told['run'], 'bold')}   {told['points']} runs: {told['reason']}"
    rows = []
    for point in told["runs"]:
        values = [short(get_path(point["params"], key)) for key in told["varied"]]
        number = point["run"].rpartition("/")[2]
        job = str(point["job_id"] or "-")
        reason = "" if point["reason"] == point["state"] else str(point["reason"] or "")
        rows.append([number, *values, point["state"], job, reason])
    columns = ["point", *told["varied"], "state", "job", "why"]
    body = table(columns, rows, right=(0,), state=len(columns) - 3)
    return f"{head}\nfolder  {told['dir']}\n\n{body}"

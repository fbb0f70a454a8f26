"""What a report lists: changes and their reasons, attempts, hours, checkpoints, spec, machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hpckit.paint import duration, size
from hpckit.report.facts import Facts
from hpckit.report.markup import moment, pairs, table, text
from hpckit.report.words import amount, arrows, because, cause, count, outcome, redone
from hpckit.spec.parts import INFRASTRUCTURE

MOST_CHECKPOINTS = 12
# A progress bar may draw a line of many megabytes.
LONGEST_LINE = 500


def changes(facts: Facts) -> str:
    """What was changed and why: an incident with its answer a line."""
    rows = [
        (
            f'<b class="{cause(each)}">{number}</b>',
            count(each["step"]) if each["step"] is not None else "-",
            _why(each),
            _did(each),
            "<br>".join(text(arrows(change)) for change in each["changed"]) or "-",
            count(redone(each)) if each["applied"] else "-",
            text(outcome(each)),
        )
        for number, each in enumerate(facts.acted, start=1)
    ]
    if not rows and any(each["changes"] for each in facts.told["attempts"]):
        return "<p>What a person changed stands with the attempts; hpckit changed nothing.</p>"
    if not rows:
        return "<p>Nothing was changed.</p>"
    head = ("", "step", "why", "what was done", "changed", "steps again", "outcome")
    return table(head, rows, right=(1, 5), caption="What was changed and why")


def _why(each: dict[str, Any]) -> str:
    kind = str(each["kind"]).replace("_", " ")
    said = [part for part in str(each["sentence"] or "").split("; ") if part not in ("", kind)]
    return "<br>".join((f"<strong>{text(kind)}</strong>", *map(text, said)))


def _did(each: dict[str, Any]) -> str:
    if each["applied"]:
        way = "on from" if each["kind"] in INFRASTRUCTURE else "back to"
        return f"{way} step {count(each['resumed_step'])}"
    return text(each["plan"] or "-")


def attempts(facts: Facts) -> str:
    unit = facts.told["gpu_hours"]["unit"]
    rows = [
        (
            str(each["number"]),
            text(each["job_id"] or "-"),
            text(each["node"] or "-"),
            _steps(each),
            moment(each["started"]),
            moment(each["ended"]) if each["ended"] else text(each["state"]),
            text(because(each, facts.acted) or "-"),
            amount(each["hours"]),
            f"{each['lost']:.2g}" if each["lost"] else "0",
            "<br>".join(text(arrows(str(change))) for change in each["changes"]) or "-",
        )
        for each in facts.told["attempts"]
    ]
    if not rows:
        return "<p>None has begun.</p>"
    head = ("#", "job", "node", "steps", "started", "ended", "because", unit, "lost", "changed")
    return table(head, rows, right=(0, 7, 8), caption="Attempts")


def _steps(each: dict[str, Any]) -> str:
    if each["from_step"] is None and each["to_step"] is None:
        return "-"
    end = "" if each["to_step"] is None else count(each["to_step"])
    return f"{count(each['from_step'] or 0)} → {end}"


def hours(facts: Facts) -> str:
    """Hours used and lost, drawn as one bar, and said."""
    told = facts.told["gpu_hours"]
    used, lost, limit = told["used"], told["lost"], told["limit"]
    unit = text(told["unit"])
    share = min(1.0, lost / used) if used else 0.0
    said = f"<b>{amount(used)} {unit}</b> used"
    said += f", of at most {limit:g}" if limit else ""
    said += (
        f"; <b>{lost:.2g}</b> of them ({share:.0%}) for steps that were given up" if lost else ""
    )
    said += (
        f"; {duration(facts.told['waited_s'])} in the queue" if facts.told["waited_s"] > 60 else ""
    )
    bar = f'<div class="hours" aria-hidden="true"><i style="width:{100 * share:.2f}%"></i></div>'
    return f"<p>{said}.</p>{bar if used else ''}"


def checkpoints(facts: Facts) -> str:
    found = facts.told["checkpoints"]
    if not found:
        return "<p>None has been saved.</p>"
    rows = [
        (
            count(each["step"]),
            text(each.get("epoch", "-")),
            moment(each.get("created")),
            text(each.get("why") or "-"),
            size(each["bytes"] / 1e6) if "bytes" in each else "-",
            text(_is(each)),
            text(", ".join(_metrics(each)) or "-"),
        )
        for each in found[-MOST_CHECKPOINTS:]
    ]
    head = ("step", "epoch", "saved", "because", "size", "is", "metrics")
    more = len(found) - len(rows)
    note = f"<p>{more} older ones are not listed.</p>" if more else ""
    return _where(found) + table(head, rows, right=(0, 1, 4), caption="Checkpoints") + note


def _where(found: list[dict[str, Any]]) -> str:
    """The folder of the one that is wanted: the best, else the newest that is sound."""
    sound = [each for each in found if not each.get("damaged")]
    best = [each for each in sound if each.get("best")]
    if not sound:
        return ""
    word = "The best one" if best else "The newest one"
    return f"<p>{word} is in <code>{text((best or sound)[-1]['dir'])}</code>.</p>"


def _is(each: dict[str, Any]) -> str:
    words = [word for word in ("good", "best", "damaged") if each.get(word)]
    return ", ".join(words) or "-"


def _metrics(each: dict[str, Any]) -> Iterator[str]:
    for name, value in (each.get("metrics") or {}).items():
        yield f"{name}={value:.6g}" if isinstance(value, (int, float)) else f"{name}={value}"


def spec(facts: Facts) -> str:
    """As it was resolved: what is empty is left out."""
    if not isinstance(facts.spec, dict):
        return "<p>The resolved spec cannot be read.</p>"
    import yaml

    words = yaml.safe_dump(_filled(facts.spec), sort_keys=False, allow_unicode=True, width=96)
    return f'<pre tabindex="0" aria-label="The resolved spec">{text(words)}</pre>'


def log_end(facts: Facts) -> str:
    """Of what failed the last lines that it printed."""
    if facts.last_words is None:
        return ""
    log, lines = facts.last_words
    said = text("\n".join(line[-LONGEST_LINE:] for line in lines))
    return (
        f"<p>The end of <code>{text(log)}</code>:</p>"
        f'<pre tabindex="0" aria-label="The end of its log">{said}</pre>'
    )


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        found = {key: _filled(each) for key, each in value.items()}
        return {key: each for key, each in found.items() if each not in (None, {}, [], "")}
    return [_filled(each) for each in value] if isinstance(value, list) else value


def machines(facts: Facts) -> str:
    if not facts.machines:
        return "<p>Nothing about it was recorded.</p>"
    found = ""
    for title, about in facts.machines:
        listed = [(key.replace("_", " "), _words(value)) for key, value in about.items()]
        found += f"<h3>{text(title)}</h3>{pairs(item for item in listed if item[1])}"
    return found


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{text(key)}&nbsp;{text(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(text(each) for each in value)
    return "" if value is None else text(value)

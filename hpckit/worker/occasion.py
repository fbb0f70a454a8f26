"""What hooks are run for, and what they are told about it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpckit.run import Attempt, Run
from hpckit.worker.news import End, News, cause_of, reason_before

BEFORE_LAUNCH = "before_launch"
BY_NEWS = {"incident": "on_incident", "restart": "on_restart"}
# Of a run that failed or was cancelled mails tell; no hook is meant for it.
BY_STATE = {"stopped": "on_stop", "done": "on_finish"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Occasion:
    """Something that one kind of hook is run for."""

    hook: str
    about: Mapping[str, Any]
    # What counts as told when its hooks have been run.
    news: Sequence[News] = ()
    end: End | None = None

    @property
    def text(self) -> bytes:
        """What a hook reads: one line of JSON."""
        return json.dumps(self.about).encode() + b"\n"


def of_launch(run: Run, attempt: Attempt) -> Occasion:
    return Occasion(hook=BEFORE_LAUNCH, about=_about(run, BEFORE_LAUNCH, attempt.number))


def of_news(run: Run, news: News) -> Occasion:
    hook, data = BY_NEWS[news.kind], news.event.data
    if news.kind == "restart":
        number = int(data["number"])
        about = _about(run, hook, number, reason=reason_before(run, number))
    else:
        incident = _incident(news)
        reason = str(incident.get("sentence") or incident.get("kind") or "")
        about = _about(run, hook, data.get("attempt"), reason=reason, incident=incident)
    return Occasion(hook=hook, about=about, news=(news,))


def of_end(run: Run, attempt: Attempt, end: End) -> Occasion | None:
    """None where no hook is meant for such an end."""
    hook = BY_STATE.get(end.state)
    if hook is None:
        return None
    cause = cause_of(run, attempt.number) if end.state == "stopped" else None
    about = _about(
        run,
        hook,
        attempt.number,
        state=end.state,
        reason=end.reason,
        incident=_incident(cause) if cause is not None else None,
    )
    return Occasion(hook=hook, about=about, end=end)


def _incident(news: News) -> dict[str, Any]:
    """What went wrong, with what was decided about it."""
    return {**news.event.data["incident"], "plan": news.event.data.get("plan")}


def _about(run: Run, hook: str, attempt: Any, **known: Any) -> dict[str, Any]:
    """The keys that every hook can rely on."""
    about = {"event": hook, "run": run.id, "name": run.name, "dir": str(run.dir)}
    unknown = {"state": "running", "reason": "", "incident": None}
    return {**about, "attempt": attempt, **unknown, **known}

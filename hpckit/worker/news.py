"""What is worth telling of a run, read from its ledger: incidents, restarts, and its end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpckit.heal.history import tells_incident
from hpckit.ledger import Event, Ledger, final

if TYPE_CHECKING:
    from hpckit.run import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """An event that is told, and its number among its writer's."""

    kind: Literal["incident", "restart"]
    event: Event
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a run ended, and which of its submissions that was."""

    state: str
    reason: str
    time: str
    submission: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """How much of a ledger has been told.

    Counted by writer: a writer's file only grows, while clocks of two machines need not agree, and
    what one of them wrote may be seen late.
    """

    news: Mapping[str, int] = field(default_factory=dict)
    # The submission whose end was told, by its serial number.
    ended: int | None = None

    def has(self, news: News) -> bool:
        return news.number <= self.news.get(news.event.writer, 0)

    def and_also(self, news: Sequence[News], end: End | None = None) -> Heard:
        """The same, with these told too."""
        counts = dict(self.news)
        for each in news:
            counts[each.event.writer] = max(each.number, counts.get(each.event.writer, 0))
        return Heard(news=counts, ended=self.ended if end is None else end.submission)

    def to_json(self) -> dict[str, Any]:
        return {"news": dict(self.news), "ended": self.ended}

    @classmethod
    def from_json(cls, value: Any) -> Heard:
        """The same again; of what makes no sense, nothing has been told."""
        found = value if isinstance(value, dict) else {}
        news = found.get("news")
        counts = news.items() if isinstance(news, dict) else ()
        ended = found.get("ended")
        return cls(
            news={writer: count for writer, count in counts if isinstance(count, int)},
            ended=ended if isinstance(ended, int) else None,
        )


def news_of(ledger: Ledger) -> list[News]:
    """All news of a ledger, in order of time."""
    found: list[News] = []
    for events in ledger.by_writer().values():
        kinds = [(_kind(event), event) for event in events]
        told = [(kind, event) for kind, event in kinds if kind is not None]
        found += [News(kind=k, event=e, number=n) for n, (k, e) in enumerate(told, start=1)]
    return sorted(found, key=lambda news: news.event.time)


def _kind(event: Event) -> Literal["incident", "restart"] | None:
    if tells_incident(event):
        return "incident"
    number = event.data.get("number")
    is_restart = event.kind == "attempt" and isinstance(number, int) and number > 1
    return "restart" if is_restart else None


def end_of(run: Run) -> End | None:
    """How a run ended, by its ledger; None while it goes on."""
    event = final(run.ledger().events())
    if event is None:
        return None
    submission = run.submission()
    return End(
        state=str(event.data.get("state")),
        reason=str(event.data.get("reason") or ""),
        time=event.time,
        submission=int(submission.data.get("serial", 0)) if submission is not None else 0,
    )


def cause_of(run: Run, attempt: int) -> News | None:
    """The incident that an attempt was stopped for; None where a limit or a person did it."""
    for news in reversed(news_of(run.ledger())):
        plan = news.event.data.get("plan")
        asked = plan.get("do") if isinstance(plan, dict) else None
        if (news.kind, news.event.data.get("attempt"), asked) == ("incident", attempt, "stop"):
            return news
    return None


def reason_before(run: Run, number: int) -> str:
    """Why the attempt before one ended, as far as anybody said."""
    before = [attempt for attempt in run.attempts() if attempt.number == number - 1]
    ended = before[0].ended() if before else None
    return str((ended or {}).get("reason") or "")


def sizes(folder: Path) -> dict[str, int]:
    """What a folder's files hold in bytes: a ledger that has not grown need not be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries}
    return {}

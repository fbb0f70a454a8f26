"""What there is to tell of a run, or of all points of its sweep, and was not told so far."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from hpckit.run import Run, open_run
from hpckit.worker.digest import Item, Place, body, item_of, item_of_end, subject, whole_sweep
from hpckit.worker.mailer import Mail
from hpckit.worker.news import End, Heard, News, end_of, news_of, reason_before
from hpckit.worker.outbox import Told

# Under which a run's own is remembered, and what is told of a sweep as a whole.
WHOLE = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """What a mail tells, and all that will have been told by then."""

    items: tuple[Item, ...]
    told: Told
    headline: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A run, as its mails tell of it."""

    run: Run
    on: Collection[str]

    def has_news(self, told: Told) -> bool:
        """Whether the run itself has something that nobody was told."""
        return bool(self._of(self.run, told)[0])

    def parcel(self, told: Told) -> Parcel:
        """What nobody was told, of the run or of all points of its sweep."""
        items: list[Item] = []
        now_told = dict(told)
        for run in self._runs():
            found, heard = self._of(run, told)
            items += found
            if heard != Heard():
                now_told[_name(run)] = heard
        return Parcel(items=tuple(items), told=now_told)

    def last_parcel(self, told: Told, ends: Sequence[End]) -> Parcel | None:
        """All that is left to tell now that everything is over; None where that is nothing."""
        if has_ends(told, ends):
            return None
        parcel = self.parcel(told)
        if not parcel.items and not any(each.state in self.on for each in ends):
            return None
        whole = replace(parcel.told.get(WHOLE, Heard()), ended=_serial(ends))
        told = {**parcel.told, WHOLE: whole}
        if self.run.point is not None:
            return Parcel(items=parcel.items, told=told, headline=whole_sweep(ends))
        return Parcel(items=(*parcel.items, item_of_end(ends[0], WHOLE)), told=told)

    def ends(self, end: End) -> list[End] | None:
        """How all of it ended; None while a point goes on. `end` is the run's own."""
        if self.run.point is None:
            return [end]
        found = []
        # What was submitted last mostly ends last: often one look tells.
        for run in reversed(self._runs()):
            each = end if run.id == self.run.id else end_of(run)
            if each is None:
                return None
            found.append(each)
        return found

    def mail(self, to: str, parcel: Parcel) -> Mail:
        place = Place(run=self.run.home_id, folder=str(self.run.home))
        about = (place, parcel.items, parcel.headline)
        return Mail(to=to, subject=subject(*about), body=body(*about))

    def _runs(self) -> list[Run]:
        if self.run.point is None:
            return [self.run]
        home = open_run(self.run.home)
        return home.point_runs() if home is not None else []

    def _of(self, run: Run, told: Told) -> tuple[list[Item], Heard]:
        """What one run has to tell of what is asked for, and how much of it is told then."""
        name, heard = _name(run), told.get(_name(run), Heard())
        news = [each for each in news_of(run.ledger()) if not heard.has(each)]
        items = [_item(run, each) for each in news if each.kind in self.on]
        heard = heard.and_also(news)
        end = end_of(run) if run.point is not None else None
        if end is not None and heard.ended != end.submission:
            heard = heard.and_also((), end)
            items += [item_of_end(end, name)] if end.state in self.on else []
        return items, heard


def has_ends(told: Told, ends: Sequence[End]) -> bool:
    """Whether the end of the run, or of its whole sweep, is told."""
    return told.get(WHOLE, Heard()).ended == _serial(ends)


def _serial(ends: Sequence[End]) -> int:
    """A number that all workers of a sweep agree on, and that grows when a point is restarted."""
    return sum(each.submission for each in ends)


def _item(run: Run, news: News) -> Item:
    is_restart = news.kind == "restart"
    why = reason_before(run, int(news.event.data["number"])) if is_restart else ""
    return item_of(news, _name(run), why)


def _name(run: Run) -> str:
    return WHOLE if run.point is None else run.dir.name

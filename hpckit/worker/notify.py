"""`notify:` of a spec: mails about a run or a sweep, few of them, none that the worker waits for.

Incidents, restarts, and the ends of a sweep's points are told in one mail an hour at most; the end
of a run or of a whole sweep at once. What to tell is read from the ledgers each time, and what was
told from the mails before: what a worker that dies has not sent, the next one sends.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from hpckit.run import IDENTITY, Run
from hpckit.worker.log_watch import tell
from hpckit.worker.mailer import SEND_S, Mail, NotSent, send
from hpckit.worker.news import End, sizes
from hpckit.worker.outbox import Fate, Letter, Outbox, told_by
from hpckit.worker.parcel import Parcel, Source, has_ends

if TYPE_CHECKING:
    from hpckit.spec import Notify

LOOK_S = 2.0
# How often a worker looks whether it is time to tell what it, or another one, could not yet.
WAITING_S = 60.0
# Who comes second looks again, so often.
TRIES = 5
FOLDER = "notify"


class Notifier:
    """Tells a person by mail, on a thread of its own."""

    def __init__(
        self,
        notify: Notify,
        run: Run,
        attempt: int,
        *,
        send: Callable[[Mail], None] = send,
        clock: Callable[[], float] = time.time,
        look_s: float = LOOK_S,
    ) -> None:
        assert notify.mail is not None
        self._to, self._run, self._attempt = notify.mail, run, attempt
        self._send, self._clock, self._look_s = send, clock, look_s
        self._ledger = run.ledger()
        self._outbox = Outbox(folder=run.home / FOLDER, run=run.id, by=self._ledger.writer)
        self._source = Source(run=run, on=frozenset(notify.on))
        self._sizes: dict[str, int] | None = None
        self._has_untold = False
        self._looked_at = float("-inf")
        self._has_failed = False
        self._told: set[str] = set()
        self._end: End | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="notify", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self, end: End | None) -> None:
        """The attempt is over, and the run too where it has an end; nothing is waited for."""
        self._end = end
        self._over.set()

    def join(self) -> None:
        """Wait for what is being sent, as long as that may take."""
        self._thread.join(SEND_S)
        if self._thread.is_alive():
            tell(f"notify: the last mail was not sent within {SEND_S:g} s")

    def look(self, *, is_last: bool = False) -> None:
        """Send what is to be sent by now."""
        with self._guarded():
            is_time = self._clock() - self._looked_at >= WAITING_S
            has_news = self._has_news(is_time=is_time)
            if (has_news or is_time or is_last) and self._run.is_served_by(self._attempt):
                self._looked_at = self._clock()
                self._say(has_news=has_news, is_last=is_last)

    def _serve(self) -> None:
        while not self._over.is_set():
            self.look()
            self._over.wait(self._look_s)
        self.look(is_last=True)

    def _say(self, *, has_news: bool, is_last: bool) -> None:
        if has_news:
            self._outbox.wait(self._run.dir.name)
        if is_last and self._end is not None and self._is_all_over(self._end):
            return
        self._send_digest()

    def _has_news(self, *, is_time: bool) -> bool:
        """Whether the run's ledger has what nobody was told; it is not read for nothing."""
        found = sizes(self._run.dir / "ledger")
        # A mark may be taken for another one that was told: while there is news it is set again.
        if found == self._sizes and not (is_time and self._has_untold):
            return False
        self._has_untold = self._source.has_news(told_by(self._outbox.letters()))
        self._sizes = found
        return self._has_untold

    def _send_digest(self) -> None:
        marks = self._outbox.waiting()
        letters = self._outbox.letters() if marks else []
        if not marks or not self._outbox.is_due(letters, self._clock()):
            return
        parcel = self._source.parcel(told_by(letters))
        # Of two that find the same, one sends it.
        if not parcel.items or self._post(letters, parcel) == "sent":
            self._outbox.forget(marks)

    def _is_all_over(self, end: End) -> bool:
        """Whether the run, or its whole sweep, has ended: then that is told, where it is asked."""
        ends = self._source.ends(end)
        if ends is None:
            return False
        for _ in range(TRIES):
            marks, letters = self._outbox.waiting(), self._outbox.letters()
            parcel = self._source.last_parcel(told_by(letters), ends)
            if parcel is None or self._is_being_told(letters, ends):
                break
            fate = self._post(letters, parcel)
            if fate == "sent":
                self._outbox.forget(marks)
            if fate is not None:
                break
        return True

    def _is_being_told(self, letters: Sequence[Letter], ends: Sequence[End]) -> bool:
        now = self._clock()
        return any(has_ends(e.told, ends) for e in letters if self._outbox.is_pending(e, now))

    def _post(self, letters: Sequence[Letter], parcel: Parcel) -> Fate | None:
        """Claim the next mail and send it; None where somebody else was faster."""
        letter = self._outbox.claim(letters, parcel.told, self._clock())
        if letter is None:
            return None
        fate: Fate = "sent"
        try:
            self._send(self._source.mail(self._to, parcel))
        except NotSent as error:
            fate = "failed"
            self._tell_untold(str(error))
        self._outbox.settle(letter, fate)
        return fate

    def _tell_untold(self, why: str) -> None:
        """Say once that nobody could be told."""
        if self._has_failed:
            return
        self._has_failed = True
        tell(f"notify: no mail can be sent: {why}")
        # A ledger's folder would be made again where the run was deleted.
        if (self._run.home / IDENTITY).exists():
            self._ledger.write("untold", attempt=self._attempt, to=self._to, reason=why)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            said = f"notify: {type(error).__name__}: {error}"
            if said not in self._told:
                self._told.add(said)
                tell(said)

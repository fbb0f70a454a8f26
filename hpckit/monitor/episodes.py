"""Which incidents are told: one bad step after the other is one story."""

from __future__ import annotations

from hpckit.monitor.incident import Incident

# Bad steps that are not further apart belong together.
EPISODE = 100


class Episodes:
    """Tells the first of an episode of skipped steps from those that follow."""

    def __init__(self) -> None:
        self._skipped: int | None = None

    def is_more(self, incident: Incident) -> bool:
        if incident.answer != "skip":
            return False
        last, self._skipped = self._skipped, incident.step
        return last is not None and 0 <= incident.step - last < EPISODE

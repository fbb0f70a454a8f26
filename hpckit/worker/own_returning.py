"""Where a program that keeps its own checkpoints goes on, before each of its launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpckit.checkpoint.lineage import believed
from hpckit.checkpoint.own_sets import OwnSet, OwnSets, as_argument
from hpckit.heal.in_force import applied_params
from hpckit.heal.pending import Pending, named, trouble
from hpckit.ledger import Event

if TYPE_CHECKING:
    from hpckit.run import Attempt, Run
    from hpckit.spec import JobSpec


# What is read in a log was printed up to so long before.
LATE_S = 1.0
ALIKE_S = 2.0


@dataclass(kw_only=True)
class OwnReturning:
    """After a benign end the newest whole set; after trouble in the numbers one of before it.

    A person's word stands above both.
    """

    run: Run
    spec: JobSpec
    attempt: Attempt

    @property
    def sets(self) -> OwnSets:
        return OwnSets.of_run(self.run.dir, self.spec.checkpoint.files)

    def prepare(self, launch: int) -> str:
        """Leave what is to be gone on from in the program's sight; what {checkpoint} stands for.

        What is newer is set aside first, so that who dies in between finds it done half, and
        does it once more.
        """
        if not self.spec.checkpoint.files:
            return ""
        events = believed(self.run.ledger().events())
        chosen, why = self._chosen(events)
        moved = self.sets.go_back(chosen, why=why)
        argument = as_argument(chosen)
        step = chosen.step if chosen is not None else 0
        self.run.ledger(f"attempt-{self.attempt.number:03d}").write(
            "resumed",
            attempt=self.attempt.number,
            launch=launch,
            step=step,
            checkpoint=argument or None,
            # With what the program is given now.
            changed=applied_params(self.run.spec().params, events, "resumed"),
        )
        if moved or argument:
            where = argument or "the beginning: no set of checkpoints is old enough"
            aside = f", {len(moved)} newer or half set aside" if moved else ""
            print(f"hpckit: going on from {where}{aside}", flush=True)
        return argument if self.spec.resume == "argument" else ""

    def _chosen(self, events: list[Event]) -> tuple[OwnSet | None, str]:
        """What is gone on from, and why what is newer is not."""
        wanted = named(events, "resumed")
        if wanted is not None:
            return self.sets.named(wanted), "a person goes on from an older one"
        found = trouble(events, "resumed")
        if found is not None:
            return self._before(found), found.plan.reason
        return self.sets.newest(), "what is half cannot be gone on from"

    def _before(self, trouble: Pending) -> OwnSet | None:
        """The newest set that was saved before the trouble began, or one further back."""
        sets, seen = self.sets, trouble.event
        # Epochs in the names of files and steps in a log cannot be compared; times can.
        before = trouble.before if sets.counter == "step" else None
        since = seen.data.get("saved_before") or self._read_at(trouble.before, seen)
        nearest = sets.newest(before) if before is not None else None
        if since is not None and nearest is not None and self._counts_alike(nearest, seen):
            # Steps tell it more exactly than a clock that looks twice a second.
            since += LATE_S
        found = sets.newest(before, since)
        for _ in range(trouble.plan.back):
            older = sets.newest(found.step - 1, since) if found is not None else None
            found = older or found
        return found

    def _counts_alike(self, found: OwnSet, seen: Event) -> bool:
        """Whether the step in its name was read in the log when it was saved."""
        when = self._read_at(found.step, seen)
        return when is not None and abs(found.when - when) < ALIKE_S

    def _read_at(self, step: int, seen: Event) -> float | None:
        """When the step that first showed the trouble was read, by its launch's readings."""
        from hpckit.monitor.readings.reader import read_readings

        attempt, launch = seen.data.get("attempt", 0), seen.data.get("launch", 0)
        folder = self.run.dir / f"attempts/{attempt:03d}/readings/launch-{launch}"
        if not folder.is_dir():
            return None
        return next((each.time for each in read_readings(folder) if each.step >= step), None)

    def saved(self) -> int | None:
        """The step of the newest whole set."""
        newest = self.sets.newest()
        return newest.step if newest is not None else None

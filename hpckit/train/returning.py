"""Coming back: after an end, to the newest intact state; after an incident, to a good one."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from hpckit.checkpoint import retention
from hpckit.checkpoint.manifest import Checkpoint
from hpckit.heal import Plan
from hpckit.ledger import Event
from hpckit.monitor.incident import Incident
from hpckit.train.healing import Stopped
from hpckit.train.keeper import Keeper, loaded
from hpckit.train.place import Window
from hpckit.train.sharded import FOLDER, Sharded
from hpckit.train.snapshots import Snapshot, all_bad
from hpckit.train.tree import tensors_of

if TYPE_CHECKING:
    from hpckit.train.between import Between
    from hpckit.train.surroundings import Surroundings

MEMORY = "memory"


class Returning:
    """Takes the session's state, and puts it back."""

    def __init__(self, session: Between, keeper: Keeper, around: Surroundings) -> None:
        self.session = session
        self.keeper = keeper
        self.around = around
        self.sharded = Sharded(session.registry)
        self._is_sharded = self.sharded.any
        built = {"items": session.registry.take(("module",))}
        keeper.saver.never_finite = all_bad(tensors_of(built))

    # Taking.

    def take(self, why: str | None, *, is_good: bool = False) -> None:
        session, keeper = self.session, self.keeper
        step = session.step_number
        in_memory = keeper.ring.capacity > 0 and not self._is_sharded
        if why is None and not in_memory:
            return
        place = session.place
        about = {
            "epoch": place.epoch,
            "batch": place.taken,
            "changes": len(session.healer.plans),
            "best": session.is_best,
            "metrics": {k: v for k, v in session.best_values.values.items() if math.isfinite(v)},
            "params": self._parameters(),
        }
        keeper.take(
            step,
            session.shared_state(sharded=self._is_sharded),
            session.own_state(),
            why=why,
            about=about,
            plain={} if why is None else session.plain_state(),
            good=is_good,
            sharded=self.sharded.save if self._is_sharded else None,
        )

    def make_room(self) -> None:
        """After the first step, when all state is there: memory for going back."""
        if not self._is_sharded:
            session = self.session
            self.keeper.make_room(session.shared_state(sharded=False), session.own_state())

    def _parameters(self) -> int:
        models = self.session.registry.of_kind("module").values()
        return sum(each.numel() for model in models for each in model.parameters())

    # Coming back after an end.

    def resume(self) -> bool:
        """Go on where the run stood; whether it had begun."""
        session, around = self.session, self.around
        ranks, began = session.ranks, time.perf_counter()
        events = around.events()
        found = None
        if ranks.rank == 0:
            found = session.chosen or self._newest(events)
            retention.clean(around.store, around.segment)
        chosen: Checkpoint | None = ranks.told(found)
        segment = {"attempt": around.attempt, "launch": around.launch, "rollbacks": 0}
        step = chosen.step if chosen is not None else 0
        session.teller.write(
            "resumed", **segment, step=step, checkpoint=chosen.name if chosen else None
        )
        if chosen is None:
            return False
        self._load(chosen, again=False)
        self.keeper.resumed(step, chosen.epoch)
        self.keeper.saver.undecided = [
            each
            for each in around.store.on_branch()
            if ranks.rank == 0 and each.step <= step and each.confirmed_at is None and each.finite
        ]
        for plan in session.healer.plans[chosen.changes :]:
            session.healer.change_steps(plan, session.stepper)
        left_out = _left_out(events, chosen.changes, session.place.loop)
        session.place.skip = sorted({*session.place.skip, *left_out})
        took = time.perf_counter() - began
        session.teller.say(f"going on from step {step} ({chosen.name}), loaded in {took:.1f} s")
        # A fork's is another run's: this one needs one of its own to go back to.
        is_own = chosen.path.parent == self.keeper.store.folder
        self.take(None if is_own else "start", is_good=chosen.is_good)
        return True

    def _newest(self, events: list[Event]) -> Checkpoint | None:
        """After a benign end the newest intact one; in a rollback's midst, what that wanted."""
        tell = self.session.teller.say
        open_plan = _unfinished(events)
        if open_plan is not None:
            return self.keeper.store.newest_good(open_plan.before, open_plan.back, tell)
        found = self.keeper.store.newest_intact(tell)
        if found is not None:
            return found
        return self.around.fork(tell)

    def _load(self, chosen: Checkpoint | Snapshot, *, again: bool) -> None:
        if isinstance(chosen, Snapshot):
            shared, own = chosen.state, chosen.own
        else:
            shared, own = loaded(chosen, self.session.ranks.rank)
        self.session.load(shared, own, again=again)
        if isinstance(chosen, Checkpoint) and (chosen.path / FOLDER).is_dir():
            self.sharded.load(chosen.path / FOLDER)

    # Going back after an incident.

    def heal(self, incident: Incident) -> bool:
        """Ask what to do, and do it; whether the run went back."""
        session = self.session
        plan: Plan = session.healer.plan(incident)
        session.teller.incident(incident, self.around.attempt, plan=plan.to_json())
        if plan.do == "stop":
            self._stop(plan.diagnosis or plan.reason)
        if not plan.restarts:
            self.keeper.doubt(incident.step if incident.onset is None else incident.onset)
            return False
        began = time.perf_counter()
        chosen = self._target(plan)
        if chosen is None:
            self._stop(f"{incident.sentence}; there is no good state to go back to")
        assert chosen is not None
        where = MEMORY if isinstance(chosen, Snapshot) else chosen.name
        windows = session.trail.windows(chosen.step, incident.step, plan.skip_batches)
        from_step = session.step_number
        skipped = [*session.place.skip, *windows]
        self._load(chosen, again=True)
        session.place.skip = sorted({*session.place.skip, *skipped})
        session.trail.cut(chosen.step)
        self.keeper.went_back(chosen.step)
        session.healer.done(incident, plan, chosen.step)
        said = session.healer.change_steps(plan, session.stepper)
        said += session.healer.change_params(plan)
        session.teller.write(
            "rollback",
            attempt=self.around.attempt,
            launch=self.around.launch,
            rollbacks=self.keeper.segment.rollbacks,
            step=chosen.step,
            from_step=from_step,
            checkpoint=where,
            incident=incident.to_json(),
            plan=plan.to_json(),
            changed=said,
            skipped=[list(window) for window in windows],
            loop=session.place.loop,
            number=len(session.healer.plans),
        )
        took = time.perf_counter() - began
        left_out = sum(last - first for _, first, last in windows)
        parts = [f"back to step {chosen.step} (good, from {where})", *said]
        parts += [f"{left_out} batches left out"] if left_out else []
        session.teller.say(f"{', '.join(parts)}; {took:.2g} s")
        return True

    def _target(self, plan: Plan) -> Snapshot | Checkpoint | None:
        """Rank 0 chooses, and all go there."""
        session = self.session
        if session.ranks.size == 1:
            return self.keeper.target(plan.before, plan.back, session.least)
        found = None
        self.keeper.saver.wait()
        if session.ranks.rank == 0:
            found = self.keeper.target(plan.before, plan.back, session.least)
        told: Any = found.step if isinstance(found, Snapshot) else found
        told = session.ranks.told(told)
        return self.keeper.in_memory(told) if isinstance(told, int) else told

    def _stop(self, reason: str) -> None:
        session = self.session
        session.teller.write(
            "stopped", attempt=self.around.attempt, launch=self.around.launch, reason=reason
        )
        session.teller.say(f"stopped: {reason}")
        session.close()
        raise Stopped(reason)


def _left_out(events: list[Event], changes: int, loop: int) -> list[Window]:
    """Batches that rollbacks left out which a state knows nothing of: it was saved before them."""
    backs = [each.data for each in events if each.kind == "rollback" and "plan" in each.data]
    mine = [about for about in backs[changes:] if about.get("loop", loop) == loop]
    return [(epoch, a, b) for about in mine for epoch, a, b in about.get("skipped", ())]


def _unfinished(events: list[Event]) -> Plan | None:
    """The plan of an incident after which nobody came back yet."""
    for event in reversed(events):
        if event.kind in ("rollback", "resumed"):
            return None
        if event.kind == "incident" and event.data.get("plan"):
            plan = Plan.from_json(event.data["plan"])
            if plan.restarts:
                return plan
    return None

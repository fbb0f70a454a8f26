"""Coming back: after an end, to the newest intact state; after an incident, to a good one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hpckit.checkpoint import retention
from hpckit.checkpoint.lineage import believed
from hpckit.checkpoint.manifest import Checkpoint
from hpckit.heal import Plan
from hpckit.ledger import Event
from hpckit.monitor.incident import Incident
from hpckit.train.healing import Stopped
from hpckit.train.keeper import Keeper, loaded
from hpckit.train.place import Window
from hpckit.train.sharded import Sharded
from hpckit.train.snapshots import Snapshot, all_bad
from hpckit.train.tree import tensors_of
from hpckit.train.writing import SHARDED

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
        # Loads the state that was gone on from, until the program has come there.
        self._again: Callable[[], None] | None = None
        built = {"items": session.registry.take(("module",))}
        keeper.writer.never_finite = all_bad(tensors_of(built))

    # Taking.

    def take(self, why: str | None, *, is_good: bool = False) -> None:
        """Keep the state as it is now: in memory, and on disk where there is a reason."""
        session, keeper = self.session, self.keeper
        in_memory = keeper.ring.capacity > 0 and not self._is_sharded
        if why is None and not in_memory:
            return
        shared = session.shared_state(sharded=self._is_sharded)
        snapshot = keeper.take(session.step_number, shared, session.own_state(), good=is_good)
        if why is not None:
            keeper.to_disk(
                snapshot,
                why=why,
                about=self._about(),
                plain=session.plain_state(),
                sharded=self.sharded.save if self._is_sharded else None,
            )
        if self._is_sharded:
            # What is here of it is not all that one would have to go back to.
            keeper.taker.drop(snapshot)
        else:
            keeper.ring.add(snapshot)

    def _about(self) -> dict[str, Any]:
        """What the manifest tells of it."""
        session = self.session
        models = session.registry.of_kind("module").values()
        return {
            "epoch": session.place.epoch,
            "batch": session.place.taken,
            "changes": len(session.healer.plans),
            "best": session.is_best,
            "metrics": {k: v for k, v in session.best_values.values.items() if math.isfinite(v)},
            "params": sum(each.numel() for model in models for each in model.parameters()),
        }

    def make_room(self) -> None:
        """After the first step, when all state is there: memory for going back."""
        if not self._is_sharded:
            session = self.session
            self.keeper.make_room(session.shared_state(sharded=False), session.own_state())

    # Coming back after an end.

    def resume(self) -> bool:
        """Go on where the run stood; whether it had begun."""
        session, around = self.session, self.around
        ranks, began = session.ranks, time.perf_counter()
        # Rank 0's reading of it: a line that lands meanwhile must not set ranks apart.
        events = believed(ranks.told(around.events() if ranks.rank == 0 else None))
        if ranks.size > 1:
            session.healer.recall(events)
        open_plan = _unfinished(events)
        found = None
        if ranks.rank == 0:
            found = session.chosen or self.newest(events)
            retention.clean(around.store, around.segment)
        chosen: Checkpoint | None = ranks.told(found)
        segment = {"attempt": around.attempt, "launch": around.launch, "rollbacks": 0}
        step = chosen.step if chosen is not None else 0
        name = chosen.name if chosen is not None else None
        session.teller.write("resumed", **segment, step=step, checkpoint=name)
        if chosen is None:
            if ranks.rank == 0 and around.store.has_any:
                session.teller.say(
                    "warning: no checkpoint can be used: the training begins anew, at step 0"
                )
            return False
        self._put(chosen, events)
        self._again = lambda: self._put(chosen, events)
        # A fork's is another run's: this one needs one of its own to go back to, and that is it.
        is_own = chosen.path.parent == self.keeper.store.folder
        session.place.stopped = session.place.stopped and is_own
        self.keeper.resumed(step, chosen.epoch)
        for each in around.store.on_branch() if ranks.rank == 0 else ():
            if each.step <= step and each.confirmed_at is None and each.finite:
                self.keeper.saver.consider(each)
        if open_plan is not None:
            incident, plan = open_plan
            session.healer.done(incident, plan, step)
            said = self._change(plan)
            self._write_down(incident, plan, step, chosen.name, said, [])
            self.keeper.went_back(step)
        took = time.perf_counter() - began
        session.teller.say(f"going on from step {step} ({chosen.name}), loaded in {took:.1f} s")
        self.take(None if is_own else "start", is_good=chosen.is_good or not is_own)
        return True

    def _put(self, chosen: Checkpoint, events: list[Event]) -> None:
        """Load a state, and what was changed and left out since it was saved."""
        session, in_force = self.session, chosen.changes
        self._load(chosen, again=False)
        for plan in session.healer.plans[in_force:]:
            session.healer.change_steps(plan, session.stepper)
        left_out = _left_out(events, in_force, session.place.loop)
        session.place.skip = sorted({*session.place.skip, *left_out})

    def once_more(self) -> None:
        """Put the state that was gone on from back, once."""
        again, self._again = self._again, None
        if again is not None:
            again()

    def newest(self, events: list[Event]) -> Checkpoint | None:
        """After a benign end the newest intact one; in a rollback's midst, what that wanted."""
        tell, store = self.session.teller.say, self.keeper.store
        open_plan = _unfinished(events)
        if open_plan is not None:
            plan = open_plan[1]
            good = store.newest_good(plan.before, plan.back, tell)
            if good is not None:
                return good
        return store.newest_intact(tell) or self.around.fork(tell)

    def _load(self, chosen: Checkpoint | Snapshot, *, again: bool) -> None:
        if isinstance(chosen, Snapshot):
            shared, own = chosen.state, chosen.own
        else:
            shared, own = loaded(chosen, self.session.ranks.rank)
        self.session.load(shared, own, again=again)
        if isinstance(chosen, Checkpoint) and (chosen.path / SHARDED).is_dir():
            self.sharded.load(chosen.path / SHARDED)

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
        session.healer.done(incident, plan, chosen.step)
        said = self._change(plan)
        # Before it is done: whoever dies in the midst of it is gone on from there all the same.
        self._write_down(incident, plan, chosen.step, where, said, windows)
        skipped = [*session.place.skip, *windows]
        self.keeper.went_back(chosen.step)
        self._load(chosen, again=True)
        session.place.skip = sorted({*session.place.skip, *skipped})
        session.trail.cut(chosen.step)
        took = time.perf_counter() - began
        left_out = sum(last - first for _, first, last in windows)
        parts = [f"back to step {chosen.step} (good, from {where})", *said]
        parts += [f"{left_out} batches left out"] if left_out else []
        session.teller.say(f"{', '.join(parts)}; {took:.2g} s")
        return True

    def _change(self, plan: Plan) -> list[str]:
        """Carry out what a plan changes; what was changed."""
        session = self.session
        changed = session.healer.change_params(plan)
        return session.healer.change_steps(plan, session.stepper) + changed

    def _write_down(
        self,
        incident: Incident,
        plan: Plan,
        step: int,
        where: str,
        said: list[str],
        windows: list[Window],
    ) -> None:
        session = self.session
        session.teller.write(
            "rollback",
            attempt=self.around.attempt,
            launch=self.around.launch,
            rollbacks=self.keeper.segment.rollbacks + 1,
            step=step,
            from_step=session.step_number,
            checkpoint=where,
            incident=incident.to_json(),
            plan=plan.to_json(),
            changed=said,
            skipped=[list(window) for window in windows],
            loop=session.place.loop,
            number=len(session.healer.plans),
        )

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


def _unfinished(events: list[Event]) -> tuple[Incident, Plan] | None:
    """The incident after which nobody came back yet, and its plan."""
    for event in reversed(events):
        if event.kind in ("rollback", "resumed", "stopped"):
            return None
        if event.kind == "incident" and event.data.get("plan"):
            plan = Plan.from_json(event.data["plan"])
            if plan.restarts:
                return Incident.from_json(event.data["incident"]), plan
    return None

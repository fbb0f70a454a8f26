"""Coming back: after an end, to the newest intact state; after an incident, to a good one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hpckit.checkpoint import retention
from hpckit.checkpoint.lineage import believed
from hpckit.checkpoint.manifest import Checkpoint
from hpckit.checkpoint.search import Search
from hpckit.checkpoint.store import OLDEST
from hpckit.heal import Plan
from hpckit.heal.plan import RESTART_CODE
from hpckit.ledger import Event
from hpckit.monitor.incident import Incident
from hpckit.train import recorded
from hpckit.train.healing import Stopped, usual_norms
from hpckit.train.keeper import Keeper, loaded
from hpckit.train.snapshots import Snapshot
from hpckit.train.taking import Taking
from hpckit.train.writing import SHARDED

if TYPE_CHECKING:
    from hpckit.train.between import Between
    from hpckit.train.surroundings import Surroundings

MEMORY = "memory"
State = dict[str, Any]


class Returning:
    """Puts the session's state back."""

    def __init__(
        self, session: Between, keeper: Keeper, around: Surroundings, taking: Taking
    ) -> None:
        self.session = session
        self.keeper = keeper
        self.around = around
        self.taking = taking
        keeper.misfit = session.registry.misfit
        # By loop: the batches that led to incidents, of the whole run.
        self._left_out: list[recorded.LeftOut] = []
        # Loads the state that was gone on from, until the program has come there.
        self._again: Callable[[], object] | None = None

    # Coming back after an end.

    def resume(self) -> bool:
        """Go on where the run stood; whether it had begun."""
        session, around = self.session, self.around
        ranks, began = session.ranks, time.perf_counter()
        # Rank 0's reading of it: a line that lands meanwhile must not set ranks apart.
        events = believed(ranks.told(around.events() if ranks.rank == 0 else None))
        session.healer.recall(events)
        begun = recorded.unfinished(events)
        found, has_any = None, False
        if ranks.rank == 0:
            # Asked before another rank may go on, and makes a folder of its own.
            has_any = around.store.has_any
            found = session.chosen or self.newest(events)
            retention.clean(around.store, around.segment)
        chosen: Checkpoint | None = ranks.told(found)
        segment = {"attempt": around.attempt, "launch": around.launch, "rollbacks": 0}
        step = chosen.step if chosen is not None else 0
        name = chosen.name if chosen is not None else None
        session.teller.write("resumed", **segment, step=step, checkpoint=name)
        if chosen is None:
            if has_any:
                session.teller.say(
                    "warning: no checkpoint can be used: the training begins anew, at step 0"
                )
            self._end_rollback(begun, 0, None, self._change_anew(0, 0, begun))
            return False
        self._left_out = recorded.left_out(events) + (begun.left_out if begun is not None else [])
        said = self._put(chosen, begun)
        self._again = lambda: self._put(chosen)
        # A fork's is another run's: this one needs one of its own to go back to, and that is it.
        is_own = self._is_own(chosen)
        self.keeper.resumed(step, chosen.epoch)
        doubts = recorded.doubts(events)
        saved = Search(around.store, session.teller.say).on_branch() if ranks.rank == 0 else []
        for each in saved:
            is_doubted = any(since < each.step <= seen for since, seen in doubts)
            if each.step <= step and each.confirmed_at is None and each.finite and not is_doubted:
                self.keeper.saver.consider(each)
        self._end_rollback(begun, step, chosen.name, said)
        took = time.perf_counter() - began
        session.teller.say(f"going on from step {step} ({chosen.name}), loaded in {took:.1f} s")
        self.taking.take(None if is_own else "start", is_good=chosen.is_good or not is_own)
        return True

    def _end_rollback(
        self, begun: recorded.Begun | None, step: int, where: str | None, said: list[str]
    ) -> None:
        """Say that what a process that died had begun, or a person asked for, is done."""
        if begun is None:
            return
        self._write_down(begun.incident, begun.plan, step, where, said, begun.left_out)
        self.keeper.went_back(step, self.session.place.epoch)

    def _put(self, chosen: Checkpoint, begun: recorded.Begun | None = None) -> list[str]:
        """Load a state, and what was changed and left out since it was saved; what is to tell."""
        session = self.session
        self._load(chosen, self._read(chosen), again=False)
        # Where another run was ended, this one goes on.
        session.place.stopped = session.place.stopped and self._is_own(chosen)
        said = self._change_anew(chosen.step, chosen.changes, begun)
        self._leave_out()
        return said

    def _change_anew(self, step: int, known: int, begun: recorded.Begun | None) -> list[str]:
        """Carry out all changes but those that a state knows; what of it nobody was told yet."""
        healer, stepper = self.session.healer, self.session.stepper
        if begun is not None:
            healer.done(begun.incident, begun.plan, step, usual_norms(stepper))
        said: list[str] = []
        for past in healer.in_force[known:]:
            # Parameters were changed before the program began.
            changed = healer.change_steps(past, stepper) + healer.params_of(past.plan)
            said += changed if begun is not None and past.incident in begun.incidents else []
        return list(dict.fromkeys(said))

    def _is_own(self, chosen: Checkpoint) -> bool:
        return chosen.path.parent == self.keeper.store.folder

    def once_more(self) -> None:
        """Put the state that was gone on from back, once."""
        again, self._again = self._again, None
        if again is not None:
            again()

    def newest(self, events: list[Event]) -> Checkpoint | None:
        """After a benign end the newest intact one; in a rollback's midst, what that wanted."""
        tell, store = self.session.teller.say, self.keeper.store
        begun = recorded.unfinished(events)
        named = begun.checkpoint if begun is not None else None
        if named is not None and (found := store.intact(named, tell)) is not None:
            return found
        if begun is not None and not begun.plan.intact:
            plan = begun.plan
            good = store.newest_good(plan.before, plan.back, tell)
            good = good or store.newest_good(None, OLDEST, tell)
            if good is not None:
                return good
        return store.newest_intact(tell) or self.around.fork(tell)

    def _read(self, chosen: Checkpoint | Snapshot) -> tuple[State, State]:
        """What all ranks share of a state, and this rank's own."""
        if isinstance(chosen, Snapshot):
            return chosen.state, chosen.own
        return loaded(chosen, self.session.ranks.rank)

    def _load(
        self, chosen: Checkpoint | Snapshot, state: tuple[State, State], *, again: bool
    ) -> None:
        self.session.load(*state, again=again)
        if isinstance(chosen, Checkpoint) and (chosen.path / SHARDED).is_dir():
            self.taking.sharded.load(chosen.path / SHARDED)

    # Going back after an incident.

    def heal(self, incident: Incident) -> bool:
        """Ask what to do, and do it; whether the run went back."""
        session = self.session
        plan: Plan = session.healer.plan(incident)
        # Whoever dies before the run is back has to know them in its next life.
        skipped = self._led_to(incident, plan, session.place.since) if plan.restarts else []
        session.teller.incident(
            incident, self.around.segment, plan=plan.to_json(), **recorded.told(skipped)
        )
        if plan.do == "stop":
            self._stop(plan.diagnosis or plan.reason)
        if not plan.restarts:
            self.keeper.doubt(*recorded.doubted(incident))
            return False
        if plan.do != "rollback":
            self._end_for(plan)
        began = time.perf_counter()
        chosen = self._target(plan)
        if chosen is None:
            self._stop(f"{incident.sentence}; there is no good state to go back to")
        assert chosen is not None
        where = MEMORY if isinstance(chosen, Snapshot) else chosen.name
        skipped = self._led_to(incident, plan, chosen.step)
        session.healer.done(incident, plan, chosen.step, usual_norms(session.stepper))
        state = self._read(chosen)
        said = self._change(_rates(state[0]))
        # Before it is done: whoever dies in the midst of it is gone on from there all the same.
        self._write_down(incident, plan, chosen.step, where, said, skipped)
        known = len(recorded.batches(self._left_out))
        self._left_out += skipped
        self._load(chosen, state, again=True)
        self.keeper.went_back(chosen.step, session.place.epoch)
        self._leave_out()
        session.trail.cut(chosen.step)
        took = time.perf_counter() - began
        left_out = len(recorded.batches(self._left_out)) - known
        oldest = ", the oldest" if plan.before is not None and chosen.step > plan.before else ""
        parts = [f"back to step {chosen.step} (good{oldest}, from {where})", *said]
        parts += [f"{left_out} batches left out"] if left_out else []
        session.teller.say(f"{', '.join(parts)}; {took:.2g} s")
        return True

    def _led_to(self, incident: Incident, plan: Plan, since: int) -> list[recorded.LeftOut]:
        """The batches before an incident that are to be left out, of none before step `since`."""
        session = self.session
        windows = session.trail.windows(since, incident.step, plan.skip_batches)
        return [(session.place.loop, window) for window in windows]

    def _leave_out(self) -> None:
        """Whatever ever led to an incident: a state of before does not know of it."""
        place = self.session.place
        windows = {window for loop, window in self._left_out if loop == place.loop}
        place.skip = sorted({*place.skip, *windows})

    def _change(self, rates: Mapping[str, float]) -> list[str]:
        """Carry out what the last plan changes; what was changed, beside a state's own rates."""
        session = self.session
        past = session.healer.history[-1]
        changed = session.healer.change_params(past.plan)
        return session.healer.change_steps(past, session.stepper, rates) + changed

    def _write_down(
        self,
        incident: Incident,
        plan: Plan,
        step: int,
        where: str | None,
        said: list[str],
        skipped: list[recorded.LeftOut],
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
            usual=usual_norms(session.stepper),
            changed=said,
            **recorded.told(skipped),
            number=len(session.healer.in_force),
        )

    def _target(self, plan: Plan) -> Snapshot | Checkpoint | None:
        """Rank 0 chooses, and all go there."""
        session = self.session
        if session.ranks.size == 1:
            return self._found(plan)
        self.keeper.saver.wait()
        found = self._found(plan) if session.ranks.rank == 0 else None
        told: Any = found.step if isinstance(found, Snapshot) else found
        told = session.ranks.told(told)
        return self.keeper.in_memory(told) if isinstance(told, int) else told

    def _found(self, plan: Plan) -> Snapshot | Checkpoint | None:
        """A state of this loop: where none is as old as it should be, the oldest that is good."""
        target, since = self.keeper.target, self.session.place.since
        return target(plan.before, plan.back, since) or target(None, OLDEST, since)

    def _end_for(self, plan: Plan) -> None:
        """What comes next goes back, and changes what is to be changed: it has read the plan."""
        session = self.session
        session.teller.say(f"ending: {plan}")
        session.close()
        raise SystemExit(RESTART_CODE)

    def _stop(self, reason: str) -> None:
        session = self.session
        session.teller.write(
            "stopped", attempt=self.around.attempt, launch=self.around.launch, reason=reason
        )
        session.teller.say(f"stopped: {reason}")
        session.close()
        raise Stopped(reason)


def _rates(shared: State) -> dict[str, float]:
    """Each optimizer's learning rate in a state, of its first group."""
    groups = {
        name: item["state"]["param_groups"][0]
        for name, item in shared["items"].items()
        if item["kind"] == "optimizer"
    }
    return {name: float(each["lr"]) for name, each in groups.items() if each.get("lr") is not None}

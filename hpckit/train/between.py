"""What is done between two passes of the loop's body, where no graph is alive."""

from __future__ import annotations

import atexit
import dataclasses
from collections.abc import Mapping
from itertools import chain, count
from typing import Any

from hpckit.checkpoint.manifest import Checkpoint
from hpckit.monitor import reading as names
from hpckit.monitor.incident import Incident
from hpckit.requests import Requests
from hpckit.spec.parts import NUMERIC
from hpckit.train.divisions import Divisions
from hpckit.train.ends import Ends
from hpckit.train.facts import Planned, of_devices, of_schedules
from hpckit.train.feed import Feed
from hpckit.train.forgotten import STEPS, Forgotten
from hpckit.train.keeper import MEMORY_EVERY
from hpckit.train.place import Trail
from hpckit.train.pulse import BETWEEN, SAVING
from hpckit.train.returning import Returning
from hpckit.train.surroundings import Surroundings
from hpckit.train.taking import Taking
from hpckit.train.total import Total
from hpckit.train.training import Training

TERMINATED = 143


class Between(Training):
    """Closes passes: judges, heals, saves, tells."""

    def __init__(self, surroundings: Surroundings, params: Mapping[str, Any]) -> None:
        super().__init__(surroundings, params)
        self.trail = Trail()
        self._ends = Ends()
        self._requests = Requests(surroundings.run_dir)
        self._epochs_wanted: int | None = None
        self._total = Total()
        self._total_steps: int | None = None
        self._asked_at = -1000
        self._own_act: Incident | None = None
        self._forgotten: Forgotten | None = None
        # Steps after which is looked at how much memory the state takes.
        self._looks = {1, MEMORY_EVERY}
        self._late_scaler: Any = None
        # The pass that the program left in the midst, and whether its epoch was cut short so.
        self._broken: tuple[Feed, int] | None = None
        self._is_short = False
        self._divisions: Divisions | None = None
        # Where to go on, if that had to be known before all was registered.
        self.chosen: Checkpoint | None = None

    def _begin(self) -> None:
        """Once, before the first batch: what is registered by now goes on where it stood."""
        if self._keeper is not None:
            return
        self.ranks.join()
        stepper = self.stepper
        self._forgotten = Forgotten(self.registry)
        self._keeper = self.around.keeper(self.ranks, self.teller)
        self._keeper.writer.settle = self._settle
        self._taking = Taking(self, self._keeper)
        self._returning = Returning(self, self._keeper, self.around, self._taking)
        resumed = self._returning.resume()
        atexit.register(self.close)
        if not resumed:
            self._keep("start")
        self._stepped_at = stepper.step_number
        self._planned = Planned(self.registry, stepper)
        gpus = self.around.spec.resources.gpus * self.around.spec.resources.nodes
        # Said with the first step: who has none to do any more says nothing.
        self._facts = {**of_devices(stepper, gpus), **of_schedules(self.registry)}

    def _close_feeds(self) -> None:
        """No more batches are wanted: workers end."""

    def _settle(self) -> None:
        """Readings wait a second for company: a kill would leave a gap before a checkpoint."""
        for sink in list(self.stepper.sinks):
            sink.flush()

    def _between(self, feed: Feed, first: int) -> bool:
        """Close the pass; whether the run went back."""
        stepper = self.stepper
        self._has_parts = not stepper.has_stepped
        if self._has_parts:
            none_yet = stepper.step_number == self._stepped_at
            if self._forgotten is not None and none_yet and self._forgotten.has_stepped:
                self.teller.once(
                    "warning: optimizer.step() was called, and not run.step(optimizer): "
                    "nothing is measured, gated or saved"
                )
            # A part of an accumulation: the state is saved after its step, or at the epoch's end.
            return False
        self.place.taken = feed.taken
        self.trail.add(stepper.step_number, self.place.epoch, first, feed.taken)
        self._ask()
        stepper.log(epoch=self._epoch_now(feed), **self._data.take(), **self._planned.now)
        self._total_steps = self._steps_in_all(feed, first)
        if self._total_steps is not None:
            self._facts[names.TOTAL] = float(self._total_steps)
        stepper.log(**self._facts)
        self._facts = {}
        incidents = stepper.end()
        if self._late_scaler is not None:
            names_for_it = chain(["scaler"], (f"scaler_{number}" for number in count(2)))
            free = next(name for name in names_for_it if name not in self.registry.things)
            self.registry.add(free, self._late_scaler)
            self._late_scaler = None
        keeper = self._kept
        for step, healthy in stepper.judged:
            keeper.note(step, healthy=healthy)
        acting = self._acting(incidents)
        if acting is not None and self._returning.heal(self._beside(acting)):
            # What was asked for on the way is asked for anew.
            self._asked_at = -1000
            return True
        if stepper.judged:
            keeper.confirm(stepper.judged[-1][0] + 1)
        self._obey()
        self.teller.write_waiting()
        self._look_once()
        self._show()
        return False

    def _close_broken(self) -> bool:
        """Close the pass that a `break` left open; whether the run went back."""
        broken, self._broken = self._broken, None
        if broken is None:
            return False
        self._is_short = True
        return self.stepper.has_stepped and self._between(*broken)

    def _save_broken(self) -> None:
        """The program ends, and has left its loop by `break`."""
        broken, self._broken = self._broken, None
        if broken is None:
            return
        if self.ranks.size > 1:
            self.teller.say("warning: the loop was left by break, and its end is not saved")
        else:
            if self.stepper.has_stepped:
                self.place.taken = broken[0].taken
                self.stepper.end()
            self._keep("end")
            self.teller.say(f"the loop was left by break: saved at step {self.step_number}")
        self.teller.say("run.stop() ends a loop so that it stays ended at a restart")

    def _epoch_now(self, feed: Feed) -> float:
        part = feed.taken / feed.length if feed.length else 0.0
        return self.place.epoch + min(part, 1.0)

    def _steps_in_all(self, feed: Feed, first: int) -> int | None:
        """At the end of this loop, as far as anybody knows."""
        step, epochs = self.stepper.step_number + 1, self._epochs_wanted
        return self._total.after(step, self.place, first=first, length=feed.length, epochs=epochs)

    def _ask(self) -> None:
        """What this rank wants of all; it rides on what they tell each other anyhow."""
        stepper = self.stepper
        wishes, step = stepper.wishes, stepper.step_number
        if self._ends.asked:
            wishes["wish/end"] = 1.0
        if self._own_act is not None:
            wishes["wish/back"] = 1.0
        obeyed = step + stepper.lag.steps
        if self.is_main and step >= self._asked_at + stepper.lag.steps:
            if self._why is None and self._requests.any():
                self._why = "request"
            if self._why is None and self._kept.is_due(obeyed):
                self._why = "every"
            if self._why is not None:
                wishes["wish/save"] = 1.0
                self._asked_at = step

    def _acting(self, incidents: list[Incident]) -> Incident | None:
        """The incident that all ranks act on now."""
        for incident in incidents:
            if not incident.acts:
                self.teller.incident(incident, self.around.segment)
        acting = [each for each in incidents if each.acts]
        shared = [each for each in acting if each.kind in NUMERIC]
        agreed = self.stepper.agreed
        if shared:
            self._own_act = None
            agreed.discard("wish/back")
            return shared[0]
        if self.ranks.size == 1:
            return acting[0] if acting else None
        if acting:
            # A rule judges by this rank's own numbers: the others must hear of it first.
            self._own_act = acting[0]
        if "wish/back" in agreed:
            agreed.discard("wish/back")
            own, self._own_act = self._own_act, None
            found = self.ranks.gathered(own.to_json() if own is not None else None)
            # None, where the wish was repeated on its way and granted meanwhile.
            return next((Incident.from_json(each) for each in found if each is not None), None)
        return None

    def _look_within(self) -> None:
        """While a training that was gone back from may get there again, see what it divides by."""
        if not self.healer.expects_more(self.step_number):
            self._divisions = None
            return
        if self._divisions is None:
            self._divisions = Divisions(self.registry.of_kind("module"), self.teller.once)
        self._divisions.begin()

    def _look_away(self) -> None:
        if self._divisions is not None:
            self._divisions.end()

    def _beside(self, incident: Incident) -> Incident:
        """With the division beside the parameter to blame, if divisions were looked at."""
        watched = self.stepper.watched.get(incident.optimizer or names.MAIN)
        if self._divisions is None or watched is None:
            return incident
        division = self._divisions.beside(incident.parameter, watched.parameters.all)
        self._divisions.forget()
        return dataclasses.replace(incident, division=division)

    def _obey(self) -> None:
        """Do what was agreed on."""
        stepper = self.stepper
        agreed, stepper.agreed = stepper.agreed, set()
        if "wish/end" in agreed:
            self._leave()
        step = stepper.step_number
        if "wish/save" in agreed:
            self._keep(self._why or "every")
        elif self._kept.is_due_in_memory(step):
            self._keep(None)

    def _leave(self) -> None:
        """Save at this step, on all ranks, and end: the next attempt goes on."""
        self.teller.say(f"told to end: saving at step {self.step_number}")
        self._keep("told to end")
        self.phase = SAVING
        self.close()
        raise SystemExit(TERMINATED)

    def _keep(self, why: str | None, *, is_good: bool = False) -> None:
        """Take the state as it is now; on disk where there is a reason."""
        phase = self.phase
        if why is not None:
            self.phase = SAVING
        self._taking.take(why, is_good=is_good)
        self.phase = phase
        if why is not None:
            self._why, self.is_best = None, False
            self._requests.serve()

    def _look_once(self) -> None:
        """What was forgotten shows after the first step, and when a schedule should have moved."""
        steps = self.stepper.step_number - self._stepped_at
        is_new = steps in self._looks
        if is_new:
            # Another optimizer may have had its first turn only then.
            self._looks.discard(steps)
            self._taking.make_room()
        if self._forgotten is None:
            return
        if steps == 1 and is_new:
            for text in self._forgotten.after_a_step():
                self.teller.say(f"warning: {text}")
        if steps == STEPS and self._epochs_wanted == 1:
            # Of several epochs, each may have a schedule's step at its end.
            self._look_at_schedules()

    def _look_at_schedules(self) -> None:
        if self._forgotten is not None:
            for text in self._forgotten.schedules():
                self.teller.say(f"warning: {text}")
            self._forgotten.close()
            self._forgotten = None

    def _show(self) -> None:
        progress = self.teller.progress
        if not progress.wanted:
            return
        stepper = self.stepper
        loss = stepper.latest.known.get(names.LOSS) if stepper._sender.used else None
        progress.update(
            stepper.step_number,
            total=self._total_steps,
            epoch=self.place.epoch,
            epochs=self._epochs_wanted,
            loss=loss,
        )

    def _end_epoch(self) -> None:
        """The epoch and whatever the program did after it are over."""
        stepper = self.stepper
        taken, was_stopped = self.place.taken, self.place.stopped
        self.place.next_epoch()
        self._is_open = False
        if not taken:
            return
        if not self._is_short and not was_stopped:
            stepper.log(**{"data/batches": float(taken)})
        self._is_short = False
        stepper.end_epoch()
        steps = stepper.step_number - self._stepped_at
        if steps >= STEPS or (steps > 0 and self.place.epoch > 1):
            self._look_at_schedules()
        due = self._kept.is_due(stepper.step_number, self.place.epoch)
        why = self.ranks.told(self._why or ("every" if due else None))
        if why is not None:
            self._keep(why)

    def _end_loop(self) -> None:
        """All epochs are done: what is in flight is used, and the end is saved."""
        for incident in self.stepper.finish():
            self.teller.incident(incident, self.around.segment)
        self._close_feeds()
        self._keep("end")
        self._kept.saver.wait()
        self._tell_unsaved()
        self.teller.progress.end()
        self._ends.remove()
        if any(self.ranks.gathered(self._ends.asked)):
            # After the last pass; all is saved.
            self.close()
            raise SystemExit(TERMINATED)
        for path in self.healer.unread():
            self.teller.say(f"warning: params.{path} was changed, and nothing has read it since")

    def _tell_unsaved(self) -> None:
        """The training is done, and its end is not on the disk: whoever looks must see it."""
        reason = self._kept.saver.unsaved
        if reason is not None:
            self.teller.write("unsaved", step=self.step_number, reason=reason)

    def close(self) -> None:
        """Have all written that is on its way, and workers ended, who hear no SIGTERM."""
        self._look_away()
        # To end may take longer than a step ever did: it must not look as if one hung.
        self.phase = BETWEEN
        if self._pulse is not None:
            self._pulse.say()
        self._close_feeds()
        if self._keeper is not None:
            self._save_broken()
            self._keeper.saver.close()
        self.teller.write_waiting(at_once=True)
        if self._stepper is not None:
            for sink in self._stepper.sinks:
                sink.close()
        if self._forgotten is not None:
            self._forgotten.close()

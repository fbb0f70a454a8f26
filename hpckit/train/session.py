"""A training inside a run: it goes on where it stood, is saved, healed, and told about.

    run = hpckit.attach()
    run.register(model=model, optimizer=optimizer, schedule=schedule)
    for batch in run.batches(loader, epochs=run.params["epochs"]):
        loss = compute_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        run.step(optimizer, loss=loss)
        schedule.step()

All that changes state from outside happens between two passes of the loop's body: there no graph
is alive, and both optimizers of a GAN have stepped.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from hpckit.checkpoint.manifest import Checkpoint
from hpckit.errors import UsageError
from hpckit.monitor import reading as names
from hpckit.monitor.incident import Incident
from hpckit.requests import Requests
from hpckit.spec.parts import NUMERIC
from hpckit.train import random_states
from hpckit.train.best import Best, Mode
from hpckit.train.clip import Clip
from hpckit.train.data_readings import DataReadings
from hpckit.train.ends import Ends
from hpckit.train.facts import Planned, of_devices, of_schedules
from hpckit.train.feed import Feed
from hpckit.train.forgotten import STEPS, Forgotten
from hpckit.train.healing import Healer, of_spec
from hpckit.train.keeper import Keeper
from hpckit.train.place import Place, Trail
from hpckit.train.ranks import Ranks
from hpckit.train.registry import Registry
from hpckit.train.returning import Returning
from hpckit.train.stepper import Stepper
from hpckit.train.surroundings import Surroundings
from hpckit.train.telling import Teller
from hpckit.train.tree import mapped, unpacked

# What run.register takes beside things to save.
CLIP = "clip"
TERMINATED = 143


class Session:
    """One process's part in a run: what `hpckit.attach()` gives inside one."""

    inside = True

    def __init__(self, surroundings: Surroundings, params: Mapping[str, Any]) -> None:
        self._around = surroundings
        # Of several processes: their group may be made after we were.
        self.ranks = Ranks()
        self.teller: Teller = surroundings.teller(self.ranks)
        self.registry = Registry()
        self.registry.tell = self.teller.say
        self.healer: Healer = surroundings.healer(params)
        self.params = self.healer.params
        # A person's own plain values; saved with the rest.
        self.values: dict[str, Any] = {}
        self.best_values = Best()
        self.place = Place()
        self.trail = Trail()
        self._clips: dict[str, Any] = {}
        self._stepper: Stepper | None = None
        self._keeper: Keeper | None = None
        self._ends = Ends()
        self._requests = Requests(surroundings.run_dir)
        self._data = DataReadings()
        self._loops = 0
        self._epochs_running = False
        self._feeds: dict[int, Feed] = {}
        self._feed: Feed | None = None
        self._is_open = False
        self._epochs_wanted: int | None = None
        self._why: str | None = None
        self._asked_at = -1000
        self._own_act: Incident | None = None
        self._stopping = False
        self._forgotten: Forgotten | None = None
        self._stepped_at = 0
        self._late_scaler: Any = None
        # Whether there are gradients and readings of passes whose step is still to come.
        self._has_parts = False
        self._random: dict[str, Any] | None = None
        # Targets of before the present loop are another loop's.
        self.least = 0
        # Where to go on, if that had to be known before all was registered.
        self.chosen: Checkpoint | None = None

    # What a person says at first.

    def register(self, clip: Any = None, **things: Any) -> None:
        """Name what is state: models, optimizers, schedules, a scaler, whatever has state_dict.

        `clip` is a norm, a `Clip`, or these by optimizer; the spec's `monitor.optimizers` stands
        above it.
        """
        if clip is not None:
            self._clips = dict(clip) if isinstance(clip, Mapping) else {"": clip}
        for name, thing in things.items():
            if thing is None:
                continue
            self.registry.add(self._named(name), thing)
            if self._stepper is not None and isinstance(thing, torch.optim.Optimizer):
                raise UsageError(
                    "register: an optimizer came after the loop began",
                    "register all of them before run.batches",
                )

    def _named(self, name: str) -> str:
        # The name that logs and readings have for an optimizer that nobody named.
        return names.MAIN if name == "optimizer" else name

    @property
    def stepper(self) -> Stepper:
        """All that measures, clips, gates and steps."""
        if self._stepper is None:
            self._stepper = self._new_stepper()
        return self._stepper

    def _new_stepper(self) -> Stepper:
        optimizers = self.registry.of_kind("optimizer")
        if not optimizers:
            raise UsageError(
                "no optimizer was registered",
                "run.register(model=model, optimizer=optimizer) before run.batches",
            )
        models = self.registry.of_kind("module")
        clips: dict[str, Clip | float] = {}
        asked = self._around.spec.monitor.optimizers
        for name in optimizers:
            own = asked.get(name) or (asked.get("optimizer") if name == names.MAIN else None)
            clip = (
                of_spec(own.clip)
                if own is not None
                else self._clips.get(
                    name, self._clips.get("optimizer" if name == names.MAIN else "", None)
                )
            )
            if clip is None and own is None:
                clip = self._clips.get("")
            if clip is not None:
                clips[name] = clip
        unknown = (
            set(asked) - set(optimizers) - ({"optimizer"} if names.MAIN in optimizers else set())
        )
        if unknown:
            known = ", ".join(optimizers)
            raise UsageError(
                f"monitor.optimizers: no optimizer is registered as {', '.join(sorted(unknown))}",
                f"registered are: {known}",
            )
        self.healer.know(list(optimizers))
        return Stepper(
            model=models,
            optimizers=optimizers,
            clip=clips or None,
            lookout=self._around.lookout(),
            sinks=self._around.sinks(self.ranks),
        )

    # What a person reads.

    @property
    def epoch(self) -> int:
        """Epochs that are behind us."""
        return self.place.epoch

    @property
    def step_number(self) -> int:
        """Steps that are behind us."""
        return self.stepper.step_number

    @property
    def rank(self) -> int:
        return self.ranks.rank

    @property
    def world_size(self) -> int:
        return self.ranks.size

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which speaks for all."""
        return self.ranks.rank == 0

    @property
    def epoch_ends(self) -> bool:
        """Whether this pass is the last of its epoch: validate here, step epoch schedules here."""
        if self._feed is None or self._feed.length is None:
            raise UsageError(
                "run.epoch_ends: the loader does not know how many batches it has",
                "write `for epoch in run.epochs(n): for batch in run.batches(loader): ...`",
            )
        return self._feed.is_last

    # The loop.

    def epochs(self, number: int) -> Iterator[int]:
        """The epochs that are left; what comes after the inner loop belongs to the epoch."""
        if not self._enter(number):
            return
        self._epochs_running = True
        try:
            while self.place.epoch < number and not self._stopping:
                yield self.place.epoch
                self._end_epoch()
        finally:
            self._epochs_running = False
        self._end_loop()

    def batches(
        self,
        loader: Iterable[Any],
        *,
        epochs: int | None = None,
        accumulate: int = 1,
        progress: bool | None = None,
    ) -> Iterator[Any]:
        """The batches that are left, from where the run stands.

        With `accumulate` each is a list of so many: the body is then one step of all of them.
        """
        if accumulate < 1:
            raise UsageError(f"accumulate must be at least 1, not {accumulate}")
        if progress is not None:
            self.teller.progress.wanted = progress and self.is_main
        feed = self._feed_of(loader)
        if self._epochs_running:
            if epochs is not None:
                raise UsageError("run.batches: inside run.epochs it takes no epochs")
            yield from self._one_epoch(feed, accumulate)
            return
        if not self._enter(1 if epochs is None else epochs):
            return
        assert self._epochs_wanted is not None
        while self.place.epoch < self._epochs_wanted and not self._stopping:
            yield from self._one_epoch(feed, accumulate)
            if not self._stopping:
                self._end_epoch()
        self._end_loop()

    def _feed_of(self, loader: Any) -> Feed:
        feed = self._feeds.get(id(loader))
        if feed is None:
            # It holds on to its loader: no other can have the same id.
            feed = self._feeds[id(loader)] = Feed(loader)
        return feed

    def _enter(self, epochs: int) -> bool:
        """Begin or go on with the program's next loop; not with one that is behind us."""
        self._begin()
        loop, self._loops = self._loops, self._loops + 1
        if loop < self.place.loop:
            return False
        if loop > self.place.loop:
            self.place = Place(loop=loop)
            self._is_open = False
            self.trail = Trail()
            self.least = self.step_number
            self._keep("epoch", is_good=True)
        self._epochs_wanted = epochs
        self._stopping = False
        self._ends.install()
        return True

    def _begin(self) -> None:
        """Once, before the first batch: what is registered by now goes on where it stood."""
        if self._keeper is not None:
            return
        self.ranks.join()
        stepper = self.stepper
        self._forgotten = Forgotten(self.registry)
        self._keeper = self._around.keeper(self.ranks, self.teller)
        self._keeper.saver.settle = self._settle
        self._returning = Returning(self, self._keeper, self._around)
        resumed = self._returning.resume()
        atexit.register(self.close)
        if not resumed:
            self._keep("start")
        self._stepped_at = stepper.step_number
        self._planned = Planned(self.registry, stepper)
        gpus = self._around.spec.resources.gpus * self._around.spec.resources.nodes
        stepper.log(**of_devices(stepper, gpus), **of_schedules(self.registry))

    def _settle(self) -> None:
        """Readings wait a second for company: a kill would leave a gap before a checkpoint."""
        for sink in list(self.stepper.sinks):
            sink.flush()

    def _one_epoch(self, feed: Feed, accumulate: int) -> Generator[Any, None, None]:
        """The batches of the present epoch, and of one before it that a rollback leads to."""
        self._feed = feed
        try:
            while True:
                went_back = yield from self._passes(feed, self._open(feed), accumulate)
                if not went_back:
                    return
        except BaseException:
            feed.close()
            raise

    def _open(self, feed: Feed) -> Iterator[Any]:
        place = self.place
        feed.skip = list(place.skip)
        batches = feed.epoch(place.epoch, start=place.taken, begun=place.begun)
        if self._random is not None:
            random_states.restore(self._random)
            self._random = None
        self._is_open = True
        return batches

    def _passes(
        self, feed: Feed, batches: Iterator[Any], accumulate: int
    ) -> Generator[Any, None, bool]:
        """Hand out batches, and do what is to be done after each pass; whether it went back."""
        # Of several passes that make one step, the first one's.
        first = feed.taken
        while True:
            began = time.perf_counter()
            taken = list(islice(batches, accumulate))
            if not taken:
                self.place.taken = feed.taken
                return False
            waited = time.perf_counter() - began
            for batch in taken:
                self._data.note(batch, waited / len(taken), feed.length)
            yield taken if accumulate > 1 else taken[0]
            is_step = self.stepper.has_stepped
            if self._between(feed, first):
                return True
            if self._stopping:
                return False
            first = feed.taken if is_step else first

    # Between two passes.

    def _between(self, feed: Feed, first: int) -> bool:
        """Close the pass; whether the run went back."""
        stepper = self.stepper
        self._has_parts = not stepper.has_stepped
        if self._has_parts:
            # A part of an accumulation: the state is saved after its step, or at the epoch's end.
            return False
        self.place.taken = feed.taken
        self.trail.add(stepper.step_number, self.place.epoch, first, feed.taken)
        self._ask()
        stepper.log(epoch=self._epoch_now(feed), **self._data.take(), **self._planned.now)
        incidents = stepper.end()
        if self._late_scaler is not None:
            self.registry.add("scaler", self._late_scaler)
            self._late_scaler = None
        keeper = self._kept
        for step, healthy in stepper.judged:
            keeper.note(step, healthy=healthy)
        acting = self._acting(incidents)
        if acting is not None and self._returning.heal(acting):
            return True
        if stepper.judged:
            keeper.confirm(stepper.judged[-1][0] + 1)
        self._obey()
        self._planned.look()
        self._look_once()
        self._show()
        return False

    @property
    def _kept(self) -> Keeper:
        assert self._keeper is not None
        return self._keeper

    def _epoch_now(self, feed: Feed) -> float:
        part = feed.taken / feed.length if feed.length else 0.0
        return self.place.epoch + min(part, 1.0)

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
                self.teller.incident(incident, self._around.attempt)
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
        self._keep("time limit")
        self.close()
        raise SystemExit(TERMINATED)

    def _keep(self, why: str | None, *, is_good: bool = False) -> None:
        """Take the state as it is now; on disk where there is a reason."""
        self._returning.take(why, is_good=is_good)
        if why is not None:
            self._why = None
            self._requests.serve()

    def _look_once(self) -> None:
        """What was forgotten shows after the first step, and when a schedule should have moved."""
        if self._forgotten is None:
            return
        steps = self.stepper.step_number - self._stepped_at
        if steps == 1:
            self._returning.make_room()
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
        feed, stepper = self._feed, self.stepper
        total = None
        if feed is not None and feed.length and self._epochs_wanted:
            done = self.place.epoch * feed.length + self.place.taken
            if done:
                all_batches = self._epochs_wanted * feed.length
                total = round(stepper.step_number * all_batches / done)
        loss = stepper.latest.known.get(names.LOSS) if stepper._sender.used else None
        progress.update(
            stepper.step_number,
            total=total,
            epoch=self.place.epoch,
            epochs=self._epochs_wanted,
            loss=loss,
        )

    def _end_epoch(self) -> None:
        """The epoch and whatever the program did after it are over."""
        stepper = self.stepper
        taken = self.place.taken
        self.place.next_epoch()
        self._is_open = False
        if not taken:
            return
        stepper.log(**{"data/batches": float(taken)})
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
            self.teller.incident(incident, self._around.attempt)
        for feed in self._feeds.values():
            feed.close()
        self._keep("end")
        self._kept.saver.wait()
        self.teller.progress.end()
        self._ends.remove()
        if any(self.ranks.gathered(self._ends.asked)):
            # After the last pass; all is saved.
            self.close()
            raise SystemExit(TERMINATED)
        for path in self.healer.unread():
            self.teller.say(f"warning: params.{path} was changed, and nothing has read it since")

    # The body.

    def step(
        self,
        optimizer: Any = None,
        *,
        loss: float | Tensor | None = None,
        scaler: Any = None,
        closure: Callable[[], Any] | None = None,
    ) -> None:
        """Measure, gate, clip, step: no gradient is zeroed here, and no schedule moved."""
        if self._keeper is None:
            self._without_batches(optimizer)
        if scaler is not None and all(each is not scaler for each in self._scalers()):
            # Not yet: what a checkpoint has for it is another scale than this loss's.
            self._late_scaler = scaler
        self.stepper.step(optimizer, loss=loss, scaler=scaler, closure=closure)

    def _scalers(self) -> Iterable[Any]:
        return self.registry.of_kind("other").values()

    def _without_batches(self, optimizer: Any) -> None:
        """A loop of one's own: a pass is over when an optimizer's turn comes again."""
        self.teller.once(
            "this loop does not use run.batches: steps are watched and gated, but nothing is "
            "saved, and no rollback is possible; a relaunch begins where the program itself does"
        )
        stepper = self.stepper
        name = stepper.name_of(optimizer)
        if name in stepper.stepped:
            for incident in stepper.end():
                self.teller.incident(incident, self._around.attempt)
            stepper.agreed.clear()

    def log(self, **values: float | Tensor) -> None:
        """Add numbers to this step's reading: `log(mel=loss_mel)` is train/mel."""
        self.stepper.log(**values)

    def best(self, value: float | Tensor, *, mode: Mode = "min", name: str = "metric") -> bool:
        """Take in a validation's value; whether it is the best so far: then the state is kept."""
        number = float(value)
        better = self.best_values.better(name, number, mode, self.step_number)
        self.stepper.log(**{f"val/{name}": number})
        if better and self.is_main:
            self._why = "best"
        return better

    def save(self) -> None:
        """Ask for a checkpoint at the end of this pass."""
        if self.is_main:
            self._why = "request"

    def stop(self) -> None:
        """End the loop after this pass, as if all epochs were done."""
        self._stopping = True

    def close(self) -> None:
        """Have all written that is on its way."""
        if self._keeper is not None:
            self._keeper.saver.close()
        if self._stepper is not None:
            for sink in self._stepper.sinks:
                sink.close()
        if self._forgotten is not None:
            self._forgotten.close()

    # State.

    def shared_state(self, *, sharded: bool) -> dict[str, Any]:
        """What is the same on all ranks, and saved by rank 0."""
        kinds = ("schedule",) if sharded else ("module", "optimizer", "schedule")
        return {
            "items": self.registry.take(kinds),
            "changes": len(self.healer.plans),
            "step": self.step_number,
        }

    def own_state(self) -> dict[str, Any]:
        """What is this rank's own."""
        place = self.place.state_dict()
        if self._is_open and self._feed is not None:
            place["begun"] = self._feed.state_dict()
        state = {
            "random": random_states.capture(),
            "place": place,
            "items": self.registry.take(("other",)),
            "values": dict(self.values),
            "best": self.best_values.state_dict(),
        }
        if self._has_parts:
            state["parts"] = {
                "gradients": self.registry.gradients(),
                "data": self._data.state_dict(),
            }
        return state

    def plain_state(self) -> dict[str, Any]:
        """What watches, and remembers: who goes back in this process has it still."""
        return {
            "stepper": self.stepper.state_dict(),
            "bad_steps": list(self._kept.bad_steps),
        }

    def load(self, shared: dict[str, Any], own: dict[str, Any], *, again: bool) -> None:
        """Put state back; `again`: into the process that it was taken in."""
        self.registry.load(shared["items"], again=again)
        self.registry.load(own["items"], again=again)
        # Copies: the program may change these in place, and a snapshot may be gone back to twice.
        values, place = (
            mapped(own[name], lambda each: each.clone()) for name in ("values", "place")
        )
        self.values.clear()
        self.values.update(unpacked(values))
        self.best_values.load_state_dict(own["best"])
        self.place = Place.of(place)
        random_states.restore(own["random"])
        parts = own.get("parts", {})
        self._has_parts = bool(parts)
        self.registry.put_gradients(parts.get("gradients", {}))
        self._data.load_state_dict(parts.get("data", {}))
        # Opening an epoch in its midst draws: then they are put back once more.
        self._random = own["random"] if self.place.begun is not None else None
        if again:
            # What was the best has not happened.
            self._why = None if self._why == "best" else self._why
            self.stepper.went_back(shared["step"])
        else:
            self.stepper.load_state_dict(own["stepper"])
            self._kept.bad_steps = list(own["bad_steps"])

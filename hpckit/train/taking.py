"""Taking the session's state: in memory to go back to, and on disk to come back to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hpckit.train.keeper import Keeper
from hpckit.train.sharded import Sharded
from hpckit.train.snapshots import all_bad
from hpckit.train.tree import tensors_of

if TYPE_CHECKING:
    from hpckit.train.between import Between


class Taking:
    """Takes the state of all that is registered, in this process or spread over all."""

    def __init__(self, session: Between, keeper: Keeper) -> None:
        self.session = session
        self.keeper = keeper
        self.sharded = Sharded(session.registry)
        self._is_sharded = self.sharded.any
        built = {"items": session.registry.take(("module", "other"))}
        keeper.writer.never_finite = all_bad(tensors_of(built))

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
                moment=(session.place.loop, session.place.epoch, session.place.taken),
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
            "changes": len(session.healer.in_force),
            "best": session.is_best,
            "metrics": {k: v for k, v in session.best_values.values.items() if math.isfinite(v)},
            "params": sum(each.numel() for model in models for each in model.parameters()),
        }

    def make_room(self) -> None:
        """After the first step, when all state is there: memory for going back."""
        if not self._is_sharded:
            session = self.session
            self.keeper.make_room(session.shared_state(sharded=False), session.own_state())

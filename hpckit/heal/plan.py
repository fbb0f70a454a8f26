"""What the policy answers to an incident: pure data, and a line for a person."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hpckit.heal.changes import asked
from hpckit.spec.parts import Change

Do = Literal["tell", "skip", "rollback", "relaunch", "resubmit", "stop"]
# The plans after which the run goes on from a state of before.
RESTARTS: tuple[Do, ...] = ("rollback", "relaunch", "resubmit")
# The exit code of a program that cannot go back by itself: its plan stands in the ledger, and
# whoever started it is to start it again from a checkpoint. No failure has this code by custom.
RESTART_CODE = 76


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do, with which changes, and why."""

    do: Do
    reason: str
    changes: Mapping[str, Change] = field(default_factory=dict)
    # The optimizers whose clip and lr change; None is all of them.
    of: tuple[str, ...] | None = None
    skip_batches: int = 0
    # The step that first showed the trouble: a state of a later step may be damaged by it.
    before: int | None = None
    # How many good states further back than the newest good one of that step or an earlier one.
    back: int = 0
    # The numbers are not to blame: any state that is intact will do, the newest first.
    intact: bool = False
    # Nodes that the next attempt must not get, and how long it waits for a better cluster.
    exclude: tuple[str, ...] = ()
    wait_s: int = 0
    # Of `stop`: what a person needs in order to go on.
    diagnosis: str | None = None

    @property
    def restarts(self) -> bool:
        """Whether the run goes on from a state of before."""
        return self.do in RESTARTS

    def __str__(self) -> str:
        if self.do == "stop":
            return f"stop: {self.diagnosis or self.reason}"
        parts = [_DOES[self.do]] if not self.restarts else [self._where()]
        if self.changes:
            parts.append(asked(self))
        if self.skip_batches:
            parts.append(f"{self.skip_batches} batch{'es' * (self.skip_batches > 1)} skipped")
        if self.exclude:
            parts.append(f"without {', '.join(self.exclude)}")
        if self.wait_s:
            parts.append(f"not within {self.wait_s} s")
        return ", ".join(parts)

    def _where(self) -> str:
        if self.intact:
            return f"{_DOES[self.do]} the newest state that is intact"
        since = "" if self.before is None else f" before step {self.before}"
        if not self.back:
            return f"{_DOES[self.do]} the newest good state{since}"
        states = "one good state" if self.back == 1 else f"{self.back} good states"
        return f"{_DOES[self.do]} {states} further back than the newest{since}"

    def to_json(self) -> dict[str, Any]:
        """As JSON has it, with the line for a person."""
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        fields["changes"] = {name: _fields(change) for name, change in self.changes.items()}
        fields["of"] = None if self.of is None else list(self.of)
        fields["exclude"] = list(self.exclude)
        return {**fields, "sentence": str(self)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Plan:
        """The plan again; what another version wrote beside it is passed over."""
        names = [each.name for each in dataclasses.fields(cls)]
        known = {name: fields[name] for name in names if name in fields}
        changes = {name: Change(**each) for name, each in known.pop("changes", {}).items()}
        of = known.pop("of", None)
        exclude = tuple(known.pop("exclude", ()))
        return cls(**known, changes=changes, of=None if of is None else tuple(of), exclude=exclude)


_DOES: dict[Do, str] = {
    "tell": "nothing is done",
    "skip": "this update is left out",
    "rollback": "go back to",
    "relaunch": "start the processes again from",
    "resubmit": "end this attempt, and begin the next one from",
}


def _fields(change: Change) -> dict[str, Any]:
    """What a change says; what it does not say is left out."""
    return {name: value for name, value in vars(change).items() if value is not None}

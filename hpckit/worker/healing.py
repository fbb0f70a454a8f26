"""What the worker does about a launch that ended: it asks the policy, and writes the answer down.

The decision is the same that a training makes of its numbers: from the incident, what was done
before by the ledger, and the spec. What it decides is written before it is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.checkpoint.lineage import believed
from hpckit.errors import HpckitError
from hpckit.heal import Plan, Rules, decide
from hpckit.heal.history import closed, history_of
from hpckit.ledger import Event, is_by_hand
from hpckit.monitor.incident import Incident
from hpckit.units import format_size
from hpckit.worker import evidence
from hpckit.worker.evidence import Evidence
from hpckit.worker.launch import rank_exits
from hpckit.worker.outcome import Outcome
from hpckit.worker.own_returning import OwnReturning

if TYPE_CHECKING:
    from hpckit.run import Attempt, Run
    from hpckit.spec import JobSpec

# Of these a program that keeps nothing has lost all: to begin anew is for its owner to say.
NEEDS_STATE = ("crash", "hang", "out_of_memory")


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What is known of a launch beside how its ranks ended."""

    step: int | None = None
    has_stepped: bool = False
    logs: Path | None = None
    node: str | None = None
    # So many nodes more than it must have.
    spare_nodes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What becomes of the attempt: the outcome, and the plan where there is one."""

    outcome: Outcome
    plan: Plan | None = None

    @property
    def starts_again(self) -> bool:
        """Whether the program is started once more in this allocation."""
        return self.plan is not None and self.plan.do in ("relaunch", "rollback")


@dataclass(kw_only=True)
class Healing:
    """Asks the policy for one attempt."""

    run: Run
    spec: JobSpec
    attempt: Attempt

    def answer(self, outcome: Outcome, launch: int | None, seen: Seen) -> Answer:
        """What is done after a launch, or without one after an attempt that could not say it."""
        if outcome.asked is not None:
            return self._as_asked(outcome)
        if outcome.kind is None or not self.run.is_served_by(self.attempt.number):
            return Answer(outcome=outcome)
        events = believed(self.run.ledger().events())
        if launch is None and (told := self._told(outcome, events)) is not None:
            return told
        found = _evidence(outcome, seen, has_gpus=bool(self.spec.resources.gpus))
        kind = found.kind if found is not None and outcome.kind == "crash" else outcome.kind
        if kind in NEEDS_STATE and not self._may_begin_again(kind, outcome, seen, events):
            return Answer(outcome=_with_words(outcome, found, self.attempt))
        incident = Incident(
            kind=kind,
            step=seen.step or 0,
            answer="act",
            said=_said(outcome, found, self.attempt),
            place=found.place if found is not None else None,
            node=seen.node or (_node(outcome, seen) if kind == "node_failure" else None),
            early=not seen.has_stepped,
        )
        plan = self.decided(incident, events, seen.spare_nodes)
        written = self.write(incident, plan, launch=launch, lines=found.lines if found else ())
        if not written and plan.do == "relaunch":
            # Who cannot remember its tries would go on for ever: attempts are counted otherwise.
            plan = dataclasses.replace(plan, do="resubmit")
        return Answer(outcome=_after(outcome, plan, incident), plan=plan)

    def _told(self, outcome: Outcome, events: list[Event]) -> Answer | None:
        """What was written of the attempt's end by who died then: its worker, or a link."""
        for event in reversed(events):
            if is_by_hand(event):
                return None
            about = event.data
            # Of a rollback the plan is that of who came before.
            is_mine = about["attempt"] == self.attempt.number and event.kind != "rollback"
            if not is_mine or not about.get("plan"):
                continue
            plan = Plan.from_json(about["plan"])
            # By another plan for a launch the attempt went on.
            if "launch" not in about or plan.do in ("resubmit", "stop"):
                incident = Incident.from_json(about["incident"])
                return Answer(outcome=_after(outcome, plan, incident), plan=plan)
        return None

    def decided(self, incident: Incident, events: list[Event], spare_nodes: int = 0) -> Plan:
        """The policy's word; `events` are those that are believed."""
        history = closed(history_of(events), incident.step, self.saved())
        rules = dataclasses.replace(Rules.of(self.spec), spare_nodes=spare_nodes)
        return decide(incident, history, rules)

    def decide_now(self, incident: Incident) -> Plan:
        """The policy's word about what has just been seen."""
        return self.decided(incident, believed(self.run.ledger().events()))

    def write(
        self,
        incident: Incident,
        plan: Plan,
        *,
        launch: int | None,
        lines: tuple[str, ...] = (),
        saved_before: float | None = None,
    ) -> bool:
        """The incident and the plan, in the ledger; whether that could be done.

        Not where another attempt serves the run: what is written would count for that one.
        """
        if not self.run.is_served_by(self.attempt.number):
            return False
        # In a file of its own: the attempt's may end in half a line, and its worker live on.
        ledger = self.run.ledger()
        given = {"attempt": self.attempt.number, "launch": launch, "saved_before": saved_before}
        about: dict[str, Any] = {k: value for k, value in given.items() if value is not None}
        kind = "restart" if plan.restarts else "stopped" if plan.do == "stop" else "incident"
        reason = {"reason": plan.diagnosis or plan.reason} if plan.do == "stop" else {}
        with contextlib.suppress(OSError):
            ledger.write(
                kind,
                **about,
                incident=incident.to_json(),
                plan=plan.to_json(),
                saved=self.saved(),
                lines=list(lines),
                **reason,
            )
            return True
        return False

    def saved(self) -> int | None:
        """The step of the newest state that could be gone on from; None where that is unknown."""
        from hpckit.checkpoint.store import Store

        # No reason not to end: what is wrong is told before the next launch.
        with contextlib.suppress(HpckitError, OSError):
            if self.spec.checkpoint.files:
                return self._own.saved()
            found = Store.of_run(self.run.dir).on_branch()
            return found[-1].step if found else None
        return None

    @property
    def _own(self) -> OwnReturning:
        return OwnReturning(run=self.run, spec=self.spec, attempt=self.attempt)

    def _may_begin_again(
        self, kind: str, outcome: Outcome, seen: Seen, events: list[Event]
    ) -> bool:
        """Whether something was kept, or the spec says that it is to be done all the same.

        A program that has never come so far and ends by itself has a mistake that stays in it.
        """
        if kind in self.spec.heal or self._has_trained(seen, events):
            return True
        keeps = self.spec.program.trainer is not None or bool(self.spec.checkpoint.files)
        return keeps and (outcome.program or {}).get("code", 137) > 128

    def _has_trained(self, seen: Seen, events: list[Event]) -> bool:
        """Whether the program ever came to its training."""
        if self.spec.checkpoint.files:
            # Of these the worker says where they go on, before they do.
            return seen.has_stepped or self.saved() is not None
        return any(event.kind == "resumed" for event in events)

    @staticmethod
    def _as_asked(outcome: Outcome) -> Answer:
        """The training has decided, and has written it down."""
        assert outcome.asked is not None
        plan = Plan.from_json(outcome.asked)
        return Answer(outcome=dataclasses.replace(outcome, reason=plan.reason), plan=plan)


def _evidence(outcome: Outcome, seen: Seen, *, has_gpus: bool) -> Evidence | None:
    """What the log of the rank that failed first says, and Slurm."""
    if seen.logs is None or outcome.kind != "crash":
        return None
    about = outcome.program or {"rank": 0, "code": 137}
    was_killed = about["code"] == 137
    with contextlib.suppress(OSError):
        said = (seen.logs / "srun.log").read_text(errors="replace")
        if was_killed and (found := evidence.in_srun(said)) is not None:
            return found
    from hpckit.logs import tail

    with contextlib.suppress(OSError):
        lines = tail(seen.logs / f"rank-{about['rank']}.log", evidence.LINES)
        return evidence.in_log(lines, was_killed=was_killed, has_gpus=has_gpus)
    return None


def _node(outcome: Outcome, seen: Seen) -> str | None:
    """Where the rank ran that failed first."""
    if seen.logs is None or outcome.program is None:
        return None
    rank = outcome.program["rank"]
    return next((each.node for each in rank_exits(seen.logs) if each.rank == rank), None)


def _said(outcome: Outcome, found: Evidence | None, attempt: Attempt) -> str:
    if found is None:
        return outcome.reason
    where = f" at {found.place.partition(': ')[0]}" if found.place is not None else ""
    # Of a step that Slurm ended, the reason is what Slurm said.
    reason = "" if found.said in outcome.reason else f" ({outcome.reason})"
    had = attempt.has.get("memory") if found.kind == "out_of_memory" else None
    more = f"needs more than {format_size(had)} of memory: " if had is not None else ""
    return f"{more}{found.said}{where}{reason}"


def _with_words(outcome: Outcome, found: Evidence | None, attempt: Attempt) -> Outcome:
    if found is None:
        return outcome
    return dataclasses.replace(outcome, reason=_said(outcome, found, attempt))


def _after(outcome: Outcome, plan: Plan, incident: Incident) -> Outcome:
    """The attempt's end by the plan."""
    if plan.do == "stop":
        return dataclasses.replace(outcome, state="stopped", reason=plan.diagnosis or plan.reason)
    if plan.restarts:
        return dataclasses.replace(outcome, state=None, reason=incident.said)
    return outcome

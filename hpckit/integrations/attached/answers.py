"""What is done about an incident in a program that cannot go back by itself: told, or ended."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.checkpoint.lineage import believed
from hpckit.heal import Plan
from hpckit.heal.plan import RESTART_CODE
from hpckit.integrations.attached.ending import Ending
from hpckit.integrations.attached.onlooker import Onlooker, Seat
from hpckit.monitor.incident import Incident
from hpckit.spec.parts import NUMERIC
from hpckit.train import recorded
from hpckit.train.healing import STOPPED, usual_norms
from hpckit.train.pulse import Pulse
from hpckit.worker.stall import LOG

if TYPE_CHECKING:
    from hpckit.train.ranks import Ranks
    from hpckit.train.surroundings import Surroundings
    from hpckit.train.telling import Teller

# One rank that has ended has the others killed: rank 0 writes first, and they wait so long for it.
PATIENCE_S, LOOK_S = 20.0, 0.2


class Answers:
    """Asks the policy, writes down what it says, and carries out what can be."""

    def __init__(
        self, around: Surroundings, ranks: Ranks, teller: Teller, onlooker: Onlooker, ending: Ending
    ) -> None:
        self.around, self.ranks, self.teller = around, ranks, teller
        self.onlooker, self.ending = onlooker, ending
        self.healer = around.healer({})
        # Without a word on how the program resumes, it would begin anew.
        self.resumes = bool(around.spec.checkpoint.files)
        self._changed: list[str] = []
        begun = self._unfinished = recorded.unfinished(believed(around.events()))
        self._untold = begun.incidents if begun is not None else []
        self._step = onlooker.step_number
        if begun is not None:
            # The program was ended for it, and is what goes on after that.
            self.healer.done(begun.incident, begun.plan, self._step, begun.usual)
        self._write("resumed", rollbacks=0, step=self._step, checkpoint=None)
        if path := os.environ.get("HPCKIT_PULSE"):
            # What is between two steps, a validation maybe, nobody knows.
            Pulse(Path(path), lambda: (onlooker.step_number, LOG)).start(os.environ)

    def change(self, seat: Seat) -> None:
        """Clip and step an optimizer as former plans have it."""
        for past in self.healer.in_force:
            said = self.healer.change_steps(past, self.onlooker, only=seat.name)
            self._changed += said if past.incident in self._untold else []

    def of(self, incidents: Sequence[Incident]) -> None:
        """Answer to what is wrong; may end the program."""
        self._go_on()
        for incident in incidents:
            # Rules judge by this rank's own numbers, and the others do not hear of it.
            if not incident.acts or (self.ranks.size > 1 and incident.kind not in NUMERIC):
                self.teller.incident(incident, self.around.segment)
            else:
                self._act(incident)
        self.teller.write_waiting()

    def _act(self, incident: Incident) -> None:
        plan: Plan = self.healer.plan(incident)
        if plan.restarts and not self.resumes:
            plan = Plan(do="tell", reason="checkpoint.files does not say how the program resumes")
        self.teller.incident(
            incident,
            self.around.segment,
            plan=plan.to_json(),
            usual=usual_norms(self.onlooker),
        )
        if plan.do == "stop":
            reason = plan.diagnosis or plan.reason
            self._write("stopped", reason=reason)
            self.teller.say(f"stopped: {reason}")
            self._end(STOPPED, plan)
        if plan.restarts:
            self.teller.say(f"{plan}: ending, to be started again")
            self._end(RESTART_CODE, plan)

    def _end(self, code: int, plan: Plan) -> None:
        self.teller.write_waiting(at_once=True)
        for sink in list(self.onlooker.sinks):
            sink.close()
        until = time.monotonic() + PATIENCE_S
        while self.ranks.rank != 0 and not self._is_written(plan) and time.monotonic() < until:
            time.sleep(LOOK_S)
        self.ending.ask(code)

    def _is_written(self, plan: Plan) -> bool:
        """Whether rank 0 has said its last word, which is the same as ours."""
        said = [e for e in self.around.events() if e.data.get("attempt") == self.around.attempt]
        if plan.do == "stop":
            return any(event.kind == "stopped" for event in said)
        return any(event.data.get("plan") == plan.to_json() for event in said)

    def finish(self) -> None:
        """The program ends: what is still in flight is used, and written."""
        onlooker = self.onlooker
        if self.ending.code is None:
            if onlooker.has_stepped:
                onlooker.close(late=True)
            for incident in onlooker.finish():
                self.teller.incident(incident, self.around.segment)
        self.teller.write_waiting(at_once=True)
        for sink in list(onlooker.sinks):
            sink.close()

    def _go_on(self) -> None:
        """With the first step it is known what the restart has changed: its end is written."""
        begun, self._unfinished = self._unfinished, None
        if begun is None:
            return
        self._write(
            "rollback",
            rollbacks=1,
            step=self._step,
            from_step=self._step,
            checkpoint=None,
            incident=begun.incident.to_json(),
            plan=begun.plan.to_json(),
            usual=dict(begun.usual),
            changed=self._changed,
            **recorded.told(begun.left_out),
            number=len(self.healer.in_force),
        )
        changes = "".join(f", {each}" for each in self._changed)
        self.teller.say(f"started again at step {self._step}{changes}")

    def _write(self, kind: str, **data: Any) -> None:
        around = self.around
        self.teller.write(kind, attempt=around.attempt, launch=around.launch, **data)

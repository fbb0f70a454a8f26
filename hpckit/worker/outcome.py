"""How an attempt ended, and whether that ends the run: pure, told by what is already known."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpckit.heal.plan import RESTART_CODE
from hpckit.scheduler.base import Cause, JobStatus

if TYPE_CHECKING:
    from hpckit.worker.launch import RankExit

# What a link exits with when the next one shall go on.
GO_ON = 75
EXIT_CODES = {"done": 0, "stopped": 3, "failed": 4, "cancelled": 4}
BY_EXIT_CODE: Mapping[int | None, str] = {0: "done", 3: "stopped", 4: "failed"}
TERMINATED = "terminated"
TIME_LIMIT = "time limit"
HANGS = "hang"
DIVERGES = "its numbers went wrong"
# What changes nothing about a decision that was made beside it.
BESIDE = (None, TIME_LIMIT, TERMINATED)
NOBODY_NEXT = "no attempt is queued: hpckit guard starts the next one"
SUPERSEDED = "another attempt serves the run"
NOT_STARTED = "the launch could not start"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """An attempt's end: a state where it ends the run too, None where the next link goes on."""

    state: str | None
    reason: str
    program: dict[str, Any] | None = None
    # What it is to the policy, where that has something to say about it.
    kind: str | None = None
    # The plan that the training itself has made, and ended for.
    asked: dict[str, Any] | None = None
    # What it needs this job does not have: the links after it do.
    needs_others: bool = False
    # The program did not say it itself: a lost node looks the same from here.
    is_doubtful: bool = False

    @property
    def exit_code(self) -> int:
        return GO_ON if self.state is None else EXIT_CODES[self.state]


def judge(
    exits: Sequence[RankExit],
    *,
    ranks: int,
    told: str | None,
    started: bool = True,
    srun_log: str = "",
    stopped: str | None = None,
    asked: dict[str, Any] | None = None,
) -> Outcome:
    """What the ranks' own exit codes say, beside what the program had been told.

    `stopped`: the training wrote down that it stops, and why. `asked`: or the plan that it wants
    to be started again by.
    """
    if told is not None and told.startswith("limits"):
        return Outcome(state="stopped", reason=told)
    says_so = any(exit_.code == EXIT_CODES["stopped"] for exit_ in exits)
    if stopped is not None and (told == DIVERGES or (told in BESIDE and says_so)):
        return Outcome(state="stopped", reason=stopped)
    if told == TIME_LIMIT:
        return Outcome(state=None, reason=TIME_LIMIT, kind="time_limit")
    if told is not None and told.startswith(HANGS):
        return Outcome(state="failed", reason=told, kind="hang")
    if told is not None:
        asked = asked if told == DIVERGES else None
        return Outcome(state=None, reason=told, asked=asked)
    if asked is not None and any(exit_.code == RESTART_CODE for exit_ in exits):
        return Outcome(state=None, reason=str(asked.get("reason", "")), asked=asked)
    bad = [exit_ for exit_ in exits if exit_.code != 0 or exit_.stage == "setup"]
    first = next((exit_ for exit_ in exits if exit_ in bad or exit_.was_told), None)
    if first is not None and first.was_told:
        # Nobody here told it: preemption speaks to the ranks alone, and so may an administrator.
        # That it saved and ended with 0 does not mean that it was done.
        return Outcome(state=None, reason=TERMINATED)
    if bad:
        first = bad[0]
        about = {"rank": first.rank, "code": first.code, "stage": first.stage}
        killed = first.code == 128 + signal.SIGKILL
        return Outcome(
            state="failed",
            reason=_failure(first, ranks),
            program=about,
            kind="crash" if first.stage == "program" else None,
            is_doubtful=killed,
        )
    if not exits and not started:
        # srun may have failed for a reason that passes: a controller that was away, a bad node.
        return Outcome(state=None, reason=f"{NOT_STARTED}: {srun_log or 'srun said nothing'}")
    if len(exits) < ranks:
        reason = f"{ranks - len(exits)} of {ranks} ranks ended without a word"
        reason = f"{reason}: {srun_log}" if srun_log else reason
        return Outcome(state="failed", reason=reason, kind="crash", is_doubtful=True)
    return Outcome(state="done", reason="done")


def _failure(exit_: RankExit, ranks: int) -> str:
    who = f"rank {exit_.rank}" if ranks > 1 else "the program"
    if exit_.stage == "setup":
        return f"the environment's setup ended with exit code {exit_.code}"
    if exit_.code - 128 in signal.valid_signals():
        return f"{who} was killed by {_signal_name(exit_.code - 128)}"
    return f"{who} ended with exit code {exit_.code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# What the scheduler's word for an end is to the policy.
KINDS: Mapping[Cause | None, str] = {
    Cause.NODE_FAIL: "node_failure",
    Cause.PREEMPTED: "preemption",
    Cause.TIMEOUT: "time_limit",
    Cause.OUT_OF_MEMORY: "out_of_memory",
}


def after_a_silent_end(status: JobStatus | None, *, is_ours: bool = False) -> Outcome:
    """What an attempt that wrote no end leaves behind, by the scheduler's word for it.

    `is_ours`: hpckit had said that it would cancel the job.
    """
    cause = status.cause if status is not None else None
    if cause is Cause.CANCELLED and is_ours:
        return Outcome(state=None, reason="ended for another attempt")
    if cause is Cause.CANCELLED:
        return Outcome(state="cancelled", reason="cancelled by scancel")
    if cause is Cause.FAILED and status is not None and status.exit_code == GO_ON:
        # It asked for the next link: the ranks alone had been told to end.
        return Outcome(state=None, reason=TERMINATED)
    # A worker that could not write its end down, on a full disk say, still ends with its code.
    code = 0 if cause is Cause.COMPLETED else status.exit_code if status is not None else None
    if cause in (Cause.COMPLETED, Cause.FAILED) and code in BY_EXIT_CODE:
        state = BY_EXIT_CODE[code]
        return Outcome(state=state, reason=f"{state}, by the worker's exit code alone")
    if cause is Cause.FAILED and status is not None and status.signal:
        reason = f"the worker was killed by {_signal_name(status.signal)}"
        return Outcome(state=None, reason=reason, kind="crash")
    if cause is Cause.FAILED:
        return Outcome(
            state="failed", reason="the worker itself died: hpckit logs --worker tells more"
        )
    if cause is None:
        return Outcome(state=None, reason="ended without a word")
    return Outcome(state=None, reason=cause.value, kind=KINDS.get(cause))

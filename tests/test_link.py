"""One link of a chain: what it does before and after the program, whatever came before it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpckit import cancelling, requests
from hpckit.clock import iso, now_iso
from hpckit.errors import HpckitError, SchedulerSilent, SubmissionRefused
from hpckit.files import write_json
from hpckit.heal import Plan
from hpckit.ledger import final
from hpckit.monitor.incident import Incident
from hpckit.run import IDENTITY, STARTS, identity, open_run
from hpckit.scheduler.base import Cause, Phase
from hpckit.spec import Change, spec_from_json
from hpckit.train.pulse import FENCED
from hpckit.worker import attempting, settling
from hpckit.worker import link as links
from hpckit.worker import watch as watches
from hpckit.worker.healing import Answer
from hpckit.worker.link import Link
from hpckit.worker.outcome import GO_ON, SUPERSEDED, Outcome
from hpckit.worker.signals import Signals
from hpckit.worker.stall import Stalls
from tests.test_outcome import status


class Answering:
    """A scheduler that says one thing after the other, and the last of them for ever."""

    kind = "slurm"

    def __init__(self, *queues, history=()):
        self.queues = list(queues)
        self.told = list(history)
        self.cancelled = []
        self.excluded = []

    def queue(self):
        answer = self.queues.pop(0) if len(self.queues) > 1 else self.queues[0]
        if answer is None:
            raise SchedulerSilent("no answer")
        return answer

    def nodes(self, partition):
        return ["n1", "n2"]

    def history(self, names, since):
        return self.told

    def update(self, array_id, tasks, changed):
        self.changed = (array_id, list(tasks), changed)
        self.excluded = list(changed.exclude)

    def cancel(self, job_ids, *, pending_only=False):
        self.cancelled.append((list(job_ids), pending_only))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setattr(settling.time, "sleep", lambda _: None)
    about = identity(run_id="a/b", name="a", scheduler="slurm", params={})
    write_json(tmp_path / IDENTITY, about)
    (tmp_path / "chains" / "001").mkdir(parents=True)
    found = open_run(tmp_path)
    assert found is not None
    write_spec(found)
    found.ledger("submitter").write("submit", chains=[1])
    return found


def write_spec(run, **more):
    spec = spec_from_json({"name": "a", "program": "x", "limits": {"attempts": 12}, **more})
    write_json(run.dir / "spec.json", spec.to_json())


def make_link(run, scheduler, task=2):
    chain = {"number": 1, "offset": 0, "size": 12, "home": str(run.dir)}
    return Link(run=run, chain=chain, task=task, scheduler=scheduler, signals=Signals())


def before(run, reason=None, **more):
    """An attempt that came before, and how it says that it ended."""
    about = {"job_id": "1_1", "started": "2026-01-01T00:00:00.000Z", **more}
    attempt = run.claim_attempt(about)
    run.ledger("attempt-001").write("attempt", number=1)
    if reason is not None:
        about = {"ended": "2026-01-01T01:00:00.000Z", "reason": reason}
        write_json(attempt.dir / "ended.json", about)
    return attempt


def job(phase, cause=None):
    return dataclasses.replace(status(cause), phase=phase)


def went_on(link, monkeypatch):
    """Whether the link would have begun an attempt."""
    begun = []
    monkeypatch.setattr(Link, "_attempt", lambda self, previous: begun.append(previous) or 0)
    link.serve()
    return bool(begun)


def test_a_scancel_whose_program_is_still_saving_is_waited_for_and_final(run, monkeypatch):
    before(run, "terminated")
    ending = [job(Phase.ENDING)]
    # The worker asked for the next link as it ended; a person's word stands above that.
    ended = dataclasses.replace(job(Phase.ENDED, Cause.CANCELLED), exit_code=75)
    slurm = Answering(ending, None, ending, [ended])
    assert not went_on(make_link(run, slurm), monkeypatch)
    assert final(run.ledger().events()).data["state"] == "cancelled"
    assert slurm.cancelled == [(["1"], True)]


def test_what_has_left_the_queue_is_looked_up_in_accounting(run, monkeypatch):
    before(run)
    slurm = Answering([], history=[job(Phase.ENDED, Cause.CANCELLED)])
    assert not went_on(make_link(run, slurm), monkeypatch)


def test_when_an_attempt_died_that_ended_the_run_is_written_down(run, monkeypatch):
    attempt = before(run)
    died = dataclasses.replace(job(Phase.ENDED, Cause.CANCELLED), ended="2026-01-01T00:20:00Z")
    assert not went_on(make_link(run, Answering([died])), monkeypatch)
    assert final(run.ledger().events()).data["state"] == "cancelled"
    assert attempt.ended() == {"ended": died.ended, "reason": "cancelled by scancel"}


@pytest.mark.parametrize("cause", [Cause.NODE_FAIL, Cause.PREEMPTED, Cause.TIMEOUT])
def test_after_a_lost_node_or_preemption_the_link_goes_on(run, monkeypatch, cause):
    before(run, "terminated")
    assert went_on(make_link(run, Answering([job(Phase.ENDED, cause)])), monkeypatch)


def test_an_attempt_that_asked_for_the_next_one_has_not_died(run, monkeypatch):
    """Preemption reaches the ranks alone; the worker then ends by itself, with 75."""
    before(run, "terminated")
    asked = dataclasses.replace(job(Phase.ENDED, Cause.FAILED), exit_code=75)
    assert went_on(make_link(run, Answering([asked])), monkeypatch)


def test_an_attempt_that_said_how_it_ended_is_not_asked_about(run, monkeypatch):
    before(run, "time limit")
    assert went_on(make_link(run, Answering(None)), monkeypatch)


@pytest.mark.parametrize("state", ["done", "failed", "cancelled", "stopped"])
def test_a_run_that_has_ended_is_left_alone(run, monkeypatch, state):
    run.ledger("attempt-001").write("finished", state=state, attempt=1)
    slurm = Answering([])
    assert not went_on(make_link(run, slurm), monkeypatch)
    assert slurm.cancelled == [(["1"], True)]


def test_a_wish_to_cancel_that_no_scancel_followed_is_obeyed(run, monkeypatch):
    run.ledger("person").write("cancel")
    assert not went_on(make_link(run, Answering([])), monkeypatch)
    assert final(run.ledger().events()).data["state"] == "cancelled"


def test_an_older_submission_does_nothing(run, monkeypatch):
    run.ledger("person").write("submit", chains=[2], serial=1)
    run.ledger("person").write("submitted", chain=2, job_id="7")
    assert not went_on(make_link(run, Answering([])), monkeypatch)
    # If that one never came to be, nobody may take this one's end for the run's.
    assert make_link(run, Answering([])).serve() == GO_ON


def test_a_worker_whose_node_was_given_up_ends_nothing_and_cancels_nothing(run):
    zombie = before(run)
    run.claim_attempt({"job_id": "1_2"})
    slurm = Answering([])
    make_link(run, slurm, task=1)._conclude(zombie, Outcome(state="done", reason="done"))
    assert final(run.ledger().events()) is None
    assert slurm.cancelled == []
    assert zombie.ended() is None


def test_who_dies_while_writing_the_end_has_ended_the_run_already(run, monkeypatch):
    """The run's own end is written first: what is done is not run again."""
    attempt = before(run)

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(links, "end_attempt", dies)
    link = make_link(run, Answering([]), task=1)
    with pytest.raises(KeyboardInterrupt):
        link._conclude(attempt, Outcome(state="done", reason="done"))
    assert not went_on(make_link(run, Answering([])), monkeypatch)


def test_a_doubtful_end_on_a_job_that_slurm_has_given_up_is_not_judged(run):
    link = make_link(run, Answering([dataclasses.replace(job(Phase.ENDED), job_id="1_2")]))
    lost = Outcome(state="failed", reason="1 of 1 ranks ended without a word", is_doubtful=True)
    assert link._checked(lost).state is None
    alive = dataclasses.replace(job(Phase.RUNNING), job_id="1_2")
    assert make_link(run, Answering([alive]))._checked(lost).state == "failed"


def test_a_signal_that_comes_early_is_held_back_until_the_time_that_was_promised(run, monkeypatch):
    """Slurm may send its signal up to a minute early; a person may send one at any time."""
    now = 1_000_000.0
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(now) + 100))
    monkeypatch.setattr(watches.time, "time", lambda: now)
    watch = watches.Watch(
        run=run,
        spec=spec_from_json({"name": "a", "program": "x", "resources": {"time": "1h"}}),
        attempt=run.claim_attempt({}),
        signals=Signals(time_limit=True),
        started=iso(now),
    )
    # Due 60 s before the end: 40 s from now.
    assert watch._signalled() is None
    now += 39.0
    assert watch._signalled() is None
    now += 2.0
    assert watch._signalled() == "time limit"
    now -= 80.0
    assert watch._signalled() == "time limit"


def watching(run, attempt, monkeypatch, poll, **spec):
    """A watch over a launch of which only `poll` is known."""
    (run.dir / "code").mkdir()

    class Launch:
        signal = kill = lambda *_: True

    Launch.poll = staticmethod(poll)
    monkeypatch.setattr(watches.Watch, "_start", lambda self, logs: Launch)
    spec = spec_from_json({**run.spec().to_json(), **spec})
    return watches.Watch(run=run, spec=spec, attempt=attempt, signals=Signals(), started=now_iso())


def ends(attempt, code):
    (attempt.dir / "logs/launch-1/rank-0.exit").write_text(f"{code} program untold 1.0 n1")


def test_ranks_that_end_because_another_attempt_serves_the_run_have_not_crashed(run, monkeypatch):
    """On a node that was given up srun ends first, then the next attempt begins, then they do."""
    attempt = before(run)

    def later(_):
        run.claim_attempt({"job_id": "1_2"})
        ends(attempt, FENCED)

    monkeypatch.setattr(watches.time, "sleep", later)
    outcome = watching(run, attempt, monkeypatch, lambda: True).serve()
    assert (outcome.state, outcome.reason, outcome.kind) == (None, SUPERSEDED, None)


def test_what_knows_nothing_of_hpckit_is_ended_on_the_node_that_was_given_up(run, monkeypatch):
    attempt = before(run)
    marks = {"HPCKIT_RUN_DIR": str(run.dir), "HPCKIT_ATTEMPT": "1", "HPCKIT_LAUNCH": "1"}
    with subprocess.Popen(["sleep", "60"], env=marks) as rank:

        def poll():
            run.claim_attempt({"job_id": "1_2"})
            return True

        watching(run, attempt, monkeypatch, poll).serve()
        assert rank.wait(timeout=20) == -signal.SIGKILL


def test_how_far_a_launch_came_is_what_its_ranks_said_last(run, monkeypatch):
    attempt = before(run)

    def poll():
        (attempt.dir / "logs/launch-1/rank-0.pulse").write_text("53 saving 1\n")
        ends(attempt, 1)
        return True

    watch = watching(run, attempt, monkeypatch, poll)
    watch.serve()
    assert watch.stalls.step == 53


def test_a_launch_that_cannot_be_written_down_is_tried_again_by_the_next_link(run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "rank.sh")

    monkeypatch.setattr(watches, "write_scripts", full)
    outcome = watching(run, before(run), monkeypatch, lambda: True).serve()
    said = "the launch could not start: cannot write rank.sh: No space left on device"
    assert (outcome.state, outcome.reason) == (None, said)


def test_what_cannot_be_read_for_a_while_ends_no_training(run, monkeypatch):
    attempt = before(run)
    looks = []

    def away(*_):
        looks.append(1)
        ends(attempt, 0)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(watches, "waiting", away)
    outcome = watching(run, attempt, monkeypatch, lambda: bool(looks)).serve()
    assert (outcome.state, looks) == ("done", [1])


def test_ranks_are_not_judged_by_signs_that_they_cannot_write(run, monkeypatch):
    attempt = before(run)
    looks, polls = [], iter([False, False, True])

    def refuses(_):
        ends(attempt, 0)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "touch", refuses)
    monkeypatch.setattr(Stalls, "look", lambda *_: looks.append(1))
    watching(run, attempt, monkeypatch, lambda: next(polls)).serve()
    assert looks == [1], "not before the end"


def test_a_hang_that_is_only_to_be_told_is_told_once_and_ends_nothing(run, monkeypatch):
    attempt = before(run)
    now = 1e6

    def passes(_):
        nonlocal now
        now += 5
        (attempt.dir / "logs/launch-1/rank-0.pulse").write_text("53 step 1\n")

    def is_over():
        if now > 1e6 + 200:
            ends(attempt, 0)
        return now > 1e6 + 200

    monkeypatch.setattr(watches.time, "time", lambda: now)
    monkeypatch.setattr(watches.time, "monotonic", lambda: now)
    monkeypatch.setattr(watches.time, "sleep", passes)
    heal = {"hang": {"do": "tell", "after": "1m"}}
    watch = watching(run, attempt, monkeypatch, is_over, heal=heal)
    assert watch.serve().state == "done"
    told = [e.data["incident"] for e in run.ledger().events() if e.kind == "incident"]
    assert [each["said"] for each in told] == ["hang: no step for 65 s on rank 0, after step 53"]


@pytest.mark.parametrize("told", [None, "time limit", "terminated"])
def test_a_stop_that_a_log_shows_stands_whatever_the_program_was_told_meanwhile(
    run, monkeypatch, told
):
    attempt = before(run)
    stop = Plan(do="stop", reason="the budget is spent")
    log = contextlib.nullcontext(SimpleNamespace(wants_an_end=True, step=9))

    def waits(watch, launch):
        about = {"attempt": 1, "launch": 1, "plan": stop.to_json(), "reason": stop.reason}
        run.ledger("log").write("stopped", **about)
        ends(attempt, 0)
        return told

    monkeypatch.setattr(watches, "watched_log", lambda *_, **__: log)
    monkeypatch.setattr(watches.Watch, "_wait", waits)
    outcome = watching(run, attempt, monkeypatch, lambda: True).serve()
    assert (outcome.state, outcome.reason) == ("stopped", "the budget is spent")


def oom(run):
    """An attempt that the cluster ended for want of memory."""
    attempt = before(run, memory=1000)
    (attempt.dir / "logs/launch-1").mkdir(parents=True)
    run.ledger("attempt-001-launch-1").write("resumed", attempt=1, launch=1, step=0)
    return Answering([job(Phase.ENDED, Cause.OUT_OF_MEMORY)])


def test_what_needs_more_memory_is_left_to_links_that_have_it(run, monkeypatch):
    slurm = oom(run)
    link = make_link(run, slurm)
    assert link.serve() == 75
    assert len(run.attempts()) == 1
    array, tasks, changed = slurm.changed
    assert (array, tasks, changed.resources) == ("1", list(range(3, 13)), {"memory": 1500})
    # Settled by now: the next one begins, and the one before is told as what it was.
    assert run.attempts()[0].ended()["reason"] == "out of memory"
    assert went_on(make_link(run, slurm, task=3), monkeypatch)


def restarts(run):
    return [each for each in run.ledger().events() if each.kind == "restart"]


def by_hand():
    """What a person's restart says."""
    incident = Incident(kind="by_hand", step=0, answer="act", said="by ana")
    plan = Plan(do="resubmit", reason="by hand", intact=True)
    return {"incident": incident.to_json(), "plan": plan.to_json()}


def test_what_a_link_writes_is_read_though_the_attempt_died_within_a_line(run, monkeypatch):
    slurm = oom(run)
    with open(run.dir / "ledger/attempt-001.jsonl", "a") as half:
        half.write('{"time":"2026-01-01T00:59:59')
    assert make_link(run, slurm).serve() == 75
    assert len(restarts(run)) == 1


def repaired(run, slurm, task):
    link = make_link(run, slurm, task=task)
    link._repaired(link.settling.last())


def test_an_end_that_a_link_wrote_down_before_it_died_is_counted_once(run, monkeypatch):
    slurm = oom(run)
    for task in (2, 3):
        repaired(run, slurm, task)
    assert len(restarts(run)) == 1
    assert slurm.changed[2].resources == {"memory": 1500}
    # A person's word is none of a link's.
    run.ledger().write("restart", by_hand=True, attempt=1, **by_hand())
    repaired(run, slurm, 4)
    assert len(restarts(run)) == 3


@pytest.mark.parametrize(
    ("kind", "do", "counted"),
    [("restart", "resubmit", 1), ("restart", "relaunch", 2), ("rollback", "resubmit", 1)],
)
def test_an_end_that_the_worker_wrote_down_before_it_died_is_counted_once(run, kind, do, counted):
    """After any other plan the attempt went on, and what ends it then is another thing."""
    slurm = oom(run)
    incident = Incident(kind="crash", step=0, answer="act", said="a CUDA error")
    plan = Plan(do=do, reason="", intact=True)
    about = {"attempt": 1, "launch": 1, "incident": incident.to_json(), "plan": plan.to_json()}
    run.ledger().write(kind, **about, step=0)
    repaired(run, slurm, 2)
    assert len(restarts(run)) == counted


def test_memory_that_was_given_once_does_not_grow_again_at_every_later_change(run, monkeypatch):
    slurm = oom(run)
    assert make_link(run, slurm).serve() == 75
    # The next job has it, and it is another thing that the one after it is to have changed.
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1500")
    link = make_link(run, slurm, task=3)
    attempt = link._claim("2026-01-01T02:00:00.000Z")
    assert (run.had, attempt.has) == ({"memory": 1000}, {"memory": 1500})
    link.next.prepare(Plan(do="resubmit", reason="", wait_s=60))
    assert slurm.changed[2].resources == {"memory": 1500}


def test_links_that_cannot_be_changed_are_replaced_by_a_chain_that_asks_for_it(run, monkeypatch):
    slurm = oom(run)
    submitted = []

    def refuse(array_id, tasks, changed):
        raise HpckitError("Access/permission denied")

    slurm.update, slurm.max_array_size = refuse, lambda: 1001
    slurm.submit = lambda script: submitted.append(script.read_text()) or "7"
    assert make_link(run, slurm).serve() == 75
    (script,) = submitted
    assert "#SBATCH --mem=1500M" in script
    assert "#SBATCH --dependency=afterany:1_2,singleton" in script
    assert "#SBATCH --array=1-11%1" in script
    assert slurm.cancelled == [(["1"], True)]
    intents = [e.data["jobs"] for e in run.ledger().events() if e.kind == "scancel"]
    assert intents == [[f"1_{task}" for task in range(3, 13)]]
    # Who looks later knows which chain counts.
    assert run.submission().data["chains"] == [1, 2]


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.ENDING])
@pytest.mark.parametrize("said", [None, "terminated"])
@pytest.mark.parametrize(("task", "chains"), [(2, [1]), (12, [1, 2])])
def test_an_attempt_that_may_be_alive_is_given_no_second(
    run, monkeypatch, phase, said, task, chains
):
    """Whether a person ended it is known when it has ended: a later link, or chain, asks again."""
    before(run, said)
    starts = run.chain_folder(1) / STARTS
    starts.touch()
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(settling.time, "monotonic", lambda: float(next(clock)))
    link = make_link(run, Submitting([job(phase)]), task=task)
    assert link.serve() == 75
    assert len(run.attempts()) == 1
    assert run.submission().data["chains"] == chains
    assert not starts.exists()


def test_a_submission_that_never_reached_the_queue_is_taken_back(run, monkeypatch):
    old = iso(time.time() - 3600)
    monkeypatch.setattr("hpckit.ledger.now_iso", lambda: old)
    run.ledger("restarter").write("submit", chains=[2], serial=1)
    monkeypatch.undo()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert went_on(make_link(run, Answering([])), monkeypatch)
    newest = run.submission()
    assert (newest.data["chains"], newest.data["serial"]) == ([1], 2)


def test_a_submission_that_is_in_the_queue_takes_this_ones_place(run, monkeypatch):
    run.ledger("restarter").write("submit", chains=[2], serial=1)
    waits = dataclasses.replace(job(Phase.PENDING), job_id="7_1", array_id="7")
    assert not went_on(make_link(run, Answering([waits])), monkeypatch)


def test_the_last_link_of_a_chain_submits_the_next_chain(run):
    slurm, scripts = Answering([]), []
    slurm.max_array_size = lambda: 1001
    slurm.submit = lambda script: scripts.append(script) or "7"
    link = make_link(run, slurm, task=12)
    ended = Outcome(state=None, reason="time limit")
    assert link.next.or_stop(ended, 4) == ended
    assert len(scripts) == 1
    # One chain is enough.
    assert link.next.or_stop(ended, 4) == ended
    assert len(scripts) == 1


def test_where_no_job_may_submit_another_one_a_guard_is_pointed_to(run):
    slurm = Answering([])
    slurm.max_array_size = lambda: 1001

    def refuse(script):
        raise SubmissionRefused("Access/permission denied")

    slurm.submit = refuse
    link = make_link(run, slurm, task=12)
    outcome = link.next.or_stop(Outcome(state=None, reason="time limit"), 4)
    assert outcome.state is None
    assert outcome.reason == ("time limit; no attempt is queued: hpckit guard starts the next one")
    assert run.spec()


def test_when_all_attempts_are_used_the_run_stops(run):
    link = make_link(run, Answering([]), task=12)
    outcome = link.next.or_stop(Outcome(state=None, reason="time limit"), 0)
    assert (outcome.state, outcome.reason) == ("stopped", "time limit; all 0 attempts are used")


def test_a_cancel_is_taken_back_by_who_starts_the_run_again(run, monkeypatch):
    run.ledger("person").write("cancel")
    assert run.is_cancelled()
    run.ledger("person").write("restart", by_hand=True, attempt=0)
    assert not run.is_cancelled()
    run.ledger("person").write("cancel")
    assert run.is_cancelled()


@pytest.mark.parametrize(
    ("who", "told"),
    [({}, ["params.lr 0.1 -> 0.05"]), ({"rollbacks": 0}, [])],
    ids=["plain", "ours"],
)
def test_what_a_person_changed_of_a_plain_command_is_told_by_the_attempt_that_has_it(
    run, who, told
):
    """A training with hpckit in it tells it itself."""
    write_spec(run, params={"lr": 0.1})
    before(run)
    if who:
        run.ledger("attempt-001").write("resumed", attempt=1, launch=1, step=0, **who)
    plan = Plan(do="resubmit", reason="", changes={"params.lr": Change(times=0.5)}, intact=True)
    by_hand = Incident(kind="by_hand", step=0, answer="act", said="").to_json()
    about = {"by_hand": True, "attempt": 1, "incident": by_hand, "plan": plan.to_json()}
    run.ledger("person").write("restart", **about)
    for number in (2, 3):
        attempt = run.claim_attempt({"number": number})
        make_link(run, Answering([]))._tell_applied(attempt)
    events = [each for each in run.ledger().events() if each.kind == "applied"]
    assert [each.data["changed"] for each in events] == ([told] if told else [])


@pytest.mark.parametrize("exit_code", [0, 1, 3, 4])
@pytest.mark.parametrize("cause", [Cause.CANCELLED, Cause.FAILED, Cause.OUT_OF_MEMORY])
def test_an_attempt_after_which_a_person_started_again_is_gone_on_with(
    run, monkeypatch, cause, exit_code
):
    """However it ended: by scancel, by a worker that died, or that could not write its end."""
    before(run)
    ended = Answering([dataclasses.replace(job(Phase.ENDED, cause), exit_code=exit_code)])
    run.ledger("person").write("restart", by_hand=True, attempt=1, after=1)
    assert went_on(make_link(run, ended), monkeypatch)
    assert final(run.ledger().events()) is None


@pytest.mark.parametrize(("nodes", "own"), [(["n1"], {}), (["n1", "n02"], {"exclude": "n[02-3]"})])
def test_nothing_is_asked_for_where_no_node_can_be_spared(run, monkeypatch, nodes, own):
    """A person's own exclusions count, too."""
    write_spec(run, slurm=own)
    before(run)
    lost = dataclasses.replace(job(Phase.ENDED, Cause.NODE_FAIL), node="n1")
    slurm = Answering([lost])
    slurm.nodes = lambda partition: nodes
    assert went_on(make_link(run, slurm), monkeypatch)
    assert slurm.excluded == [*own.values()]
    assert run.submission().data["chains"] == [1]


def test_of_a_job_with_several_nodes_none_is_left_out(run, monkeypatch):
    before(run)
    lost = dataclasses.replace(job(Phase.ENDED, Cause.NODE_FAIL), node="n[1-2]")
    slurm = Answering([lost])
    assert went_on(make_link(run, slurm), monkeypatch)
    assert slurm.excluded == []


class Submitting(Answering):
    """It takes every job."""

    def __init__(self, *queues):
        super().__init__(*queues)
        self.submitted = []

    def max_array_size(self):
        return 1001

    def is_preempted(self, job_id):
        return False

    def submit(self, script):
        self.submitted.append(script.read_text())
        return "7"


@pytest.mark.parametrize("do", ["relaunch", "resubmit"])
@pytest.mark.parametrize("reason", ["hang: no step for 300 s on rank 0", "a CUDA error"])
def test_a_scancel_while_a_crash_or_a_hang_is_dealt_with_is_left_to_the_scheduler(run, do, reason):
    attempt = before(run)
    slurm = Submitting([])
    link = make_link(run, slurm, task=12)
    link.signals.terminated = True
    outcome = Outcome(state=None, reason=reason, kind="crash")
    answer = Answer(outcome=outcome, plan=Plan(do=do, reason="", exclude=("n1",), intact=True))
    outcome = link._weighed(answer, attempt)
    assert (outcome.state, outcome.reason, slurm.submitted) == (None, "terminated", [])


def test_a_cancel_that_slurm_does_not_hear_is_heard_by_the_worker_and_nothing_follows(
    run, monkeypatch
):
    attempt = before(run)
    monkeypatch.setattr(cancelling, "choose", lambda kind: Answering(None))
    monkeypatch.setattr(cancelling, "QueueCache", lambda _: SimpleNamespace(forget=lambda: None))
    with pytest.raises(SchedulerSilent, match="the wish is written down, but no answer"):
        cancelling.cancel_run(run)
    told = requests.waiting(run.dir, requests.END, attempt.job_id)
    assert told == "cancelled with hpckit cancel"
    slurm = Submitting([])
    answer = Answer(outcome=Outcome(state=None, reason=told))
    outcome = make_link(run, slurm, task=12)._weighed(answer, attempt)
    assert (outcome.state, slurm.submitted) == ("cancelled", [])


@pytest.mark.parametrize("state", ["done", "stopped", "failed"])
def test_what_had_ended_before_a_scancel_has_ended_so(run, state):
    attempt = before(run)
    link = make_link(run, Answering([]))
    link.signals.terminated = True
    assert link._weighed(Answer(outcome=Outcome(state=state, reason="")), attempt).state == state


@pytest.mark.parametrize(("left_s", "reason"), [(50, "terminated"), (-5, "time limit")])
def test_who_is_told_to_end_at_the_time_limit_may_have_saved_for_too_long(
    run, monkeypatch, left_s, reason
):
    """Slurm ends what it told of the limit; a person who does so before it means it."""
    attempt = before(run)
    slurm = Submitting([])
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + left_s))
    link = make_link(run, slurm, task=12)
    link.signals.terminated = True
    ended = Outcome(state=None, reason="time limit", kind="time_limit")
    assert link._weighed(Answer(outcome=ended), attempt).reason == reason
    assert len(slurm.submitted) == (reason == "time limit")


class Launch:
    """A launch that crashes, while it is asked to end if `asks` says so."""

    def __init__(self, run, started, asks=True):
        self.run, self.started, self.asks = run, started, asks
        self.stalls, self.logs = Stalls(), run.dir

    def serve(self):
        self.started.append(self)
        if self.asks or len(self.started) > 2:
            requests.ask(self.run.dir, requests.END, "restart asked for", "1_2")
        return Outcome(state="failed", reason="a crash", kind="crash")


@pytest.mark.parametrize(("asks", "launches"), [(True, 1), (False, 3)])
def test_a_restart_asked_for_while_a_launch_crashes_is_heard(run, monkeypatch, asks, launches):
    write_spec(run, heal={"crash": {"do": "relaunch", "limit": 9}})
    started = []
    monkeypatch.setattr(attempting, "Watch", lambda **_: Launch(run, started, asks))
    monkeypatch.setattr(attempting, "end_leftovers", lambda *_: None)
    other = requests.ask(run.dir, requests.END, "restart asked for", "9_9")
    assert make_link(run, Answering([]))._attempt(None) == 75
    assert len(started) == launches
    # Its own is done; what is asked of another job is none of its business.
    assert list((run.dir / "requests").iterdir()) == [other]


@pytest.mark.parametrize(
    ("told", "grace_s"),
    [
        ("terminated", float("inf")),
        ("time limit", float("inf")),
        ("restart asked for", 1800.0),
        ("limits.gpu_hours of 3 are used", 60.0),
        ("hang: no step", 10.0),
    ],
)
def test_only_who_has_a_scheduler_to_end_it_may_save_as_long_as_it_likes(run, told, grace_s):
    watch = watches.Watch(
        run=run, spec=run.spec(), attempt=before(run), signals=Signals(), started=now_iso()
    )
    assert watch._grace_s(told) == grace_s

"""What a run is doing, by its directory's evidence and the scheduler's word."""

from __future__ import annotations

import dataclasses
import os
import socket
import time

import pytest

from hpckit.cli.show import describe_sweep
from hpckit.cli.watch import _is_lost
from hpckit.clock import iso
from hpckit.files import write_json
from hpckit.follow import LOST_S, Patience
from hpckit.ledger import Event
from hpckit.run import IDENTITY, Attempt, Run, identity, open_run, point_run
from hpckit.scheduler.base import Cause, Phase
from hpckit.scheduler.local_state import Process
from hpckit.spec import spec_from_json
from hpckit.status.state import (
    CANCEL_AGAIN,
    LOST,
    Answer,
    Facts,
    State,
    assign,
    decide,
    facts_of,
    in_foreground,
)
from hpckit.status.steps import incidents
from hpckit.status.view import _step, describe
from tests.made_runs import begin, make_sweep
from tests.test_outcome import status

NOW = time.time()


@pytest.fixture
def run(tmp_path):
    spec = spec_from_json({"name": "a", "program": "x", "limits": {"attempts": 2}})
    write_json(tmp_path / "spec.json", spec.to_json())
    return Run(
        dir=tmp_path,
        id="a/b",
        name="a",
        created=iso(NOW - 3600),
        scheduler="slurm",
        params={},
    )


def event(kind, age_s=600.0, **data):
    return Event(time=iso(NOW - age_s), writer="w", kind=kind, data=data)


def facts(run, *events, attempts=()):
    return Facts(run=run, events=list(events), submission=list(events), attempts=list(attempts))


def job(**changes):
    return dataclasses.replace(status(None), **changes)


def decided(fact, *jobs, **answer):
    told = Answer(queue=jobs, **answer)
    return decide(fact, assign([fact], told)[fact.run.id], told, NOW)


SUBMITTED = (event("submit"), event("submitted", job_id="1", chain=1))


def test_a_running_job_is_a_running_run(run):
    assert decided(facts(run, *SUBMITTED), job(phase=Phase.RUNNING)).state == "running"


def test_a_waiting_job_tells_why_and_what_is_next(run):
    waiting = job(
        phase=Phase.PENDING,
        task=None,
        job_id="1",
        pending_tasks=(1, 2),
        reason="Resources",
        expected_start="2026-07-20T02:14:05Z",
    )
    found = decided(facts(run, *SUBMITTED), waiting)
    assert (found.state, found.reason) == ("pending", "Resources")
    assert found.next == {
        "job_id": "1_1",
        "reason": "Resources",
        "expected": "2026-07-20T02:14:05Z",
    }


def test_a_running_link_stands_before_those_that_wait(run):
    rest = job(phase=Phase.PENDING, task=None, job_id="1", pending_tasks=(2, 3))
    assert decided(facts(run, *SUBMITTED), rest, job(phase=Phase.RUNNING)).state == "running"


def test_silence_is_unknown_and_never_a_guess(run):
    silent = decided(facts(run, *SUBMITTED), silent="no answer")
    assert (silent.state, silent.is_unheard) == ("unknown", True)
    gone = decided(facts(run, *SUBMITTED), unheard={"a/b": "sacct: no answer"})
    assert (gone.state, gone.reason) == ("unknown", "left the queue; sacct: no answer")
    assert gone.is_unheard
    # An answer, too.
    lost = decided(facts(run, *SUBMITTED))
    assert (lost.state, lost.is_unheard) == ("unknown", False)


def test_a_state_that_nobody_knows_is_unknown(run):
    strange = job(phase=Phase.UNKNOWN, raw_state="DREAMING")
    assert decided(facts(run, *SUBMITTED), strange).reason == "Slurm says DREAMING"


def test_a_person_s_scancel_is_final(run):
    ended = job(phase=Phase.ENDED, cause=Cause.CANCELLED)
    assert decided(facts(run, *SUBMITTED), ended).state == "cancelled"


LOST_ITS_NODE = job(phase=Phase.ENDED, cause=Cause.NODE_FAIL, started="2026-01-01T00:00:00Z")


def test_a_run_that_nobody_goes_on_with_says_who_could(run):
    found = decided(facts(run, *SUBMITTED), LOST_ITS_NODE)
    assert (found.state, found.is_final) == ("healing", False)
    expected = "node failed; no attempt is queued: hpckit guard starts the next one"
    assert found.reason == expected


def test_a_run_whose_attempts_are_used_up_has_stopped(run):
    used = [run.claim_attempt({"job_id": f"1_{number}"}) for number in (1, 2)]
    newest = dataclasses.replace(LOST_ITS_NODE, job_id="1_2", task=2)
    found = decided(facts(run, *SUBMITTED, attempts=used), newest)
    assert (found.state, found.reason) == ("stopped", "node failed; all 2 attempts are used")


def test_a_run_that_is_damaged_is_unknown_and_hides_no_other(run):
    (run.dir / "spec.json").write_text("{")
    found = decided(facts(run, *SUBMITTED), LOST_ITS_NODE)
    assert found.state == "unknown"
    assert found.reason.startswith(f"{run.dir}/spec.json cannot be read")


def test_a_scancel_of_what_only_waited_is_final_unless_hpckit_said_so_before(run):
    waited = job(phase=Phase.ENDED, cause=Cause.CANCELLED, task=2, job_id="1_2", started=None)
    assert decided(facts(run, *SUBMITTED), LOST_ITS_NODE, waited).state == "cancelled"
    ours = event("scancel", jobs=["1_2"])
    assert decided(facts(run, *SUBMITTED, ours), LOST_ITS_NODE, waited).state == "healing"
    rest = job(phase=Phase.ENDED, cause=Cause.CANCELLED, task=None, job_id="1", started=None)
    rest = dataclasses.replace(rest, pending_tasks=(2, 3))
    assert decided(facts(run, *SUBMITTED, ours), LOST_ITS_NODE, rest).state == "cancelled"
    both = event("scancel", jobs=["1_2", "1_3"])
    assert decided(facts(run, *SUBMITTED, both), LOST_ITS_NODE, rest).state == "healing"


def test_a_submission_that_was_cut_off_is_told_apart_from_one_under_way(run):
    assert decided(facts(run, event("submit", age_s=5))).reason == "being submitted"
    cut = decided(facts(run, event("submit")))
    assert (cut.state, cut.reason) == (
        "failed",
        "the submission was cut off: nothing reached the queue",
    )
    assert decided(facts(run)).reason == "the submission was cut off: nothing was submitted"


def test_an_answer_that_was_lost_changes_nothing_for_a_job_that_is_known_by_its_name(run):
    assert decided(facts(run, event("submit")), job(phase=Phase.RUNNING)).state == "running"


def test_a_foreground_run_is_looked_for_where_it_ran_and_nowhere_else(run):
    alone = dataclasses.replace(run, scheduler="foreground", created=iso(NOW - 10))
    here = {"host": socket.gethostname(), "process": Process.this()._asdict()}
    attempt = alone.claim_attempt(here)
    assert in_foreground(facts(alone, attempts=[attempt]), NOW + 9999).state == "running"
    gone = {**here, "process": {**here["process"], "start": "1"}}
    write_json(attempt.dir / "attempt.json", gone)
    assert in_foreground(facts(alone, attempts=[attempt]), NOW).reason == "hpckit run was killed"
    write_json(attempt.dir / "attempt.json", {**gone, "host": "elsewhere"})
    assert in_foreground(facts(alone, attempts=[attempt]), NOW).state == "running"
    assert in_foreground(facts(alone, attempts=[attempt]), NOW + 9999).state == "unknown"


@pytest.mark.parametrize("is_launched", [True, False], ids=["launched", "before its launch"])
def test_an_attempt_that_lives_is_running_though_the_queue_s_word_is_older(run, is_launched):
    attempt = run.claim_attempt({"job_id": "1_1"})
    if is_launched:
        (attempt.dir / "heartbeat").touch()
        os.utime(attempt.dir / "attempt.json", (NOW - 900, NOW - 900))
    fact = facts(run, *SUBMITTED, attempts=[attempt])
    old = job(phase=Phase.PENDING, task=None, job_id="1", pending_tasks=(1, 2))
    assert decided(fact, old).state == "running"
    assert decided(fact, job(phase=Phase.ENDED, cause=Cause.NODE_FAIL)).state == "healing"


def test_an_attempt_that_lives_is_running_though_slurm_keeps_silent(run):
    attempt = run.claim_attempt({"job_id": "1_1"})
    os.utime(attempt.dir / "attempt.json", (NOW - 900, NOW - 900))
    fact = facts(run, *SUBMITTED, attempts=[attempt])
    assert decided(fact, silent="no answer").state == "unknown"
    (attempt.dir / "heartbeat").touch()
    found = decided(fact, silent="no answer")
    assert (found.words, found.is_unheard) == ("running: no answer", True)


@pytest.mark.parametrize(
    ("phase", "raw_state"), [(Phase.RUNNING, "SUSPENDED"), (Phase.ENDING, "COMPLETING")]
)
def test_what_the_queue_said_of_the_attempt_before_is_not_told_of_the_newest(run, phase, raw_state):
    before = job(phase=phase, raw_state=raw_state, ends_by="2026-07-20T02:14:05Z")
    attempts = [run.claim_attempt({"job_id": "1_1"})]
    first = decided(facts(run, *SUBMITTED, attempts=attempts), before)
    assert first.reason
    assert first.ends_by
    attempts += [run.claim_attempt({"job_id": "1_2"})]
    newest = facts(run, *SUBMITTED, attempts=attempts)
    assert decided(newest, before) == State(state="running")
    own = job(job_id="1_2", task=2, phase=Phase.RUNNING, ends_by="2026-07-20T03:14:05Z")
    found = decided(newest, before, own)
    assert (found.words, found.ends_by) == ("running", own.ends_by)


def test_half_a_sweep_that_was_never_sent_is_told_apart_from_the_half_that_was(tmp_path):
    sweep = Run(
        dir=tmp_path,
        id="a/b",
        name="a",
        created=iso(NOW - 3600),
        scheduler="slurm",
        params={},
        points=4,
        chains=2,
    )
    for number, offset in ((1, 0), (2, 2)):
        folder = tmp_path / "chains" / f"{number:03d}"
        folder.mkdir(parents=True)
        write_json(folder / "chain.json", {"number": number, "offset": offset, "size": 2})
    events = (event("submit"), event("submitted", job_id="7", chain=1))
    sent, unsent = (facts(point_run(sweep, index, {}), *events) for index in (1, 3))
    assert decided(sent).state == "unknown"
    assert decided(unsent).reason == "the submission was cut off: nothing reached the queue"
    refused = (*events, event("refused", chain=2, reason="too many jobs"))
    assert decided(facts(point_run(sweep, 3, {}), *refused)).reason == "too many jobs"
    assert decided(facts(point_run(sweep, 1, {}), *refused)).state == "unknown"


def test_a_cancel_that_was_not_heard_is_told(run):
    wished = facts(run, *SUBMITTED, event("cancel"))
    assert "cancel it again" in decided(wished, job(phase=Phase.RUNNING)).reason
    attempt = run.claim_attempt({"job_id": "1_1"})
    (attempt.dir / "heartbeat").touch()
    alive = facts(run, *SUBMITTED, event("cancel"), attempts=[attempt])
    assert decided(alive, silent="no answer").reason == CANCEL_AGAIN


def test_a_wait_that_will_never_end_is_told(run):
    waiting = job(phase=Phase.PENDING, reason="PartitionTimeLimit")
    assert "will not start like this" in decided(facts(run, *SUBMITTED), waiting).reason


def test_points_find_their_tasks_in_split_and_unsplit_arrays(tmp_path):
    sweep = Run(
        dir=tmp_path,
        id="a/b",
        name="a",
        created=iso(NOW),
        scheduler="slurm",
        params={},
        points=4,
        chains=2,
    )
    for number, offset in ((1, 0), (2, 2)):
        folder = tmp_path / "chains" / f"{number:03d}"
        folder.mkdir(parents=True)
        write_json(folder / "chain.json", {"number": number, "offset": offset, "size": 2})
    events = (
        event("submit"),
        event("submitted", job_id="7", chain=1),
        event("submitted", job_id="9", chain=2),
    )
    points = [facts(point_run(sweep, index, {}), *events) for index in range(4)]
    jobs = (
        job(phase=Phase.RUNNING, array_id="7", task=1, job_id="7_1"),
        job(phase=Phase.PENDING, array_id="9", task=None, job_id="9", pending_tasks=(0, 1)),
    )
    found = assign(points, Answer(queue=jobs))
    assert found["a/b/000"] == []
    assert [j.job_id for j in found["a/b/001"]] == ["7_1"]
    assert [j.job_id for j in found["a/b/002"]] == ["9_0"]
    assert [j.job_id for j in found["a/b/003"]] == ["9_1"]


def test_the_queue_s_word_stands_before_accounting_s(run):
    old = job(phase=Phase.ENDED, cause=Cause.NODE_FAIL)
    told = Answer(queue=(job(phase=Phase.RUNNING),), history=(old,))
    fact = facts(run, *SUBMITTED, attempts=[Attempt(number=1, dir=run.dir)])
    assert [j.phase for j in assign([fact], told)["a/b"]] == [Phase.RUNNING]


def test_a_suspended_job_is_told_as_one(run):
    suspended = job(phase=Phase.RUNNING, raw_state="SUSPENDED")
    found = decided(facts(run, *SUBMITTED), suspended)
    assert found.words == "running: suspended by an administrator"


def test_nobody_follows_what_is_lost_for_ever(monkeypatch):
    now = 100.0
    monkeypatch.setattr("hpckit.follow.time.monotonic", lambda: now)
    patience = Patience()
    assert not patience.is_over(lost=True)
    now += LOST_S - 1
    assert not patience.is_over(lost=True)
    assert not patience.is_over(lost=False)
    now += LOST_S
    assert not patience.is_over(lost=True)
    now += LOST_S + 1
    assert patience.is_over(lost=True)


def test_the_step_of_a_run_is_the_last_that_its_newest_attempt_wrote(tmp_path):
    attempts = [Attempt(number=n, dir=tmp_path / f"{n:03d}") for n in (1, 2, 3)]
    for attempt, launch, step in ((1, 1, 90), (2, 1, 40), (2, 2, 50)):
        folder = attempts[attempt - 1].dir / "readings" / f"launch-{launch}"
        folder.mkdir(parents=True)
        (folder / "0-0.jsonl").write_text(f'{{"step":{step},"train/loss":2}}\n')
    assert _step(attempts) == 50
    # What cannot be read hides nothing else.
    unreadable = attempts[2].dir / "readings" / "launch-1" / "0-0.jsonl"
    unreadable.mkdir(parents=True)
    assert _step(attempts) == 50


def test_a_point_has_as_many_attempts_left_as_its_limits_say(tmp_path):
    point, _ = make_sweep(tmp_path / "s", 2)
    spec = spec_from_json({"name": "agent", "program": "x", "limits": {"attempts": 6}})
    write_json(point.home / "spec.json", spec.to_json())
    begin(point)
    fact = facts_of(point)
    assert describe(fact, State(state="running"))["attempts_left"] == 5
    assert describe(fact, State(state="done"))["attempts_left"] == 0


def test_an_incident_that_makes_no_sense_is_shown_all_the_same():
    (shown,) = incidents([event("incident", attempt=2, incident="a word")])
    assert (shown["attempt"], shown["kind"], shown["step"]) == (2, None, None)


def test_only_what_is_waited_for_can_be_lost():
    lost = {"state": "unknown", "reason": LOST}
    assert _is_lost(lost)
    assert _is_lost({"state": "unknown", "reason": "", "runs": [lost, {"state": "done"}]})
    waiting = {"state": "pending", "reason": "Resources"}
    assert not _is_lost({"state": "pending", "reason": "", "runs": [lost, waiting]})


def test_points_that_have_ended_are_not_read_again_by_whoever_watches(tmp_path, monkeypatch):
    about = identity(run_id="a/b", name="a", scheduler="local", params={}, points=2, varied=["x"])
    write_json(tmp_path / IDENTITY, about)
    points = [{"index": number, "values": {}, "params": {}} for number in (0, 1)]
    write_json(tmp_path / "sweep.json", {"points": points})
    sweep = open_run(tmp_path)
    sweep.ledger("w").write("submit", chains=[1])
    sweep.point_runs()[0].ledger("w").write("finished", state="cancelled", chain=1)
    looked = []

    def look(run, *rest):
        looked.append(run.id)
        return facts_of(run, *rest)

    monkeypatch.setattr("hpckit.status.state.facts_of", look)
    settled = {}
    first = describe_sweep(sweep, settled)
    assert describe_sweep(sweep, settled) == first
    assert looked == ["a/b/000", "a/b/001", "a/b/001"]

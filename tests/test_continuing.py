"""Going on with a run in a new chain: who may, and what is left when it cannot be submitted."""

from __future__ import annotations

import dataclasses
import os
import time

import pytest
from click.testing import CliRunner

from hpckit import guarding, requests, restarting
from hpckit.cli.guard import guard
from hpckit.cli.restart import _origin
from hpckit.cli.run_text import run_text
from hpckit.clock import iso, seconds_of
from hpckit.errors import (
    ChainTaken,
    NotFound,
    SchedulerSilent,
    SubmissionRefused,
    SubmissionUnclear,
    UsageError,
)
from hpckit.files import read_json, write_json
from hpckit.ledger import is_by_hand
from hpckit.run import IDENTITY, identity, open_run
from hpckit.scheduler.base import Phase
from hpckit.spec import spec_from_json
from hpckit.spec.changes import read_changes
from hpckit.status.state import LOST, State, facts_of
from hpckit.status.view import describe
from hpckit.submission import snapshot
from hpckit.submission.continuing import continue_run
from hpckit.worker.link import Link
from hpckit.worker.signals import Signals
from tests.test_status import job


class Refusing:
    """A scheduler that takes no job, or with `error` None every one."""

    kind = "slurm"

    def __init__(self, error=None):
        self.error = error
        self.submitted = []

    def submit(self, script):
        if self.error is not None:
            raise self.error
        self.submitted.append(script)
        return str(10 + len(self.submitted))

    def max_array_size(self):
        return 1001

    def longest_s(self, partition):
        return 30 * 86_400

    def queue(self):
        return []

    def forget(self):
        """It is its own cache."""

    @property
    def scheduler(self):
        return self


@pytest.fixture
def run(tmp_path):
    write_json(tmp_path / IDENTITY, identity(run_id="a/b", name="a", scheduler="slurm", params={}))
    found = open_run(tmp_path)
    spec = spec_from_json({"name": "a", "program": "x", "limits": {"attempts": 12}})
    write_json(tmp_path / "spec.json", spec.to_json())
    (tmp_path / "chains" / "001").mkdir(parents=True)
    found.ledger("submitter").write("submit", chains=[1])
    about = {"job_id": "1_1", "chain": 1, "started": "2026-01-01T00:00:00.000Z"}
    os.utime(found.claim_attempt(about).dir / "attempt.json", (0, 0))
    return found


NO = [SubmissionRefused("sbatch: Access/permission denied"), SchedulerSilent("sbatch: no answer")]


@pytest.mark.parametrize("error", NO, ids=["refused", "silent"])
def test_after_a_definite_no_a_guard_goes_on_at_once(run, error):
    with pytest.raises(type(error)):
        continue_run(run, Refusing(error), number=2, after="1_1")
    slurm = Refusing()
    told = guarding._served(run, State(state="healing"), 2, slurm)
    assert told.said == "goes on as job 11"
    assert [script.parent.name for script in slurm.submitted] == ["003"]


def test_what_was_announced_just_now_is_left_to_who_announced_it(run):
    continue_run(run, Refusing(), number=2, after="1_1")
    told = guarding._served(run, State(state="healing"), 2, Refusing())
    assert told.said == "somebody has just gone on with it"


@pytest.mark.parametrize(
    ("slurm", "state", "code"),
    [
        (Refusing(), State(state="healing"), 0),
        (Refusing(NO[0]), State(state="healing"), 1),
        (Refusing(), State(state="unknown", reason="no answer", is_unheard=True), 1),
        (None, State(state="unknown", reason="no Slurm here", is_unheard=True), 1),
        # A cron job that fails for ever says nothing.
        (Refusing(), State(state="unknown", reason=LOST), 0),
        (Refusing(), State(state="running"), 0),
    ],
)
def test_cron_sees_by_the_exit_code_whether_a_guard_could_do_its_work(
    run, monkeypatch, slurm, state, code
):
    served = guarding._served(run, state, 1, slurm)
    monkeypatch.setattr(guarding, "guard", lambda runs, cache_of: [served])
    done = CliRunner().invoke(guard, ["--once", "--root", str(run.dir.parent), str(run.dir)])
    assert done.exit_code == code, done.output


def test_of_two_who_go_on_the_second_is_told_so(run):
    continue_run(run, Refusing(), number=2, after=None)
    with pytest.raises(ChainTaken):
        continue_run(run, Refusing(), number=2, after=None)


def test_a_link_does_not_wait_for_a_later_chain_that_was_refused(run, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "1")
    with pytest.raises(SubmissionRefused):
        continue_run(run, Refusing(NO[0]), number=2, after="1_1")
    chain = {"number": 1, "offset": 0, "size": 12, "home": str(run.dir)}
    link = Link(run=run, chain=chain, task=2, scheduler=Refusing(), signals=Signals())
    monkeypatch.setattr("hpckit.worker.next_links.time.sleep", lambda _: pytest.fail("it waits"))
    assert link.next.is_newest()
    assert run.submission().data["chains"] == [1]


def test_who_is_refused_takes_nobody_elses_later_submission_back(run):
    class Beside(Refusing):
        def submit(self, script):
            continue_run(run, Refusing(), number=3, after=None)
            return super().submit(script)

    with pytest.raises(SubmissionRefused):
        continue_run(run, Beside(NO[0]), number=2, after=None)
    assert run.submission().data["chains"] == [3]


def test_nodes_that_a_person_excluded_stay_excluded(run):
    spec = {"name": "a", "program": "x", "limits": {"attempts": 12}, "slurm": {"exclude": "n[7-9]"}}
    write_json(run.dir / "spec.json", spec_from_json(spec).to_json())
    slurm = Refusing()
    continue_run(run, slurm, number=2, after=None)
    assert "--exclude='n[7-9]'" in slurm.submitted[0].read_text()


def test_new_code_stays_whatever_chain_comes_next(run):
    continue_run(run, Refusing(), number=2, after=None, code="code-002")
    with pytest.raises(SubmissionRefused):
        continue_run(run, Refusing(NO[0]), number=3, after=None)
    continue_run(run, Refusing(), number=4, after=None)
    assert read_json(run.chain_folder(4) / "chain.json")["code"] == "code-002"


def test_a_chain_that_was_refused_brings_no_code(run):
    with pytest.raises(SubmissionRefused):
        continue_run(run, Refusing(NO[0]), number=2, after=None, code="code-002")
    continue_run(run, Refusing(), number=3, after=None)
    assert read_json(run.chain_folder(3) / "chain.json")["code"] is None


def test_a_copy_that_was_cut_off_stands_in_nobodys_way(run, tmp_path, monkeypatch):
    source = tmp_path / "job"
    source.mkdir()
    (source / "train.py").touch()
    write_json(run.dir / "code.json", {"source": str(source), "left_out": []})
    monkeypatch.setattr(snapshot.shutil, "copy2", full_disk)
    with pytest.raises(OSError, match="full"):
        restarting._snapshot(run, 2)
    assert not list(run.dir.glob("code-*"))
    monkeypatch.undo()
    # One that was killed had no time to clear up.
    (run.dir / "code-002").mkdir()
    assert restarting._snapshot(run, 2) == "code-003"
    assert (run.dir / "code-003" / "train.py").exists()


def full_disk(*_):
    raise OSError("full")


def wish(run, monkeypatch, scheduler, *changes, tell=print):
    monkeypatch.setattr(restarting, "choose_scheduler", lambda kind: scheduler)
    monkeypatch.setattr(restarting, "QueueCache", lambda scheduler: scheduler)
    return restarting.restart(run, restarting.Wish(changes=read_changes(changes)), tell)


def test_nothing_is_started_beside_an_attempt_whose_job_is_not_seen_from_here(run, monkeypatch):
    heartbeat = run.attempts()[-1].dir / "heartbeat"
    heartbeat.touch()
    slurm = Refusing()
    with pytest.raises(NotFound, match="attempt 1 shows that it lives, and no job of it is seen"):
        wish(run, monkeypatch, slurm)
    assert (slurm.submitted, run.submission().data["chains"]) == ([], [1])
    # It has been silent for long.
    os.utime(heartbeat, (0, 0))
    wish(run, monkeypatch, slurm)
    assert slurm.submitted


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"gpu_hours": 0.5}, "limits.gpu_hours: 0.5 node h are used"),
        ({"total": "1m"}, "limits.total: 1.0 h have passed since it was submitted"),
        ({"attempts": 1}, "all 1 attempts that its limits allow are used"),
    ],
)
def test_a_run_that_has_reached_a_limit_is_not_started_again(run, monkeypatch, limits, said):
    spec = {"name": "a", "program": "x", "limits": {"gpu_hours": 9, **limits}}
    write_json(run.dir / "spec.json", spec_from_json(spec).to_json())
    about = read_json(run.dir / IDENTITY)
    write_json(run.dir / IDENTITY, {**about, "created": iso(time.time() - 3600)})
    ended = {"ended": "2026-01-01T00:45:00.000Z", "reason": "limits"}
    write_json(run.attempts()[-1].dir / "ended.json", ended)
    run = open_run(run.dir)
    with pytest.raises(UsageError, match=said) as refused:
        wish(run, monkeypatch, Refusing())
    assert refused.value.hint.endswith(f"hpckit submit --from {run.dir}")
    assert not [event for event in run.ledger().events() if is_by_hand(event)]
    told = describe(facts_of(run), State(state="stopped", reason=said))
    assert f"hpckit submit --from {run.dir}" in run_text(told)
    assert "restart" not in run_text(told)


@pytest.mark.parametrize("error", NO, ids=["refused", "silent"])
def test_a_restart_that_was_refused_was_never_wished(run, monkeypatch, error):
    run.ledger("person").write("cancel")
    with pytest.raises(type(error)):
        wish(run, monkeypatch, Refusing(error), "resources.time=30d")
    assert run.is_cancelled()
    slurm = Refusing()
    wish(run, monkeypatch, slurm, "resources.memory=2G")
    script = slurm.submitted[0].read_text()
    assert ("--mem=2048M" in script, "--time=0-01:00:00" in script) == (True, True)
    assert not run.is_cancelled()


def test_a_restart_whose_answer_was_lost_may_be_in_the_queue_and_stays_wished(run, monkeypatch):
    monkeypatch.setattr("hpckit.submission.commit.LOOK_AGAIN_S", ())
    with pytest.raises(SubmissionUnclear):
        wish(run, monkeypatch, Refusing(SubmissionUnclear("late")), "resources.time=2h")
    assert [event.kind for event in run.ledger().events() if is_by_hand(event)] == ["restart"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("params.mode=x0.5", "params.mode: is 'fast': only a number can be multiplied"),
        ("params.moed=slow", "params.moed: names no parameter; did you mean 'mode'?"),
        ("params.lr=abc", "params.lr: is 0.1: must stay a number, and cannot be 'abc'"),
        ("params.lr=x0.5x", "params.lr: is 0.1: must stay a number"),
        ("params.lr=null", "params.lr: is 0.1: must stay a number"),
        ("clip=abc", "clip: must be a number above 0, not 'abc'"),
        ("clip=x-2", "clip: must be a number above 0"),
        ("clip=0", "clip: must be a number above 0, not 0"),
        ("clip=null", "clip: must be a number above 0"),
        ("lr=nan", "lr: must be a number above 0"),
        ("lr=.nan", "lr: must be a number above 0"),
        ("lr=.inf", "lr: must be a number above 0"),
        ("lr=xinf", "lr: must be a number above 0"),
        ("resources.time=soon", "resources.time: 'soon' is not a duration: write 24h"),
        ("resources.nodes=many", "resources.nodes: must be a whole number"),
        ("resources.nodes=2.5", "resources.nodes: must be a whole number"),
        ("resources.memory=8", "resources.memory: 8 has no unit: write 8G"),
        ("resources.time=1s", "resources.time: must be at least"),
        ("resources.time=31d", "resources.time: 31d is longer than the partition's 30d"),
        ("resources.cpus_per_gpu=x2", "resources.cpus_per_gpu: is not given, so there is nothing"),
        ("resources.bogus=1", "resources.bogus: cannot be changed"),
        ("resources.nodes=x0.1", "resources.nodes: must be at least 1"),
    ],
)
def test_a_change_that_cannot_be_carried_out_is_told_before_anything_is_done(
    run, monkeypatch, change, said
):
    params = {"mode": "fast", "lr": 0.1}
    program = {"python": "train.py", "attach": "optimizers"}
    spec = {"name": "a", "program": program, "params": params, "limits": {"attempts": 12}}
    write_json(run.dir / "spec.json", spec_from_json(spec).to_json())
    with pytest.raises(UsageError) as refused:
        wish(run, monkeypatch, Refusing(), change)
    assert said in refused.value.message
    assert not [event for event in run.ledger().events() if is_by_hand(event)]
    slurm = Refusing()
    wish(run, monkeypatch, slurm, "params.mode=slow")
    assert slurm.submitted


def test_what_is_to_be_changed_is_said_once():
    with pytest.raises(UsageError, match="--set clip is given twice"):
        read_changes(["clip=x2", "clip=x3"])


def test_what_was_changed_before_and_is_still_in_force_is_told(run, monkeypatch):
    spec = {"name": "a", "program": "x", "params": {"lr": 0.1}, "limits": {"attempts": 12}}
    write_json(run.dir / "spec.json", spec_from_json(spec).to_json())
    wish(run, monkeypatch, Refusing(), "resources.cpus_per_node=50", "params.lr=x0.5")
    done = wish(run, monkeypatch, Refusing(), "resources.memory=1024M")
    assert done.in_force == {
        "resources.cpus_per_node": 50,
        "params.lr": 0.05,
        "resources.memory": "1G",
    }


@pytest.mark.parametrize(
    ("limits", "time_s", "left", "left_s"),
    [
        # An hour was asked for, and half an hour is used.
        ({"gpu_hours": 2}, "3h", "1h30m of 3h", 5400),
        ({"gpu_hours": 2}, "1h", None, 5400),
        ({"gpu_hours": 9, "total": "2h"}, "3h", "1h of 3h", 3600),
    ],
)
def test_a_time_that_its_limits_do_not_leave_a_run_is_told(
    run, monkeypatch, limits, time_s, left, left_s
):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    spec = {"name": "a", "program": "x", "limits": limits}
    write_json(run.dir / "spec.json", spec_from_json(spec).to_json())
    about = read_json(run.dir / IDENTITY)
    write_json(run.dir / IDENTITY, {**about, "created": iso(now - 3600)})
    ended = {"ended": "2026-01-01T00:30:00.000Z", "reason": "time limit"}
    write_json(run.attempts()[-1].dir / "ended.json", ended)
    run = open_run(run.dir)
    said = []
    wish(run, monkeypatch, Refusing(), f"resources.time={time_s}", tell=said.append)
    new = "for more begin a new run: hpckit submit --from a/b"
    assert said == ([] if left is None else [f"a/b: its limits leave it {left}; {new}"])
    # What runs by then ends by the earlier of both.
    far = State(state="running", reason="", ends_by=iso(now + 3 * 3600))
    ends = seconds_of(describe(facts_of(run), far)["ends_by"])
    assert ends == pytest.approx(now + left_s, abs=1)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_restart_of_what_keeps_nothing_says_what_is_lost_before_it_ends_it(
    run, monkeypatch, keeps
):
    class Busy(Refusing):
        def queue(self):
            return [job(job_id="1_1", array_id="1", task=1, name="a/b", phase=Phase.RUNNING)]

    if keeps:
        run.ledger().write("resumed", attempt=1, launch=1, rollbacks=0, step=0)
    said = []

    def tell(text):
        said.append((text, requests.waiting(run.dir, requests.END, "1_1")))

    monkeypatch.setattr(restarting, "choose_scheduler", lambda kind: Busy())
    monkeypatch.setattr(restarting, "QueueCache", lambda scheduler: scheduler)
    done = restarting.restart(run, restarting.Wish(), tell)
    lost = "a/b saves nothing that is known: what job 1_1 has done is lost"
    assert said == ([] if keeps else [(lost, None)])
    assert requests.waiting(run.dir, requests.END, "1_1") == "restart asked for"
    anew = "the beginning, step 0: nothing is saved"
    assert _origin(done) == ("the newest state that is sound" if keeps else anew)
    assert _origin(dataclasses.replace(done, checkpoint="c7")) == "c7"

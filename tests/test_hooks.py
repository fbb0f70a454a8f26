"""The commands of a spec's hooks, run by a real bash: what they are told, what they cannot do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from hpckit.ledger import Event
from hpckit.scheduler.local_state import MARK as SUPERVISOR
from hpckit.scheduler.slurm import clean_environment
from hpckit.spec import spec_from_json
from hpckit.worker import bounded, hook_log
from hpckit.worker.bounded import Bounds, run_bounded
from hpckit.worker.herald import Herald
from hpckit.worker.hook_log import HookLog
from hpckit.worker.hooks import MOST_WAITING, Hooks
from hpckit.worker.leftovers import MARK, members
from hpckit.worker.news import End, Heard, News, end_of, news_of
from tests.made_runs import begin, finished, incident, make_run

DOCS = Path(__file__).parent.parent / "docs" / "hooks.md"
NAMES = ("on_incident", "before_launch", "on_restart", "on_stop", "on_finish")
IN_ORDER = ("on_restart", "before_launch", "on_incident", "on_finish")
DONE = End(state="done", reason="done", time="2026-07-20T02:14:00Z", submission=1)


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def hooks(run):
    """Hooks of the run's newest attempt, begun if there is none, with times that are short."""

    def make(limit_s=0.4, end_s=5.0, start=True, **commands):
        attempts = run.attempts()
        all_of = {name: commands.get(name, ()) for name in NAMES}
        made = Hooks(
            all_of,
            run,
            attempts[-1] if attempts else begin(run),
            limit_s=limit_s,
            end_s=end_s,
            look_s=0.02,
        )
        if start:
            made.start()
        return made

    return make


@pytest.fixture
def impatient(monkeypatch):
    """What a hook leaves has less time to end by itself."""
    monkeypatch.setattr(bounded, "LINGER_S", 0.1)


def log_of(run, attempt=1):
    return (run.dir / "attempts" / f"{attempt:03d}" / "hooks.log").read_text(errors="replace")


def outputs(run, attempt=1):
    """What the hooks themselves printed."""
    return [line for line in log_of(run, attempt).splitlines() if not line.startswith("hpckit: ")]


def told(run, attempt=1):
    """What the hooks were told, where all they do is `cat`."""
    return [json.loads(line) for line in outputs(run, attempt)]


def is_alive(pid):
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


# What they are told.


def test_each_hook_is_told_what_happened_in_one_json_object(run, hooks):
    before = begin(run)
    (before.dir / "ended.json").write_text(
        '{"ended": "2026-07-20T02:14:00Z", "reason": "time limit"}'
    )
    begin(run)
    made = hooks(**{name: ["cat"] for name in NAMES})
    made.before_launch(lambda: False)
    plan = {"do": "rollback", "sentence": "go back"}
    incident(run, 8123, attempt=2, plan=plan)
    made.finish(DONE)
    by_event = {each["event"]: each for each in told(run, 2)}
    restart, launch, found, end = (by_event[name] for name in IN_ORDER)
    always = {"run": "agent/0720-p7d", "name": "agent", "dir": str(run.dir), "attempt": 2}
    going_on = {**always, "state": "running", "incident": None}
    assert restart == {**going_on, "event": "on_restart", "reason": "time limit"}
    assert launch == {**going_on, "event": "before_launch", "reason": ""}
    about = {"kind": "explosion", "step": 8123, "sentence": "it grew", "acts": True, "plan": plan}
    assert found == {**going_on, "event": "on_incident", "reason": "it grew", "incident": about}
    assert end == {**going_on, "event": "on_finish", "state": "done", "reason": "done"}


@pytest.mark.parametrize(
    ("state", "hook"),
    [("stopped", "on_stop"), ("done", "on_finish"), ("failed", None), ("cancelled", None)],
)
def test_a_run_that_ends_has_the_hook_of_its_state(run, hooks, state, hook):
    made = hooks(**{name: ["cat"] for name in NAMES})
    finished(run, state, "why", attempt=1)
    made.finish(end_of(run))
    found = told(run) if hook else []
    assert [(each["event"], each["state"], each["reason"]) for each in found] == (
        [(hook, state, "why")] if hook else []
    )


@pytest.mark.parametrize(("do", "steps"), [("stop", [7, 7]), ("rollback", [7, None])])
def test_a_run_that_was_stopped_for_an_incident_tells_which(run, hooks, do, steps):
    made = hooks(on_incident=["cat"], on_stop=["cat"])
    incident(run, 3, plan={"do": "rollback"})
    incident(run, 7, plan={"do": do})
    finished(run, "stopped", "why", attempt=1)
    made.finish(end_of(run))
    _, *found = told(run)
    assert [(each["incident"] or {}).get("step") for each in found] == steps


def test_a_first_attempt_is_no_restart(run, hooks):
    hooks(on_restart=["cat"]).finish(None)
    assert not (run.dir / "attempts" / "001" / "hooks.log").exists()


def test_a_hook_stands_in_the_work_folder_with_the_environment_of_a_job_of_the_runs(
    run, hooks, monkeypatch
):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("HPCKIT_SCHEDULER", "slurm")
    monkeypatch.setenv("OURS", "kept")
    hooks(on_finish=["pwd; env | sort"]).finish(DONE)
    where, *lines = outputs(run)
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    assert where == str(run.dir / "work")
    assert (found["HPCKIT_RUN"], found["HPCKIT_RUN_DIR"]) == (run.id, str(run.dir))
    assert (found["HPCKIT_EVENT"], found["OURS"]) == ("on_finish", "kept")
    assert found["SLURM_CONF"] == "/etc/slurm.conf"
    assert not {"SLURM_JOB_ID", "HPCKIT_SCHEDULER"} & set(found)
    # Where `hpckit` is.
    own = str(Path(sys.executable).parent)
    assert found["PATH"].split(os.pathsep) == [*os.environ["PATH"].split(os.pathsep), own]


def test_a_hook_is_the_first_to_go_when_memory_runs_out(run, hooks):
    hooks(on_finish=["cat /proc/self/oom_score_adj"]).finish(DONE)
    assert outputs(run) == ["1000"]


def test_the_log_has_a_line_for_each_start_and_end_with_code_and_time(run, hooks):
    hooks(on_finish=["printf half; exit 3", "true | false | true", "kill $$"]).finish(DONE)
    lines = [re.sub(r"^hpckit: \S+T\S+Z |\d+\.\d", "", line) for line in log_of(run).splitlines()]
    assert lines == [
        "on_finish begins: printf half; exit 3",
        "half",
        "on_finish ended with exit code 3 after  s: printf half; exit 3",
        "on_finish begins: true | false | true",
        # A pipeline fails if any part of it does.
        "on_finish ended with exit code 1 after  s: true | false | true",
        "on_finish begins: kill $$",
        # As a shell says it of what a signal has ended.
        "on_finish ended with exit code 143 after  s: kill $$",
    ]
    assert list((run.dir / "attempts" / "001" / "logs").iterdir()) == []


def test_what_has_gone_wrong_is_told_once_in_the_workers_log_and_ends_nothing(run, hooks, capsys):
    made = hooks(on_incident=["exit 3"], on_finish=["echo last"])
    incident(run, 1)
    incident(run, 2)
    made.finish(DONE)
    assert log_of(run).count("on_incident ended with exit code 3") == 2
    assert capsys.readouterr().out.count("hook on_incident: exit 3: ended with exit code 3") == 1
    assert outputs(run) == ["last"]


# What they cannot do.


def test_a_hook_that_hangs_is_killed_with_all_it_started_wherever_that_hid(run, hooks, capsys):
    hidden = [
        # In another session, and deaf.
        "setsid bash -c 'trap \"\" TERM; echo $$; sleep 50; sleep 50' &",
        # Without its parent.
        "(setsid sleep 50 & echo $!);",
        # Without its environment, and without its parent and group, or its session, besides.
        "(set -m; env -i sleep 50 & echo $!);",
        "setsid env -i bash -c 'echo $$; exec sleep 50' &",
    ]
    hang = " ".join(["trap '' TERM;", *hidden, "sleep 50; sleep 50"])
    began = time.monotonic()
    hooks(on_finish=[hang, "echo next"], limit_s=0.8, end_s=20.0).finish(DONE)
    assert time.monotonic() - began < 4.0
    *printed, last = outputs(run)
    # A shell may yet come to say that what it waited for was killed.
    pids = [line for line in printed if line.isdigit()]
    assert (len(pids), last) == (4, "next")
    assert not [pid for pid in pids if is_alive(pid)]
    assert "was killed, its time was over" in capsys.readouterr().out


@pytest.mark.usefixtures("impatient")
def test_what_forks_faster_than_it_is_found_is_killed(run, hooks):
    hooks(on_finish=["f() { echo $1 >>hops; [ $1 = 4000 ] || f $(($1 + 1)) & }; f 1"]).finish(DONE)
    hops = run.dir / "work" / "hops"
    size = hops.stat().st_size
    time.sleep(0.1)
    assert hops.stat().st_size == size
    assert 1 <= len(hops.read_text().split()) < 4000


def test_a_hook_that_kills_its_parent_does_not_kill_the_worker(run, hooks):
    """The worker would be this process."""
    killing = f"echo $PPID; [ $PPID = {os.getpid()} ] || kill -9 $PPID; sleep 50"
    hooks(on_finish=[killing, "echo next"]).finish(DONE)
    parent, last = outputs(run)
    assert (int(parent) != os.getpid(), last) == (True, "next")
    assert "on_finish was ended by signal 9, what it left running was killed" in log_of(run)


@pytest.mark.usefixtures("impatient")
def test_what_a_hook_leaves_running_ends_with_it(run, hooks, capsys):
    # Its own session, no parent, and deaf: by its environment alone it can be known.
    daemon = "setsid bash -c 'trap \"\" TERM HUP; sleep 50 & sleep 50' >/dev/null 2>&1 & echo $!"
    hooks(on_finish=[f"({daemon})", "echo next"]).finish(DONE)
    pid, last = outputs(run)
    assert (is_alive(pid), last) == (False, "next")
    assert "what it left running was killed" in capsys.readouterr().out


def test_what_ends_a_moment_after_its_shell_is_waited_for(run, hooks, capsys):
    hooks(on_finish=["exec > >(sleep .1; tr a-z A-Z); echo late"]).finish(DONE)
    assert outputs(run) == ["LATE"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("whose", ["SLURM_JOB_ID", SUPERVISOR])
def test_a_job_that_a_hook_submitted_is_not_its_own(whose):
    """It takes its environment along, to this node perhaps."""
    marked = {**os.environ, MARK: "abc"}
    mine, other = (
        subprocess.Popen(["sleep", "50"], env=environ, start_new_session=True)
        for environ in (marked, {whose: "7", **marked})
    )
    try:
        nobody = 2**30
        # Until it has begun its environment is still this process's own.
        while (found := members(nobody, "abc")) == set():
            time.sleep(0.01)
        assert found == {mine.pid}
    finally:
        for each in (mine, other):
            each.kill()
            each.wait()


def test_what_marks_a_hook_does_not_go_along_with_what_it_submits():
    of_hook = {MARK: "abc", "HPCKIT_EVENT": "on_stop", "HPCKIT_RUN": "a/b", "HPCKIT_ROOT": "/x"}
    assert clean_environment(of_hook) == {"HPCKIT_ROOT": "/x"}


def test_a_flood_is_cut(run, hooks, capsys):
    hooks(on_finish=["yes", "echo next"], limit_s=0.6).finish(DONE)
    assert hook_log.MOST_OF_ONE <= len(log_of(run)) < 1.01 * hook_log.MOST_OF_ONE
    assert outputs(run)[-1] == "next"
    assert "the end of what it printed was left out" in capsys.readouterr().out


def test_what_is_not_kept_holds_up_nobody():
    """The launch waits for a verbose rsync: what it prints is read as fast as it comes."""
    taken = []
    until = time.monotonic() + 5.0
    bounds = Bounds(is_late=lambda: time.monotonic() > until, take=lambda d: taken.append(len(d)))
    much = ["head", "-c", "30000000", "/dev/zero"]
    assert run_bounded(much, given=b"", bounds=bounds, env=os.environ).code == 0
    assert sum(taken) == 30_000_000


def test_a_hook_that_prints_more_than_is_kept_still_does_its_work(run, hooks):
    much = "head -c 1200000 /dev/zero | tr '\\0' x; echo end > ended"
    hooks(on_finish=[much], limit_s=4.0).finish(DONE)
    assert (run.dir / "work" / "ended").exists()


def test_all_hooks_of_an_attempt_together_fill_no_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(hook_log, "MOST_OF_ALL", 2_500_000)
    log = HookLog(tmp_path / "hooks.log")
    for _ in range(4):
        log.begin("again")
        for _ in range(1100):
            log.take(b"x" * 1000)
    assert 2_500_000 <= (tmp_path / "hooks.log").stat().st_size < 2_510_000


@pytest.mark.parametrize(
    "command", ["exec 0<&-; sleep .1", "sleep .2", "head -c 10 >/dev/null", "exec 1>&- 2>&-"]
)
def test_a_hook_need_not_read_what_it_is_told_nor_print(run, hooks, capsys, command):
    made = hooks(on_incident=[command], on_finish=["echo next"])
    incident(run, 1, sentence="x" * 300_000)
    made.finish(DONE)
    assert outputs(run) == ["next"]
    assert capsys.readouterr().out == ""


def test_a_hook_that_deletes_its_folder_stops_only_the_hooks_after_it(run, hooks, capsys):
    made = hooks(before_launch=["rmdir $PWD; echo gone"], on_finish=["echo never"])
    made.before_launch(lambda: False)
    made.finish(DONE)
    assert outputs(run) == ["gone"]
    assert "on_finish could not be started" in log_of(run)
    assert "could not be started" in capsys.readouterr().out


def test_a_hook_cannot_bring_back_a_run_that_was_deleted(run, hooks):
    made = hooks(before_launch=["rm -r $HPCKIT_RUN_DIR; echo gone"], on_finish=["true"])
    made.before_launch(lambda: False)
    made.finish(DONE)
    assert not run.dir.exists()


def test_of_many_incidents_so_many_wait_and_the_rest_is_told(run, hooks, capsys):
    begun, go = run.dir / "work" / "begun", run.dir / "work" / "go"
    busy = "touch begun; until [ -e go ]; do sleep .02; done; cat"
    made = hooks(on_incident=[busy], limit_s=5.0)
    incident(run, 0)
    while not begun.exists():
        time.sleep(0.01)
    for step in range(1, MOST_WAITING + 25):
        incident(run, step)
    go.touch()
    made.finish(None)
    steps = [each["incident"]["step"] for each in told(run)]
    assert steps == list(range(MOST_WAITING + 1))
    said = f"24 more came while {MOST_WAITING} were waiting"
    assert said in log_of(run)
    assert capsys.readouterr().out.count(said) == 1
    begin(run)
    hooks(on_incident=["cat"]).finish(None)
    assert not (run.dir / "attempts" / "002" / "hooks.log").exists()


# How long they are waited for.


def test_the_launch_waits_for_its_hooks_and_no_longer_than_they_may_take(run, hooks):
    made = hooks(before_launch=["sleep .1; echo one", "sleep 50", "echo three"], limit_s=0.3)
    began = time.monotonic()
    made.before_launch(lambda: False)
    assert 0.3 < time.monotonic() - began < 3.0
    assert outputs(run) == ["one", "three"]


def test_a_launch_waits_for_no_other_hook_and_its_own_have_their_time(run, hooks):
    made = hooks(on_incident=["touch begun; sleep 50"], before_launch=["sleep .3"], limit_s=0.6)
    for step in range(3):
        incident(run, step)
    while not (run.dir / "work" / "begun").exists():
        time.sleep(0.01)
    began = time.monotonic()
    made.before_launch(lambda: False)
    assert 0.3 < time.monotonic() - began < 1.2
    assert "before_launch ended with exit code 0" in log_of(run)
    made.finish(None)


def test_who_is_told_to_end_waits_for_no_launch(hooks):
    began = time.monotonic()
    ends = iter([False, False, True])
    made = hooks(before_launch=["sleep 50", "sleep 50"], limit_s=50.0)
    made.before_launch(lambda: next(ends, True))
    assert time.monotonic() - began < 1.5


def test_no_hook_but_the_launchs_is_waited_for_before_the_end(run, hooks):
    made = hooks(on_incident=["sleep .5; echo slow"], limit_s=2.0)
    incident(run, 1)
    while not (run.dir / "attempts" / "001" / "hooks.log").exists():
        time.sleep(0.01)
    began = time.monotonic()
    made.before_launch(lambda: False)
    assert time.monotonic() - began < 0.3
    made.finish(None)
    assert outputs(run) == ["slow"]


def test_at_the_end_hooks_share_what_time_there_is(run, hooks, capsys):
    last = ["sleep 50", "sleep .1; echo last"]
    made = hooks(on_incident=["sleep 50"], on_finish=last, limit_s=50.0, end_s=1.0)
    # More than a pipe holds, and nobody reads it.
    incident(run, 1, sentence="x" * 300_000)
    incident(run, 2)
    time.sleep(0.1)
    began = time.monotonic()
    made.finish(DONE)
    assert time.monotonic() - began < 3.0
    assert outputs(run) == ["last"]


# Over the lives of workers.


def test_what_a_dead_worker_did_not_come_to_the_next_one_does_and_nothing_twice(run, hooks):
    incident(run, 1)
    hooks(on_incident=["cat"]).finish(None)
    # Its worker died before it looked, or while a hook ran.
    incident(run, 2)
    begin(run)
    incident(run, 3, attempt=2, writer="other")
    hooks(on_incident=["cat"]).finish(None)
    found = [each["incident"]["step"] for each in told(run, 1) + told(run, 2)]
    assert found == [1, 2, 3]


def test_what_the_time_did_not_suffice_for_is_left_to_the_next_attempt(run, hooks, capsys):
    incident(run, 1)
    made = hooks(on_incident=["sleep 50"], end_s=0.0, limit_s=50.0)
    while "begins" not in (log_of(run) if (run.dir / "attempts/001/hooks.log").exists() else ""):
        time.sleep(0.01)
    incident(run, 2)
    made.finish(None)
    assert "on_incident: not run: the time for hooks is over" in capsys.readouterr().out
    begin(run)
    hooks(on_incident=["cat"]).finish(None)
    assert [each["incident"]["step"] for each in told(run, 2)] == [2]


def test_a_hook_that_kills_its_worker_does_not_do_so_in_every_attempt(run, hooks):
    incident(run, 1)
    heard = run.dir / "attempts" / "001" / "heard.json"
    hooks(on_incident=[f"cp {heard} seen.json"]).finish(None)
    assert json.loads((run.dir / "work" / "seen.json").read_text())["news"] == {"log": 1}


SPEC = {"name": "agent", "program": "true", "hooks": {name: ["cat"] for name in NAMES}}


def test_the_hook_of_an_end_is_run_once_whoever_comes_to_it(run):
    spec = spec_from_json(SPEC)
    (run.dir / "spec.json").write_text(json.dumps(spec.to_json()))
    attempt = begin(run)
    finished(run, "done", attempt=1)
    # The worker died with the word; a link that finds nothing to do says it.
    Herald(run).finish()
    assert [each["event"] for each in told(run)] == ["on_finish"]
    Herald(run).finish()
    herald = Herald(run)
    herald.begin(attempt, spec)
    herald.finish()
    assert len(told(run)) == 1


def test_a_worker_whose_place_another_one_took_tells_no_end(run):
    herald = Herald(run)
    herald.begin(begin(run), spec_from_json(SPEC))
    begin(run)
    finished(run, "done", attempt=2)
    herald.finish()
    assert not (run.dir / "attempts" / "001" / "hooks.log").exists()


def test_a_spec_without_hooks_has_no_thread_and_no_file(run):
    herald = Herald(run)
    threads = threading.active_count()
    herald.begin(begin(run), spec_from_json({"name": "agent", "program": "true"}))
    assert threading.active_count() == threads
    herald.before_launch()
    herald.finish()
    names = {path.name for path in (run.dir / "attempts" / "001").iterdir()}
    assert names == {"attempt.json", "logs"}


def test_nothing_that_goes_wrong_with_hooks_reaches_the_worker(run, monkeypatch, capsys):
    def refuses(*_):
        raise RuntimeError("out of order")

    herald = Herald(run)
    herald.begin(begin(run), spec_from_json(SPEC))
    for name in ("before_launch", "finish"):
        monkeypatch.setattr(Hooks, name, refuses)
    herald.before_launch()
    herald.finish()
    monkeypatch.setattr(Hooks, "start", refuses)
    Herald(run).begin(run.attempts()[-1], spec_from_json(SPEC))
    shutil.rmtree(run.dir)
    Herald(run).finish()
    assert capsys.readouterr().out.count("hooks and mails: RuntimeError: out of order") == 3


def test_the_worker_stays_light():
    code = (
        "import sys, hpckit.worker.herald, hpckit.worker.hooks, hpckit.worker.notify\n"
        "print(*{'email', 'smtplib', 'ssl', 'torch', 'getpass'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# The news they are run for.


def test_news_are_counted_by_their_writer_and_told_in_order_of_time(run):
    incident(run, 1, writer="a")
    incident(run, 2, writer="b")
    run.ledger("a").write("rollback", step=1)
    incident(run, 3, writer="a")
    begin(run)
    begin(run)
    run.ledger("c").write("incident", incident="nonsense")
    run.ledger("c").write("attempt", number="two")
    found = [(each.kind, each.event.writer, each.number) for each in news_of(run.ledger())]
    assert found == [
        ("incident", "a", 1),
        ("incident", "b", 1),
        ("incident", "a", 2),
        ("restart", "attempt-002", 1),
    ]


@pytest.mark.parametrize(
    ("kind", "what", "is_told"),
    [
        ("restart", "node_failure", True),
        ("stopped", "out_of_memory", True),
        ("restart", "time_limit", False),
        ("restart", "by_hand", False),
    ],
)
def test_what_ended_a_program_is_an_incident_and_a_wish_is_none(run, hooks, kind, what, is_told):
    plan = {"do": "resubmit", "sentence": "end this attempt"}
    run.ledger("w").write(kind, attempt=1, incident={"kind": what, "step": 7}, plan=plan)
    hooks(on_incident=["cat"]).finish(None)
    found = told(run) if is_told else []
    assert [each["incident"]["plan"] for each in found] == [plan] * is_told
    assert len(news_of(run.ledger())) == is_told


def test_what_was_heard_reads_back_and_nonsense_is_nothing():
    event = Event(time="2026-07-20T02:14:00Z", writer="a", kind="incident")
    second = News(kind="incident", event=event, number=2)
    heard = Heard().and_also([second], DONE)
    assert Heard.from_json(json.loads(json.dumps(heard.to_json()))) == heard
    assert heard.has(second)
    assert not Heard().has(second)
    assert Heard.from_json([1]) == Heard.from_json({"news": {"a": "x"}, "ended": "y"}) == Heard()


# What the docs show.


def test_the_docs_show_all_keys_that_a_hook_can_rely_on(run, hooks):
    shown = json.loads(re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)[0])
    made = hooks(on_incident=["cat"])
    incident(run, 8123, plan={"do": "rollback", "sentence": "go back"})
    made.finish(None)
    (found,) = told(run)
    assert list(shown) == list(found)
    assert set(found["incident"]) <= set(shown["incident"])


class Posted(BaseHTTPRequestHandler):
    """Keeps what is posted."""

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.posted.append((self.headers["Content-Type"], self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def webhook():
    server = HTTPServer(("127.0.0.1", 0), Posted)
    server.posted = []
    serving = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    serving.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the recipe needs curl")
def test_the_webhook_of_the_docs_posts_what_happened(run, hooks, webhook, own_home, monkeypatch):
    recipe = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(recipe) == 1
    (run.dir / "work" / "webhook.sh").write_text(recipe[0])
    monkeypatch.setenv("HOME", str(own_home))
    (own_home / ".webhook").write_text(f'url = "http://127.0.0.1:{webhook.server_port}/x"\n')
    made = hooks(on_incident=["bash webhook.sh"], on_finish=["bash webhook.sh"], limit_s=5.0)
    incident(run, 8123, sentence='it "grew"; $(touch broken) ä')
    made.finish(DONE)
    assert "exit code 0" in log_of(run)
    (kind, first), (_, second) = webhook.posted
    assert kind == "application/json"
    assert json.loads(first) == {
        "text": 'agent/0720-p7d, attempt 1: on_incident at step 8123: it "grew"; $(touch broken) ä'
    }
    assert json.loads(second) == {"text": "agent/0720-p7d, attempt 1: on_finish: done"}
    assert not (run.dir / "work" / "broken").exists()


def test_signals_to_the_worker_reach_no_hook(run, hooks):
    """A Ctrl-C is for the terminal's own group."""
    before = signal.getsignal(signal.SIGCHLD)
    hooks(on_finish=["ps -o pgid=,sid= -p $$"]).finish(DONE)
    group, session = map(int, outputs(run)[0].split())
    assert group == session != os.getpgrp()
    assert signal.getsignal(signal.SIGCHLD) is before

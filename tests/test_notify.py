"""Mails about runs and sweeps: when one is sent, what it says, and the ways by which it goes."""

from __future__ import annotations

import email
import email.policy
import json
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from hpckit.ledger import last
from hpckit.spec import Notify, spec_from_json
from hpckit.worker import bounded, mailer
from hpckit.worker import notify as notifying
from hpckit.worker.digest import Item, Place, body, subject
from hpckit.worker.herald import Herald
from hpckit.worker.mailer import Mail, NotSent, send
from hpckit.worker.news import End, Heard, end_of
from hpckit.worker.notify import Notifier
from hpckit.worker.outbox import HOUR_S, STALE_S, Outbox, told_by
from tests.made_runs import begin, finished, incident, make_run, make_sweep

ALL = ("incident", "restart", "stopped", "failed", "cancelled", "done")


class Post:
    """What was sent, by a clock of its own."""

    def __init__(self):
        self.sent = []
        self.now = 1_000_000.0
        self.trouble = None

    def send(self, mail):
        if self.trouble is not None:
            raise self.trouble
        self.sent.append(mail)

    def clock(self):
        return self.now

    @property
    def subjects(self):
        return [mail.subject.removeprefix("hpckit: ") for mail in self.sent]

    def worker(self, run, *on, attempt=1):
        """The notifier of a new worker; nothing of it runs by itself."""
        spec = Notify(mail="ana@uni.example", on=on or ALL)
        return Notifier(spec, run, attempt, send=self.send, clock=self.clock)

    def ends(self, run, worker, state=None, reason=None):
        """A worker comes to its end, with the run's in the ledger if there is a state."""
        if state is not None:
            finished(run, state, reason, attempt=1)
        worker.finish(end_of(run))
        worker.look(is_last=True)


@pytest.fixture
def post():
    return Post()


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def points(tmp_path):
    found = make_sweep(tmp_path / "sweep", 3)
    for each in found:
        begin(each)
    return found


# When.


def test_the_first_incident_is_mailed_at_once_and_what_follows_when_the_hour_is_over(run, post):
    worker = post.worker(run)
    worker.look()
    assert post.sent == []
    incident(run, 8123)
    worker.look()
    assert post.subjects == ["agent/0720-p7d explosion at step 8123"]
    incident(run, 8200)
    begin(run)
    begin(run)
    for _ in range(58):
        post.now += 60
        worker.look()
    assert len(post.sent) == 1
    post.now += 120
    # It was attempt 1's worker, and 2 has begun; its place is taken.
    worker.look()
    assert len(post.sent) == 1
    post.worker(run, attempt=2).look()
    assert post.subjects[1:] == ["agent/0720-p7d: 1 incident, 1 restart"]
    post.now += 2 * HOUR_S
    post.worker(run, attempt=2).look()
    assert len(post.sent) == 2


def test_a_mark_that_another_worker_took_for_an_older_one_is_set_again(points, post):
    worker = post.worker(points[0])
    incident(points[0], 1)
    worker.look()
    incident(points[0], 2)
    worker.look()
    for path in (points[0].home / "notify").glob("waiting-*"):
        path.unlink()
    post.now += HOUR_S + 1
    worker.look()
    assert post.subjects[1:] == ["agent/0720-sqx/000 explosion at step 2"]


@pytest.mark.parametrize("state", ["stopped", "failed", "cancelled", "done"])
def test_the_end_of_a_run_is_mailed_at_once_with_what_was_not_told(run, post, state):
    worker = post.worker(run)
    incident(run, 1)
    worker.look()
    incident(run, 2, sentence="it grew more")
    worker.look()
    post.ends(run, worker, state, "as it is")
    assert post.subjects[1:] == [f"agent/0720-p7d {state}: as it is"]
    assert "it grew more" in post.sent[1].body
    assert "step 1," not in post.sent[1].body


def test_only_what_is_asked_for_is_mailed(run, post):
    worker = post.worker(run, "failed", "restart")
    incident(run, 1)
    worker.look()
    post.ends(run, worker, "done")
    assert post.sent == []


def test_an_end_that_was_not_asked_for_takes_along_what_was(run, post):
    worker = post.worker(run, "incident")
    incident(run, 1)
    worker.look()
    incident(run, 2)
    post.ends(run, worker, "done")
    assert post.subjects == ["agent/0720-p7d explosion at step 1", "agent/0720-p7d done"]


def test_what_a_dead_worker_did_not_send_the_next_one_sends_and_nothing_twice(run, post):
    begin(run)
    incident(run, 1)
    post.worker(run).look()
    incident(run, 2)
    post.now += HOUR_S + 1
    begin(run)
    post.worker(run, "incident", attempt=2).look()
    assert post.subjects[1:] == ["agent/0720-p7d explosion at step 2"]
    # It writes the end down and dies; whoever finds nothing to do tells it.
    finished(run, "done", attempt=2)
    for _ in range(2):
        post.ends(run, post.worker(run, attempt=2))
    assert post.subjects[2:] == ["agent/0720-p7d done"]


def test_a_worker_that_died_while_it_sent_has_not_sent(run, post):
    worker = post.worker(run)
    post.trouble = KeyboardInterrupt()
    finished(run, "stopped", "why", attempt=1)
    worker.finish(end_of(run))
    with pytest.raises(KeyboardInterrupt):
        worker.look(is_last=True)
    post.trouble = None
    post.ends(run, post.worker(run))
    assert post.subjects == ["agent/0720-p7d stopped: why"]


def test_an_event_that_is_seen_late_is_told_however_old_its_time_is(run, post):
    """Another node's clock, or a filesystem that shows it later."""
    incident(run, 1)
    worker = post.worker(run)
    worker.look()
    line = {"time": "2020-01-01T00:00:00.000000Z", "kind": "incident", "attempt": 1}
    late = run.dir / "ledger" / "late.jsonl"
    late.write_text(json.dumps({**line, "incident": {"kind": "drift", "step": 0}}) + "\n")
    post.now += HOUR_S + 1
    worker.look()
    assert post.subjects[1:] == ["agent/0720-p7d drift at step 0"]


# Of sweeps.


def test_a_sweep_has_one_digest_an_hour_whoever_of_its_points_has_something_to_tell(points, post):
    workers = [post.worker(each) for each in points]
    incident(points[0], 1)
    workers[0].look()
    incident(points[1], 2)
    workers[1].look()
    # This one ends within the hour; what it has to say is left to those that live.
    post.ends(points[1], workers[1], "failed", "exit code 1")
    post.now += HOUR_S + 1
    for worker in (workers[0], workers[2]):
        worker.look()
    assert post.subjects == [
        "agent/0720-sqx/000 explosion at step 1",
        "agent/0720-sqx: 1 incident, 1 point failed",
    ]
    assert "point 001, failed: exit code 1" in post.sent[1].body


def test_two_workers_that_find_the_same_at_once_send_one_mail(points, post):
    barrier = threading.Barrier(3)
    for each in points:
        incident(each, 1)

    def at_once(mail):
        time.sleep(0.05)
        post.send(mail)

    def look(point):
        spec = Notify(mail="ana@uni.example", on=ALL)
        worker = Notifier(spec, point, 1, send=at_once)
        barrier.wait()
        worker.look()

    threads = [threading.Thread(target=look, args=(point,)) for point in points]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(post.sent) == 1


def test_a_mail_has_one_sender_though_several_saw_no_other(tmp_path):
    boxes = [Outbox(folder=tmp_path / "notify", run=f"a/{n}", by=str(n)) for n in range(2)]
    seen = [box.letters() for box in boxes]
    claims = [box.claim(found, {}, 0.0) for box, found in zip(boxes, seen, strict=True)]
    assert [claim is not None for claim in claims] == [True, False]


def test_the_end_of_a_sweep_is_one_mail_when_its_last_point_has_ended(points, post):
    workers = [post.worker(each, "stopped", "failed", "done") for each in points]
    post.ends(points[0], workers[0], "done")
    assert post.subjects == ["agent/0720-sqx/000 done"]
    post.ends(points[1], workers[1], "failed", "exit code 1")
    assert len(post.sent) == 1
    finished(points[2], "done", attempt=1)
    # Two points end at once, and both see that all have ended.
    for place in (2, 1, 0):
        post.ends(points[place], workers[place])
    assert post.subjects[1:] == ["agent/0720-sqx: all 3 points have ended: 2 done, 1 failed"]
    assert "point 001, failed: exit code 1" in post.sent[1].body
    assert "point 000" not in post.sent[1].body


def test_an_end_of_a_point_that_was_not_asked_for_is_no_news(points, post):
    post.ends(points[0], post.worker(points[0], "failed"), "done")
    assert post.sent == []


def test_a_point_that_is_restarted_makes_another_end_of_its_sweep(points, post):
    for each in points:
        finished(each, "done", attempt=1)
    post.ends(points[0], post.worker(points[0]))
    points[1].ledger("person").write("submit", chains=[2], serial=1)
    post.ends(points[0], post.worker(points[0]))
    assert len(post.sent) == 1
    finished(points[1], "failed", chain=2, attempt=1)
    post.ends(points[1], post.worker(points[1]))
    assert post.subjects == [
        "agent/0720-sqx: all 3 points have ended: 3 done",
        "agent/0720-sqx: all 3 points have ended: 2 done, 1 failed",
    ]


def test_an_end_that_another_point_is_telling_is_left_to_it(points, post):
    for each in points:
        finished(each, "done", attempt=1)
    workers = [post.worker(each) for each in points]
    sending = []

    def while_sending(mail):
        sending.append(mail)
        if len(sending) == 1:
            post.ends(points[1], workers[1])

    workers[0]._send = workers[1]._send = while_sending
    post.ends(points[0], workers[0])
    assert len(sending) == 1


def test_a_new_submission_of_a_run_has_an_end_of_its_own(run, post):
    post.ends(run, post.worker(run), "failed", "why")
    run.ledger("person").write("submit", chains=[2], serial=1)
    run.ledger("worker").write("finished", state="done", reason="done", chain=2)
    worker = post.worker(run)
    worker.finish(end_of(run))
    worker.look(is_last=True)
    assert post.subjects == ["agent/0720-p7d failed: why", "agent/0720-p7d done"]


# The folder.


@pytest.fixture
def box(tmp_path):
    return Outbox(folder=tmp_path / "notify", run="a/b", by="me")


def test_what_was_told_reads_back_from_the_mails_that_were_sent(box):
    told = {"": Heard(news={"log": 2}, ended=1), "003": Heard(news={"log": 1})}
    box.settle(box.claim([], told, 5.0), "sent")
    box.claim(box.letters(), {"": Heard()}, 6.0)
    assert told_by(box.letters()) == told
    assert [(each.number, each.fate, each.time) for each in box.letters()] == [
        (1, "sent", 5.0),
        (2, "claimed", 6.0),
    ]


def test_a_claim_counts_while_its_maker_may_live(box):
    other = Outbox(folder=box.folder, run="a/c", by="other")
    dead = Outbox(folder=box.folder, run="a/b", by="the worker before")
    theirs, past = other.claim([], {}, 0.0), dead.claim(other.letters(), {}, 0.0)
    assert box.is_pending(theirs, STALE_S - 1)
    assert not box.is_pending(theirs, STALE_S + 1)
    # A run has one worker at a time.
    assert not box.is_pending(past, 1.0)
    assert not box.is_due([theirs], 1.0)
    assert box.is_due([past], 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"fate": "sent", "time": "2026-07-20T02:14:00Z", "run": "", "by": "", "told": 3}',
        '{"fate": "eaten", "time": "x", "told": 3}',
    ],
)
def test_a_claim_that_cannot_be_read_is_somebodys_for_a_while(box, text):
    box.folder.mkdir()
    (box.folder / "0001.json").write_text(text)
    (box.folder / "notes.json").write_text("{}")
    letters = box.letters()
    now = (box.folder / "0001.json").stat().st_mtime
    assert box.is_pending(letters[0], now + 1)
    assert not box.is_pending(letters[0], now + STALE_S + 1)
    assert box.claim(letters, {}, now).number == 2


def test_a_clock_that_was_far_ahead_silences_nobody(box):
    box.settle(box.claim([], {}, 1e9), "sent")
    assert not box.is_due(box.letters(), 1e9 - 60)
    assert box.is_due(box.letters(), 1e9 - HOUR_S)


# When it cannot be sent.


def test_that_nobody_can_be_told_is_said_once_and_written_down(run, post, capsys):
    worker = post.worker(run)
    post.trouble = NotSent("sendmail: not here")
    for step in range(3):
        incident(run, step)
        worker.look()
        post.now += HOUR_S + 1
    post.ends(run, worker, "done")
    said = capsys.readouterr().out
    assert said == "hpckit: notify: no mail can be sent: sendmail: not here\n"
    events = run.ledger().events()
    assert sum(event.kind == "untold" for event in events) == 1
    about = {"attempt": 1, "to": "ana@uni.example", "reason": "sendmail: not here"}
    assert last(events, "untold").data == about
    # It was tried again each hour, and at the end.
    assert [each.fate for each in worker._outbox.letters()] == ["failed"] * 4


def test_what_failed_once_is_tried_within_the_hour_only_at_the_end(run, post):
    worker = post.worker(run)
    post.trouble = NotSent("away")
    incident(run, 1)
    worker.look()
    post.trouble = None
    incident(run, 2)
    worker.look()
    assert post.sent == []
    post.ends(run, worker, "done")
    assert post.subjects == ["agent/0720-p7d done"]
    assert "step 1," in post.sent[0].body


def test_of_a_sweep_on_nodes_without_mail_not_every_point_tries(tmp_path, post):
    points = make_sweep(tmp_path / "sweep", 6)
    post.trouble = NotSent("away")
    for each in points:
        begin(each)
        incident(each, 1)
        post.worker(each).look()
    assert len(Outbox(folder=tmp_path / "sweep" / "notify", run="", by="").letters()) == 3


def test_a_run_that_was_deleted_does_not_come_back_for_a_mail(run, post, capsys):
    worker = post.worker(run)
    end = End(state="done", reason="done", time="2026-07-20T02:14:00Z", submission=1)
    shutil.rmtree(run.dir)
    worker.finish(end)
    worker.look(is_last=True)
    worker.look(is_last=True)
    assert not run.dir.exists()
    assert capsys.readouterr().out.count("notify: FileNotFoundError") == 1


def test_a_run_that_is_deleted_while_it_is_mailed_does_not_come_back(run, post):
    worker = post.worker(run)
    incident(run, 1)

    def deletes(mail):
        shutil.rmtree(run.dir)
        raise NotSent("away")

    worker._send = deletes
    worker.look()
    assert not run.dir.exists()


def test_a_mail_that_takes_long_holds_up_nobody(run, monkeypatch, capsys):
    freed, began = threading.Event(), time.monotonic()
    monkeypatch.setattr(notifying, "SEND_S", 0.1)
    incident(run, 1)
    spec = Notify(mail="ana@uni.example", on=ALL)
    worker = Notifier(spec, run, 1, send=lambda _: freed.wait(), look_s=0.01)
    worker.start()
    time.sleep(0.05)
    worker.finish(None)
    worker.join()
    freed.set()
    assert time.monotonic() - began < 3.0
    assert "the last mail was not sent within" in capsys.readouterr().out


# What it says.


@pytest.fixture
def utc():
    """The wall clock's zone, whatever the machine's is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("utc")
def test_a_mail_tells_what_happened_what_is_done_and_where_to_look(run, post):
    begin(run)
    (run.attempts()[0].dir / "ended.json").write_text('{"ended": "x", "reason": "node failed"}')
    plan = {"do": "rollback", "sentence": "go back to the newest good state, clip x0.5"}
    incident(run, 8123, sentence="gradient norm 4.1e6\nworst output_proj", plan=plan)
    begin(run)
    moments = iter(["2026-07-20T02:14:00Z", "2026-07-20T02:20:00Z"])
    for name in ("log", "attempt-002"):
        path = run.dir / "ledger" / f"{name}.jsonl"
        path.write_text(json.dumps({**json.loads(path.read_text()), "time": next(moments)}) + "\n")
    post.ends(run, post.worker(run, attempt=2), None)
    finished(run, "stopped", "explosion at step 8123, the third one: structural", attempt=2)
    post.ends(run, post.worker(run, attempt=2))
    assert [mail.to for mail in post.sent] == ["ana@uni.example"] * 2
    assert (
        post.sent[0].body
        == f"""\
agent/0720-p7d: 1 incident, 1 restart

Jul 20 02:14 UTC  explosion at step 8123, attempt 1: gradient norm 4.1e6
    worst output_proj
    plan: go back to the newest good state, clip x0.5
Jul 20 02:20 UTC  restarted as attempt 2: node failed

folder  {run.dir}
look    hpckit show {run.dir}
"""
    )
    assert post.subjects[1] == (
        "agent/0720-p7d stopped: explosion at step 8123, the third one: structural"
    )
    assert (
        post.sent[1].body
        == f"""\
agent/0720-p7d stopped: explosion at step 8123, the third one: structural

folder  {run.dir}
look    hpckit show {run.dir}
"""
    )


PLACE = Place(run="agent/0720-p7d", folder="/scratch/runs/agent/0720-p7d")


def item(step, title="explosion", **more):
    said = {"point": "", "kind": "incident", "time": f"2026-07-20T02:{step % 60:02d}:00Z"}
    return Item(**{**said, "title": title, "lines": (f"step {step}",), **more})


def test_of_many_the_first_and_the_last_are_told():
    told = body(PLACE, [item(step) for step in range(50)])
    steps = [line.split()[-1] for line in told.splitlines() if "  step " in line]
    assert steps == ["0", *(str(step) for step in range(31, 50))]
    assert "... 30 more" in told


def test_what_happened_is_told_in_order_whichever_point_it_was_of():
    told = body(PLACE, [item(5, point="000", title="a"), item(3, point="001", title="b")])
    assert told.index("step 3") < told.index("step 5")


@pytest.mark.parametrize(
    "reason",
    [
        "x\r\nBcc: all@uni.example",
        "x\nBcc: y",
        "x\x00\x0bBcc: y\u2028z",
        "\x1b]0;title\x07x",
        "\udcff",
    ],
)
def test_no_name_and_no_reason_adds_a_header(reason):
    ended = item(0, title=f"failed: {reason}", kind="failed")
    mail = Mail(to="ana@uni.example", subject=subject(PLACE, [ended]), body=body(PLACE, [ended]))
    read = email.message_from_bytes(bytes(mailer._message(mail)), policy=email.policy.default)
    assert read["Bcc"] is None
    assert read["Subject"].startswith("hpckit: agent/0720-p7d failed:")
    assert set(read.keys()) == {
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    }
    assert not any(ord(sign) < 32 for sign in mail.subject)


def test_a_subject_is_short_and_a_line_bearable():
    ended = item(0, title="failed: " + "long " * 1000, lines=("wide " * 1000,))
    assert len(subject(PLACE, [ended])) <= 140
    assert max(map(len, body(PLACE, [ended]).splitlines())) <= 600


# The ways.


@pytest.fixture
def ways(tmp_path, monkeypatch):
    """A machine that takes mail in no way but those that a test makes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(mailer, "SENDMAIL_PLACES", (str(tmp_path / "sbin"),))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(mailer, "SMTP", ("127.0.0.1", free.getsockname()[1]))

    def make(name, script, place="bin"):
        (tmp_path / place).mkdir(exist_ok=True)
        path = tmp_path / place / name
        path.write_text(f"#!/bin/bash\nPATH=/usr/bin:/bin\nbox={tmp_path}\n{script}\n")
        path.chmod(0o755)

    return make


MAIL = Mail(to="ana@uni.example", subject="hpckit: ä", body="é\n.\n~!touch broken\nend\n")
KEEP = 'printf "%s\\n" "$@" > $box/args; cat > $box/mail'


def read_mail(data):
    return email.message_from_bytes(data, policy=email.policy.default)


@pytest.mark.parametrize("place", ["bin", "sbin"])
def test_sendmail_takes_it_on_the_path_or_where_it_mostly_is(ways, tmp_path, place):
    ways("sendmail", KEEP, place)
    send(MAIL)
    assert (tmp_path / "args").read_text().split() == ["-t", "-i"]
    data = (tmp_path / "mail").read_bytes()
    assert max(data) < 128
    read = read_mail(data)
    assert (read["To"], read["Subject"]) == ("ana@uni.example", "hpckit: ä")
    assert read.get_content() == MAIL.body


def test_mail_takes_it_where_there_is_no_sendmail(ways, tmp_path):
    ways("mail", KEEP)
    send(MAIL)
    assert (tmp_path / "args").read_text().splitlines() == [
        "-s",
        "=?utf-8?q?hpckit=3A_=C3=A4?=",
        "ana@uni.example",
    ]
    # A line that begins with ~ is a command to some kinds of it.
    assert (tmp_path / "mail").read_text() == "é\n.\n ~!touch broken\nend\n"


def test_what_sendmail_started_to_deliver_it_goes_on(ways, tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "LINGER_S", 0.05)
    ways("sendmail", "cat >/dev/null; (setsid bash -c 'sleep .15; touch $0/delivered' $box &)")
    send(MAIL)
    until = time.monotonic() + 2
    while not (tmp_path / "delivered").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert (tmp_path / "delivered").exists()


def test_smtp_takes_it_where_there_is_neither(ways, monkeypatch):
    monkeypatch.setattr(socket, "getfqdn", lambda *_: pytest.fail("asked the DNS"))
    with SmtpServer() as server:
        monkeypatch.setattr(mailer, "SMTP", server.place)
        send(MAIL)
    assert server.lines[1].startswith(b"mail FROM:<")
    assert server.lines[2].upper().startswith(b"RCPT TO:<ANA@UNI.EXAMPLE>")
    read = read_mail(server.data)
    assert (read["To"], read["Subject"]) == ("ana@uni.example", "hpckit: ä")
    assert read["From"].startswith("hpckit <")
    assert read.get_content().replace("\r\n", "\n") == MAIL.body


class SmtpServer:
    """Takes one mail, as far as smtplib needs it."""

    def __enter__(self):
        self.lines, self.data = [], b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.place = self._socket.getsockname()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join(5)
        self._socket.close()

    def _serve(self):
        connection, _ = self._socket.accept()
        with connection, connection.makefile("rwb", buffering=0) as stream:
            stream.write(b"220 here\r\n")
            while line := stream.readline():
                self.lines.append(line)
                if line.upper().startswith(b"DATA"):
                    stream.write(b"354 go on\r\n")
                    while (part := stream.readline()) != b".\r\n":
                        # As the protocol has it, a dot that begins a line is doubled.
                        self.data += part.removeprefix(b".")
                stream.write(b"221 bye\r\n" if line.upper() == b"QUIT\r\n" else b"250 ok\r\n")


def test_where_one_way_fails_the_next_is_tried_and_each_tells_why_in_the_end(ways, tmp_path):
    ways("sendmail", "echo 'no relay today' >&2; exit 75")
    ways("mail", KEEP)
    send(MAIL)
    assert (tmp_path / "mail").exists()
    (tmp_path / "bin" / "mail").unlink()
    with pytest.raises(NotSent) as error:
        send(MAIL)
    said = str(error.value)
    assert said.startswith("sendmail: exit code 75, no relay today; mail: not here; SMTP on ")
    assert "refused" in said


def test_a_way_that_hangs_is_ended_when_the_time_is_over(ways, tmp_path):
    ways("sendmail", "trap '' TERM; echo $$ > $box/pid; sleep 50")
    ways("mail", KEEP)
    began = time.monotonic()
    with pytest.raises(NotSent, match="sendmail: it took too long; mail was not tried"):
        send(MAIL, within_s=0.6)
    assert time.monotonic() - began < 3.0
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_an_attempt_mails_by_itself_through_the_herald(ways, tmp_path, run):
    ways("sendmail", "cat > $box/mail-$(ls $box | grep -c mail-)")
    notify = {"mail": "ana@uni.example", "on": ["incident", "done"]}
    spec = spec_from_json({"name": "agent", "program": "true", "notify": notify})
    herald = Herald(run)
    incident(run, 8123)
    herald.begin(begin(run), spec)
    until = time.monotonic() + 5
    while not (tmp_path / "mail-0").exists() and time.monotonic() < until:
        time.sleep(0.02)
    finished(run, "done", attempt=1)
    herald.finish()
    found = [read_mail((tmp_path / f"mail-{number}").read_bytes()) for number in range(2)]
    assert [each["Subject"].removeprefix("hpckit: agent/0720-p7d ") for each in found] == [
        "explosion at step 8123",
        "done",
    ]

"""What a person reads of a run after a bad night."""

from __future__ import annotations

import dataclasses
import time

import pytest

from hpckit.cli.run_text import run_text
from hpckit.clock import iso, local_words, seconds_of
from hpckit.files import append_line, write_json
from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.writer import ReadingsWriter
from hpckit.spec import spec_from_json
from hpckit.status.state import CANCEL_AGAIN, State, facts_of
from hpckit.status.view import describe
from tests.made_runs import begin, make_run

SPEC = {"name": "agent", "program": "x", "limits": {"gpu_hours": 9}}


@pytest.fixture
def run(tmp_path):
    """A run that has read its steps up to the 411th, and has one attempt."""
    found = make_run(tmp_path)
    write_json(found.dir / "spec.json", spec_from_json(SPEC).to_json())
    attempt = begin(found, job_id="7_1", node="n1", started=found.created)
    writer = ReadingsWriter(attempt.dir / "readings" / "launch-1")
    writer.write(Reading(step=410, values={"train/loss": 1.5}, time=time.time() - 60))
    writer.close()
    return found


def restarted(run, kind="crash", sentence="no", **plan):
    """What was wrong at step 411, and that it was gone on from there."""
    about = Incident(kind=kind, step=411, answer="act", said=sentence).to_json()
    ledger = run.ledger("worker")
    ledger.write("restart", attempt=1, incident=about, plan={"do": "relaunch", **plan})
    ledger.write("resumed", attempt=1, step=411)


def shown(run, state, reason=""):
    return run_text(describe(facts_of(run), State(state=state, reason=reason)))


def test_what_a_restart_did_not_bring_further_is_not_healed(run):
    restarted(run)
    restarted(run)
    text = shown(run, "running")
    assert "So far: 2 crashes not healed yet." in text
    assert "since:" not in text
    text = shown(run, "stopped", "no")
    assert "So far: 2 crashes not healed. For you to do" in text
    assert text.count("went on from step 411: came no further") == 2


def test_of_an_explosion_that_came_back_it_is_told_where(run):
    for _ in range(2):
        restarted(run, "explosion", "it grew", do="rollback")
    text = shown(run, "done")
    assert text.count("back to step 411: came back at step 411") == 1
    assert text.count("back to step 411: applied, in force") == 1


def test_steps_of_before_a_restart_heal_nothing_that_came_to_no_step_after_it(run):
    about = Incident(kind="crash", step=0, answer="act", said="no").to_json()
    ledger = run.ledger("worker")
    ledger.write("restart", attempt=1, incident=about, plan={"do": "relaunch"})
    ledger.write("resumed", attempt=1, step=20)
    assert "So far: 1 crash not healed. For" in shown(run, "stopped", "no")


def test_what_came_further_is_healed_and_its_numbers_are_of_after_that(run):
    restarted(run)
    writer = ReadingsWriter(run.attempts()[0].dir / "readings" / "launch-2")
    writer.write(Reading(step=430, values={"train/loss": 0.5}, time=time.time() + 1))
    writer.close()
    text = shown(run, "running")
    assert "So far: 1 crash healed. Healthy for 20 steps." in text
    assert "went on from step 411: done\n  since: loss 0.5" in text


def test_why_a_run_was_stopped_is_told_once(run):
    about = Incident(kind="crash", step=411, answer="act", said="ValueError: no").to_json()
    reason = "ValueError: no, once more: a restart does not mend that"
    plan = {"do": "stop", "sentence": f"stop: {reason}"}
    ledger = run.ledger("worker")
    ledger.write("stopped", attempt=1, incident=about, plan=plan, lines=["raise"], reason=reason)
    text = shown(run, "stopped", reason)
    assert text.count("ValueError") == 1
    assert ": crash\n  asked: stop\n    raise\n" in text


def test_time_in_which_a_run_was_done_was_not_spent_in_the_queue(run):
    def event(kind, at, **data):
        line = {"time": iso(start + at), "kind": kind, **data}
        append_line(run.dir / "ledger" / f"{kind}-{at}.jsonl", line)

    start = seconds_of(run.created)
    write_json(run.attempts()[0].dir / "ended.json", {"ended": iso(start + 10), "reason": "done"})
    event("submit", 910, chains=[2], serial=1)
    begin(run, job_id="8_1", node="n1", started=iso(start + 940))
    assert describe(facts_of(run), State(state="running"))["waited_s"] == 30.0


def test_what_a_program_said_of_a_bad_node_is_told_and_it_was_not_lost(run):
    said = "uncorrectable ECC error (rank 3 ended with exit code 1)"
    restarted(run, kind="node_failure", sentence=said)
    restarted(run, kind="node_failure", sentence="node failed")
    text = shown(run, "running")
    assert "So far: 1 node lost, 1 bad node. " in text
    assert f": node failure\n  {said}\n  went on from step 411" in text
    assert "node failed" not in text


@pytest.mark.parametrize(
    ("scheduler", "command"),
    [("slurm", "restart"), ("foreground", "run --from")],
)
def test_of_a_run_that_has_failed_it_is_told_what_to_do(run, scheduler, command):
    told = describe(facts_of(run), State(state="failed", reason="no"))
    # The folder is typed: this run is under no root that a command looks at by itself.
    text = run_text({**told, "scheduler": scheduler})
    assert f"For you to do: see why, then hpckit {command} {run.dir}, or let it be." in text


def by_hand(run, **plan):
    about = Incident(kind="by_hand", step=411, answer="act", said="started again").to_json()
    plan = {"do": "resubmit", "reason": "by hand", "intact": True, **plan}
    ledger = run.ledger("person")
    ledger.write("restart", by_hand=True, attempt=1, after=1, incident=about, plan=plan)


def test_a_restart_that_was_asked_for_is_told_until_it_has_begun(run):
    run = dataclasses.replace(run, params={"lr": 0.001, "seed": 1})
    by_hand(run, changes={"params.lr": {"times": 0.5}})
    text = shown(run, "running")
    assert "from the newest state that is sound, params.lr x0.5: when attempt 1 has ended" in text
    assert "lr=0.001  seed=1" in text
    assert "asked:" not in shown(run, "cancelled")
    begin(run, job_id="8_1", node="n1", started=run.created)
    text = shown(run, "running")
    assert "asked:" not in text
    assert "lr=0.001 (now 0.0005)  seed=1" in text


def test_a_cancel_that_slurm_has_not_heard_is_something_to_do(run):
    restarted(run)
    text = shown(run, "running", CANCEL_AGAIN)
    assert f"For you to do: hpckit cancel {run.dir}, once Slurm answers." in text
    assert "Nothing for you" not in text


def test_a_change_that_makes_no_sense_hides_nothing(run):
    run = dataclasses.replace(run, params={"lr": 0.001})
    by_hand(run, changes={"params.rate": {"times": 0.5}})
    by_hand(run, changes="none")
    begin(run, job_id="8_1", node="n1", started=run.created)
    assert "params  lr=0.001" in shown(run, "running")


def test_of_an_attempt_whose_own_file_is_damaged_nothing_is_made_up(run):
    (run.attempts()[0].dir / "attempt.json").write_text("{")
    text = shown(run, "running")
    assert "attempt 1, job -, -" in text
    assert "None" not in text


def test_how_far_it_is_and_when_it_will_be_done_is_told_where_it_is_known(run):
    state = State(state="running", ends_by=iso(time.time() + 600))
    assert "   step 410   " in shown(run, "running")
    assert describe(facts_of(run), state)["total_steps"] is None
    writer = ReadingsWriter(run.attempts()[0].dir / "readings" / "launch-2")
    now = time.time()
    for step in range(411, 500):
        values = {"train/loss": 1.0, "progress/total": 800.0}
        writer.write(Reading(step=step, values=values, time=now + step - 499))
    writer.close()
    told = describe(facts_of(run), state)
    assert (told["step"], told["total_steps"]) == (499, 800)
    assert seconds_of(told["done_about"]) == pytest.approx(now + 300, abs=2)
    text = run_text(told)
    assert "   step 499 of 800   " in text
    done, ends = (local_words(told[each]) for each in ("done_about", "ends_by"))
    assert f"next    done about {done}, before its limit at {ends}; " in text
    early = iso(time.time() + 60)
    assert (
        f"done about {done} if no attempt waits in the queue, this attempt ends by "
        f"{local_words(early)}; " in run_text({**told, "ends_by": early})
    )
    assert describe(facts_of(run), State(state="done"))["done_about"] is None


def test_parameters_are_told_as_a_spec_has_them(run):
    run = dataclasses.replace(run, params={"amplifier": None, "fused": True, "agent": "mask"})
    assert "params  amplifier=null  fused=true  agent=mask" in shown(run, "running")


def test_of_nested_parameters_those_are_told_that_were_changed_or_are_varied(run):
    params = {
        "loss": {"mel": 0.1, "stft": {"a": 1, "b": 2}},
        "lr": 0.001,
        "sizes": [1, 2],
        "no": {},
    }
    run = dataclasses.replace(run, params=params)
    assert "params  lr=0.001  and 5 more: hpckit show --json" in shown(run, "running")
    varied = dataclasses.replace(run, varied=("loss.stft",))
    text = shown(varied, "running")
    assert "params  loss.stft.a=1  loss.stft.b=2  lr=0.001  and 3 more" in text
    restarted(run, reason="it grew", changes={"params.loss.mel": {"times": 0.5}})
    assert "params  loss.mel=0.1 (now 0.05)  lr=0.001  and 4 more" in shown(run, "running")

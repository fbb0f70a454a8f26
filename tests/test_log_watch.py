"""A program that knows nothing of hpckit, watched by what it prints."""

from __future__ import annotations

import errno
import json
import math
import threading
from pathlib import Path

import pytest

from hpckit.ledger import Ledger
from hpckit.monitor.incident import Incident
from hpckit.monitor.log import Follower, LogReader, patterns_of
from hpckit.monitor.readings.reader import read_incidents, read_readings
from hpckit.monitor.readings.writer import ReadingsWriter
from hpckit.run import Attempt, Run
from hpckit.spec import load_spec
from hpckit.worker.log_watch import LogWatch, watched_log

# The founding story: healthy for a while, then the gradients, and then there are no numbers left.
STORY = """
for batch in $(seq 1 150); do
  echo "Epoch 1, Batch $batch: Gradient norm: 6.$((batch % 10))"
  echo "  Loss: 2.3$((batch % 10))"
done
echo "Epoch 2, Batch 1: Gradient norm: 45.30"
for batch in $(seq 2 9); do
  echo "Epoch 2, Batch $batch: Gradient norm: 1,557,911"
  echo "  Loss: nan"
  echo "  cascade_stages.2.output_proj.weight: 1467765.0"
  echo "  cascade_stages.1.output_proj.weight: 12.5"
done
printf 'Epoch 2, Batch 10: Gradient norm: nan'
"""


def story(spec):
    (spec.parent / "story.sh").write_text(STORY)
    return spec


def test_the_incident_of_a_program_that_only_prints_shows_in_show(cli, job):
    spec = story(job('"bash story.sh"', "monitor: {log: founding}"))
    cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent)
    told = json.loads(cli("show", "--json", cwd=spec.parent).stdout)
    # It is watched, and nothing is done to it.
    assert (told["state"], told["step"]) == ("done", 161)
    acts = {each["kind"]: each for each in told["incidents"]}
    incident = acts["explosion"] if "explosion" in acts else acts["non_finite"]
    assert incident["attempt"] == 1
    assert 153 <= incident["step"] <= 161
    assert incident["parameter"] == "cascade_stages.2.output_proj.weight"
    assert (incident["plan"], incident["changes"], incident["applied"]) == (None, {}, False)
    text = cli("show", cwd=spec.parent).stdout
    assert "step 161" in text
    assert f"told: step {incident['step']}, attempt 1: {incident['kind']}: " in text
    readings = list(read_readings(Path(told["attempts"][0]["dir"], "readings", "launch-1")))
    assert len(readings) == 160
    assert readings[0].values == {"grad/norm/main": 6.1, "train/loss": 2.31}
    assert math.isnan(readings[-1].values["grad/norm/main"])
    (worker_log,) = Path(told["dir"], "chains", "001").glob("*.log")
    printed = worker_log.read_text()
    assert f"hpckit: step {incident['step']}: " in printed
    assert "watching the log" not in printed


def test_a_run_whose_log_is_not_watched_has_no_step(cli, job):
    spec = story(job('"bash story.sh"'))
    cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent)
    told = json.loads(cli("show", "--json", cwd=spec.parent).stdout)
    assert (told["state"], told["step"], told["incidents"]) == ("done", None, [])


class Broken:
    """A disk that is full, and a rule that is wrong."""

    def observe(self, reading):
        raise ValueError("no such thing")

    def write(self, _=None):
        raise OSError(errno.ENOSPC, "No space left on device")

    incident = flush = close = write


@pytest.fixture
def watch(tmp_path):
    def make(**parts):
        log = tmp_path / "rank-0.log"
        log.write_text("Epoch 1: Loss: 3\nEpoch 2: Loss: 2\nEpoch 3: Loss: nan")
        given = {
            "follower": Follower(log, LogReader(patterns_of("founding"))),
            "lookout": TellsNaN(),
            "sinks": [ReadingsWriter(tmp_path / "readings")],
            "ledger": Ledger(tmp_path / "ledger", "one"),
            "attempt": 1,
        }
        return LogWatch(**{**given, **parts})

    return make


class TellsNaN:
    """Finds what every lookout finds."""

    def observe(self, reading):
        value = reading.values["train/loss"]
        if not math.isnan(value):
            return []
        said = "the loss is no number"
        return [
            Incident(kind="non_finite", step=reading.step, answer="act", said=said, value=value)
        ]


def test_what_is_left_of_the_log_is_read_after_the_end(watch, tmp_path, capsys):
    watching = watch()
    watching.start()
    watching.finish()
    assert [each.step for each in read_readings(tmp_path / "readings")] == [1, 2, 3]
    (event,) = Ledger(tmp_path / "ledger").events()
    assert (event.kind, event.data["attempt"]) == ("incident", 1)
    assert event.data["incident"]["value"] == "nan"
    assert capsys.readouterr().out == "hpckit: step 3: the loss is no number\n"


@pytest.mark.parametrize("part", ["lookout", "sinks"])
def test_trouble_in_watching_is_told_once_and_the_rest_goes_on(watch, tmp_path, capsys, part):
    watching = watch(**{part: [Broken()] if part == "sinks" else Broken()})
    watching.start()
    watching.finish()
    said = [line for line in capsys.readouterr().out.splitlines() if "watching the log" in line]
    assert len(said) == 1
    if part == "lookout":
        assert len(list(read_readings(tmp_path / "readings"))) == 3
    else:
        assert [each.kind for each in Ledger(tmp_path / "ledger").events()] == ["incident"]


RULES = """
from hpckit.monitor import Rule

class AnyLoss(Rule):
    def observe(self, reading):
        return self.tell(reading, "a loss")
"""


@pytest.fixture
def launch(tmp_path, job):
    """Watches the logs that two ranks have written, as a worker does."""

    def watched(monitor, *logs):
        run = Run(dir=tmp_path / "run", id="a", name="a", created="", scheduler="", params={})
        attempt = Attempt(number=1, dir=run.dir / "attempts" / "001")
        folder = attempt.dir / "logs" / "launch-1"
        for made in (folder, run.dir / "work"):
            made.mkdir(parents=True)
        (run.dir / "work" / "rules.py").write_text(RULES)
        for rank, text in enumerate(logs):
            (folder / f"rank-{rank}.log").write_text(text)
        with watched_log(run, load_spec(job("x", monitor)), attempt, folder, ranks=len(logs)):
            pass
        return attempt.dir / "readings" / "launch-1"

    return watched


def test_the_log_of_the_rank_that_prints_is_watched(launch):
    line = " iteration {}/ 10 | lm loss: 2.0 |\n"
    readings = launch("monitor: {log: megatron}", line.format(1), line.format(7))
    assert [each.step for each in read_readings(readings)] == [7]


def test_what_is_read_in_a_log_is_drawn_and_judged_by_the_users_own_rules(launch, tmp_path):
    spec = "monitor: {log: founding, rules: {rules.py:AnyLoss: on}}"
    readings = launch(spec, "Epoch 3: Loss: 2\n", "Epoch 4: Loss: 2\n")
    assert [(each.kind, each.step) for each in read_incidents(readings)] == [("any_loss", 3)]
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))


def test_a_log_that_cannot_be_watched_is_told_and_the_program_runs(launch, monkeypatch, capsys):
    def refuses(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hpckit.worker.log_watch._watch_of", refuses)
    launch("monitor: {log: founding}", "Epoch 3: Loss: 2\n")
    assert "the log is not watched: OSError" in capsys.readouterr().out


def test_bad_steps_near_one_another_are_told_once_and_what_acts_always(watch, tmp_path, capsys):
    answers = {1: "skip", 2: "skip", 90: "skip", 91: "act", 300: "skip"}
    kept = []

    class Scripted:
        def observe(self, reading):
            answer = answers.get(reading.step)
            said = f"{answer} it"
            return (
                [Incident(kind="k", step=reading.step, answer=answer, said=said)] if answer else []
            )

    class Keeps:
        def write(self, reading): ...
        def incident(self, incident):
            kept.append(incident.step)

        def close(self): ...

    log = tmp_path / "long.log"
    log.write_text("".join(f"Epoch {step}: Loss: 1\n" for step in range(1, 302)))
    follower = Follower(log, LogReader(patterns_of("founding")))
    watching = watch(follower=follower, lookout=Scripted(), sinks=[Keeps()])
    watching.look(last=True)
    told = [event.data["incident"]["step"] for event in Ledger(tmp_path / "ledger").events()]
    assert told == [1, 91, 300]
    assert capsys.readouterr().out.count(" it\n") == 3
    assert kept == list(answers)


def test_a_watch_that_is_stuck_is_left_behind(watch, capsys):
    freed = threading.Event()

    class Stuck:
        def observe(self, reading):
            freed.wait()
            return []

    watching = watch(lookout=Stuck())
    watching.start()
    watching.finish(within_s=0.05)
    freed.set()
    assert "the end of the log was not read within" in capsys.readouterr().out


def test_a_log_in_which_nothing_matches_is_told(watch, tmp_path, capsys):
    (tmp_path / "other.log").write_text("nothing of interest\n")
    reader = LogReader(patterns_of("keras"))
    watching = watch(follower=Follower(tmp_path / "other.log", reader))
    watching.start()
    watching.finish()
    assert "no line of the log matched" in capsys.readouterr().out

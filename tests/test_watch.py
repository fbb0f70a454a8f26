"""`hpckit watch`, as a person sees it: a training that explodes and is healed, to its end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from hpckit.cli import watch
from hpckit.cli.live_text import run_lines, seen_points, sweep_lines
from hpckit.files import write_json
from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.readings.writer import ReadingsWriter
from hpckit.run import open_run
from hpckit.spec import spec_from_json
from hpckit.status.live import Live
from hpckit.status.state import State, facts_of
from hpckit.status.view import describe
from tests.made_runs import begin, incident, make_run
from tests.terminal import Terminal

# The loss grows for some steps, once: after the rollback all is well.
PROGRAM = """
import time, torch, hpckit
torch.manual_seed(0)
torch.set_num_threads(1)
run = hpckit.attach()
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
run.register(model=model, optimizer=optimizer)
x = torch.randn(800, 8)
loader = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8)
last, has_gone_back = 0, False
for x, y in run.batches(loader, epochs=run.params["epochs"]):
    has_gone_back |= run.step_number < last
    last = run.step_number
    loss = (model(x) - y).square().mean() + 0.1
    if last >= 150 and not has_gone_back:
        loss = loss * 3.0 ** (last - 149)
    optimizer.zero_grad()
    loss.backward()
    run.log(mel=loss / 4)
    run.step(optimizer, loss=loss)
    if run.step_number % 50 == 0:
        print("\\x1b[2J\\x1b]0;evil\\x07\\x9b5mat", run.step_number, "漢" * 90, flush=True)
    time.sleep(run.params["sleep"])
"""
BARS = re.compile("[▁▂▃▄▅▆▇█!]{2,}")


@pytest.fixture
def training(cli, job):
    """Submits it; the run's id and its folder."""
    submitted = []

    def submit(epochs: int, sleep: float) -> tuple[str, object]:
        spec = job(
            "python train.py",
            f"params: {{epochs: {epochs}, sleep: {sleep}}}",
            "checkpoint: {every: 100 steps, confirm_steps: 20}",
        )
        (spec.parent / "train.py").write_text(PROGRAM)
        done = cli("submit", spec, "--cluster", "local", "--json", cwd=spec.parent)
        run = json.loads(done.stdout)["runs"][0]
        submitted.append((run["run"], spec.parent))
        return submitted[-1]

    yield submit
    for run, folder in submitted:
        cli("cancel", run, cwd=folder, code=None)


def watched(run, folder, *args, **settings):
    return Terminal("watch", run, "--root", folder / "runs", *args, **settings)


def test_a_training_that_explodes_and_is_healed_is_seen_from_start_to_end(training):
    run, folder = training(8, 0.01)
    terminal = watched(run, folder)
    terminal.until(lambda each: "steps/s" in each.text and " left" in each.text)
    assert terminal.lines[0].startswith(f"{run}   RUNNING   attempt 1")
    assert re.search(r"step \d+ of 800   \d+%   epoch \d   ", terminal.lines[1])
    assert re.search(r"^loss [\d.]+   mel [\d.]+", terminal.lines[2])
    assert re.search(r"^gradient norm [\d.]+   usual [\d.]+   largest", terminal.lines[3])
    # Three rows of bars, as there is room for them.
    assert BARS.fullmatch(terminal.lines[6])
    terminal.see("explosion: gradient norm")
    terminal.see("back to step ")
    assert re.search(r"  back to step 1\d\d, clip \S+ -> \S+, lr 0.01 -> 0.005", terminal.text)
    assert "!" in terminal.lines[4]
    assert "█" in terminal.lines[6]
    terminal.see("DONE")
    assert terminal.end() == 0
    # 100 batches were left out.
    assert re.search(r"step 7\d\d of 7\d\d   100%", terminal.lines[1])
    sent = b"".join(terminal.pieces)
    assert b"evil" not in sent
    assert b"\x9b" not in sent.replace("漢".encode(), b"")
    # The picture went over itself: nothing of it is there twice.
    assert terminal.text.count(run) == 1
    assert "at 700 漢漢" in terminal.text
    # Of the log what is not told above.
    assert terminal.text.count("explosion") == 2
    assert "from memory" not in terminal.text


def test_nothing_is_wider_than_the_terminal_and_a_new_size_is_gone_with(training):
    run, folder = training(50, 0.01)
    terminal = watched(run, folder, columns=40, rows=14)
    terminal.see("back to step ")
    assert re.match(r"step \d+ of \d \d+   \d+%", terminal.lines[1])
    for columns, rows in ((200, 50), (60, 8), (20, 4)):
        terminal.resize(columns, rows)
        terminal.pieces.clear()
        # Else a line would have been broken, and the head or the step be elsewhere, or twice.
        terminal.until(
            lambda each: (
                len(each.pieces) > 1
                and each.lines[0].startswith(run[:19])
                and re.match(r"step \d", each.lines[1])
                and each.text.count(run[:19]) == 1
            ),
            within_s=15,
        )
        assert terminal.screen.cursor.y <= rows - 1
    terminal.interrupt()
    assert terminal.end() == 130


def test_each_second_little_is_sent_and_ctrl_c_leaves_the_run_alone(training, cli):
    run, folder = training(100, 0.01)
    terminal = watched(run, folder)
    terminal.see("back to step ")
    terminal.pieces.clear()
    began = time.monotonic()
    terminal.until(lambda _: time.monotonic() - began > 8)
    assert len(terminal.pieces) <= 9
    sent = b"".join(terminal.pieces)
    # What stays as it was is not sent again; of what a program prints nobody knows how much it is.
    assert run.encode() not in sent
    assert b"explosion" not in sent
    assert len(sent) < 8 * 2000
    terminal.interrupt()
    assert terminal.end() == 130
    assert "no longer watched; the run goes on: hpckit watch" in terminal.text
    assert '"state": "running"' in cli("show", run, "--json", cwd=folder).stdout


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"TERM": ""}])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(cli, job, environ):
    spec = job('"sleep 2"')
    done = cli("submit", spec, "--cluster", "local", "--json", cwd=spec.parent)
    run = json.loads(done.stdout)["runs"][0]["run"]
    terminal = watched(run, spec.parent, **environ)
    assert terminal.end() == 0
    assert b"\x1b" not in b"".join(terminal.pieces)
    assert terminal.lines[:4].count(f"{run}: done") == 1


def test_without_colours_and_without_unicode_all_is_there(training):
    run, folder = training(100, 0.01)
    terminal = watched(run, folder, NO_COLOR="1", LC_ALL="C")
    terminal.see("back to step ")
    sent = b"".join(terminal.pieces)
    assert not re.search(rb"\x1b\[[0-9;]*m", sent)
    assert re.fullmatch(r"[_.\-~=+*#!]+", terminal.lines[6])
    assert "!" in terminal.lines[4]
    terminal.interrupt()
    assert terminal.end() == 130


def test_who_was_stopped_and_goes_on_sees_a_whole_picture(training):
    run, folder = training(100, 0.01)
    terminal = watched(run, folder, rows=70)
    terminal.see("steps/s")
    os.kill(terminal.pid, signal.SIGSTOP)
    terminal._stream.feed(b"$ ls\r\nfiles of mine\r\n$ fg\r\n")
    os.kill(terminal.pid, signal.SIGCONT)
    terminal.until(lambda each: each.text.count("RUNNING") == 2, within_s=10)
    assert "files of mine" in terminal.text
    terminal.interrupt()
    assert terminal.end() == 130


def test_piped_it_is_a_line_for_each_change_and_now_and_then_how_far_it_is(
    training, monkeypatch, capsys
):
    run, folder = training(8, 0.01)
    monkeypatch.setattr(watch, "PROGRESS_S", 1.0)
    found = open_run(folder / "runs" / run)
    assert watch.watch_run(found) == 0
    lines = capsys.readouterr().out.splitlines()
    progress = [line for line in lines if line.startswith(f"{run}: step ")]
    assert 3 <= len(progress) <= 15
    assert re.fullmatch(
        rf"{run}: step \d+ of \d+, epoch \d, loss \S+, norm \S+, \d+ s left, \S+ steps/s",
        progress[2],
    )
    rest = [line.partition(":")[2] for line in lines if line not in progress]
    assert [line for line in rest if "step" not in line] == [" running", " done"] or rest[
        0
    ] == " pending"
    assert any("explosion: gradient norm" in line for line in rest)
    assert any(", lr 0.01 -> 0.005" in line and "goes on from step 1" in line for line in rest)


def test_watching_imports_no_torch_and_no_numpy(training):
    run, folder = training(2, 0.001)
    code = (
        "import sys; from pathlib import Path\n"
        "from hpckit.cli.watch import watch_run; from hpckit.run import open_run\n"
        f"code = watch_run(open_run(Path({str(folder / 'runs' / run)!r})))\n"
        "sys.exit(code or sorted({'torch', 'numpy', 'submitit'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# Of made-up runs.


@pytest.fixture
def made(tmp_path):
    run = make_run(tmp_path)
    spec = {"name": "agent", "program": "x"}
    write_json(run.dir / "spec.json", spec_from_json(spec).to_json())
    attempt = begin(run, job_id="7_1", node="n1", started=run.created)
    writer = ReadingsWriter(attempt.dir / "readings" / "launch-1")
    for step in range(90):
        values = {"train/loss": 2.0, "train/\x1b[2Jmel\n\u202e": 1.0, "grad/norm/main": 3.0}
        writer.write(Reading(step=step, values=values, time=1000.0 + step))
    writer.close()
    return run


def drawn(run, *, tail=(), size=(79, 23), state="running"):
    told = describe(facts_of(run), State(state=state))
    live = Live()
    live.look(run.attempts())
    return run_lines(told, live, tail, size=size)


def test_what_matters_comes_first_and_the_log_fills_the_rest(made):
    incident(made, 80, sentence="it grew; worst parameter a.weight", plan={"do": "rollback"})
    made.ledger("train").write(
        "rollback",
        attempt=1,
        incident={"kind": "explosion", "step": 80},
        step=50,
        from_step=81,
        changed=["clip 1 -> 0.5"],
    )
    log = [f"line {number}" for number in range(8)]
    whole = drawn(made, tail=log)
    assert whole[0].startswith("agent/0720-p7d   RUNNING   attempt 1   job 7_1   n1")
    assert whole[-8:] == log
    short = drawn(made, tail=log, size=(79, 12))
    assert len(short) <= 12
    assert "  back to step 50, clip 1 -> 0.5: applied, in force" in short
    assert short[-1] == "line 7"
    assert "line 7" not in drawn(made, tail=log, size=(79, 7))


def test_the_blamed_optimizer_is_drawn_tall_and_where_there_is_little_room_alone(made):
    names = ("discriminator", "generator", "third")
    writer = ReadingsWriter(made.attempts()[0].dir / "readings" / "launch-2")
    for step in range(9):
        writer.write(Reading(step=step, values={f"grad/norm/{each}": 2.0 for each in names}))
    told = Incident(kind="explosion", step=8, answer="act", said="it grew", optimizer="generator")
    writer.incident(told)
    writer.close()
    lines = drawn(made, size=(119, 39))
    captions = [each for each in lines if "norm of" in each]
    assert [each.split()[3] for each in captions] == ["generator", "discriminator", "third"]
    assert [len(BARS.findall(each)) for each in lines[lines.index(captions[0]) :]].count(1) == 2
    assert lines.index(captions[1]) - lines.index(captions[0]) == 5
    assert lines.index(captions[2]) - lines.index(captions[1]) == 2
    small = drawn(made, size=(119, 9))
    assert sum(bool(BARS.search(each)) for each in small) == 1
    assert small.index(captions[1]) - small.index(captions[0]) == 2


def test_what_was_only_told_takes_a_line_and_says_where_it_was_cut(made):
    incident(made, 60, sentence="it grew; worst parameter a.weight")
    incident(made, 70, sentence="it grew " * 20)
    lines = drawn(made, size=(79, 39))
    assert "step 60: explosion: it grew" in lines
    cut = next(each for each in lines if each.startswith("step 70: "))
    assert cut.endswith("it grew ...")
    assert len(cut) <= 79


def test_of_many_parts_of_a_loss_the_first_are_told(made):
    writer = ReadingsWriter(made.attempts()[0].dir / "readings" / "launch-2")
    parts = {f"train/part_{number}": 1.0 for number in range(9)}
    losses = {"train/loss/generator": 3.0, "train/loss/discriminator": 2.0}
    writer.write(Reading(step=0, values={**parts, **losses}))
    writer.close()
    told = next(each for each in drawn(made, size=(199, 39)) if each.startswith("loss"))
    assert told.split("   ") == [
        "loss of generator 3", "loss of discriminator 2", *(f"part_{n} 1" for n in range(4)),
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [1, 20, 39, 79, 199])
@pytest.mark.parametrize("rows", [1, 3, 9, 23, 60])
def test_it_is_never_longer_than_the_rows(made, columns, rows):
    incident(made, 80, sentence="it grew " * 30 + "\x1b[2J\n\nevil", plan={"do": "rollback"})
    lines = drawn(made, tail=["x"] * 8, size=(columns, rows))
    assert len(lines) <= max(rows, 6)
    assert not any("\x1b[2J" in line or "\n" in line or "\u202e" in line for line in lines)


def test_a_sweep_is_a_line_a_point_with_step_loss_and_course(cli, job):
    spec = job(
        "python train.py",
        "params: {epochs: 3, sleep: 0.01}",
        "sweep: {grid: {sleep: [0.01, 0.02]}}",
    )
    (spec.parent / "train.py").write_text(PROGRAM)
    done = cli("submit", spec, "--cluster", "local", "--json", cwd=spec.parent)
    sweep = json.loads(done.stdout)["runs"][0]["run"].rpartition("/")[0]
    terminal = watched(sweep, spec.parent)
    terminal.until(lambda each: re.search(r"0\d\d  done", each.text))
    assert terminal.end() == 0
    head = terminal.lines[2].split()
    assert head == ["point", "state", "step", "loss", "norm", "sleep", "why"]
    for line, sleep in zip(terminal.lines[3:5], ("0.01", "0.02"), strict=True):
        found = line.split()
        assert found[:2] in (["000", "done"], ["001", "done"])
        assert found[3] == "of"
        assert re.fullmatch(r"\d+\.\d+", found[5])
        assert BARS.fullmatch(found[6])
        assert len(found[6]) <= 12
        assert found[7] == sleep


def test_of_a_large_sweep_those_that_run_are_seen_first():
    states = ["done"] * 20 + ["running"] * 3 + ["pending"] * 20
    runs = [
        {"run": f"a/b/{number:03d}", "state": state, "reason": "", "params": {}}
        for number, state in enumerate(states)
    ]
    told = {"run": "a/b", "points": 43, "reason": "", "varied": [], "runs": runs}
    seen = seen_points(told, 12)
    assert [each["state"] for each in seen] == ["running"] * 3 + ["pending"] * 5
    lines = sweep_lines(told, {}, size=(79, 12))
    assert len(lines) == 12
    assert lines[-1] == "(35 more: hpckit show tells all)"

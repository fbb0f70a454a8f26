"""hpckit run: a job in this terminal, with its keys, its signals and its end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pexpect
import pytest

from tests.test_local_runs import show


def in_a_terminal(spec):
    """A foreground run whose keyboard and screen are ours."""
    command = ["-m", "hpckit", "run", str(spec)]
    return pexpect.spawn(sys.executable, command, cwd=str(spec.parent), timeout=30)


def without_a_terminal(spec, until, **more):
    """A foreground run that a script started, once its program has made a file."""
    running = subprocess.Popen(
        [sys.executable, "-m", "hpckit", "run", str(spec)],
        cwd=spec.parent,
        start_new_session=True,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **more},
    )
    # Not rglob: it falls over a folder that is renamed while it looks.
    while not list(spec.parent.glob(f"runs/tiny/*/work/{until}")):
        time.sleep(0.05)
    return running


def test_run_in_the_foreground_keeps_stdin_and_returns_the_outcome(job):
    spec = job('"read word; echo got $word; exit 3"')
    done = subprocess.run(
        [sys.executable, "-m", "hpckit", "run", str(spec)],
        cwd=spec.parent,
        input="hello\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "got hello\n"
    assert done.returncode == 4
    log = next(spec.parent.rglob("rank-0.log"))
    assert log.read_text() == "got hello\n"


def test_a_debugger_has_a_terminal_in_a_foreground_run(job):
    spec = job("python debug.py")
    (spec.parent / "debug.py").write_text("import sys\nx = 42\nbreakpoint()\nprint('after')\n")
    child = in_a_terminal(spec)
    child.expect_exact("(Pdb)")
    child.sendline("p x + 1")
    child.expect_exact("43")
    child.sendline("c")
    child.expect_exact("after")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_ctrl_c_reaches_the_program_in_the_foreground(job):
    spec = job("python -u wait.py")
    (spec.parent / "wait.py").write_text(
        "import time\nprint('ready')\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
    )
    child = in_a_terminal(spec)
    child.expect_exact("ready")
    child.sendcontrol("c")
    child.expect_exact("interrupted")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_sigterm_to_a_foreground_run_ends_its_program(job):
    spec = job('"touch ready; exec sleep 60"')
    running = without_a_terminal(spec, until="ready")
    running.terminate()
    assert running.wait(timeout=20) == 130


def test_a_run_whose_folder_is_deleted_says_so_once_and_ends(job):
    spec = job('"touch ready; sleep 1; echo end"')
    running = without_a_terminal(spec, until="ready", stderr=subprocess.PIPE, text=True)
    (folder,) = (spec.parent / "runs" / "tiny").iterdir()
    shutil.rmtree(folder)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 4
    first, last = said.splitlines()
    assert first == f"-- tiny/{folder.name} in {folder}"
    assert last == f"-- failed: the run's folder was deleted while it ran; {folder}"
    # Nor is it made again by what would be written down.
    assert not folder.exists()


def test_a_reader_that_goes_away_does_not_stop_a_foreground_run(job):
    spec = job('"for i in $(seq 2000); do echo line $i of many; done; touch finished"')
    piped = f"{sys.executable} -m hpckit run {spec} | head -1"
    subprocess.run(piped, shell=True, cwd=spec.parent, timeout=30, capture_output=True)
    assert list(spec.parent.glob("runs/tiny/*/work/finished"))


def test_a_foreground_run_can_be_cancelled_from_another_terminal(cli, job):
    spec = job('"touch ready; exec sleep 60"')
    running = without_a_terminal(spec, until="ready")
    assert show(cli, "tiny", spec.parent)["state"] == "running"
    assert "told to end" in cli("cancel", "tiny", cwd=spec.parent).stdout
    assert running.wait(timeout=20) == 130
    assert show(cli, "tiny", spec.parent)["state"] == "stopped"


def test_a_refused_plan_leaves_no_folder_behind_in_the_foreground(cli, job, tmp_path):
    root = tmp_path / "a%jb"
    cli("run", job(), "--root", root, code=2)
    assert not list((root / "tiny").iterdir())


def test_the_end_of_a_foreground_run_is_told_even_if_it_cannot_be_written(job, monkeypatch):
    from hpckit.ledger import Ledger
    from hpckit.spec import load_spec
    from hpckit.worker import foreground

    write = Ledger.write

    def full(self, kind, **data):
        if kind == "finished":
            raise OSError(28, "No space left on device")
        write(self, kind, **data)

    monkeypatch.setattr(Ledger, "write", full)
    monkeypatch.setattr(foreground, "WORDS_S", 0.0)
    monkeypatch.setattr("hpckit.worker.watch.time.sleep", lambda _: None)
    monkeypatch.setattr(
        foreground, "_watched", lambda watch: foreground.Outcome(state="done", reason="done")
    )
    spec = job()
    root = spec.parent.parent / "runs"
    code = foreground.run_here(
        load_spec(spec), root=root, source=spec.parent, spec_text=spec.read_text()
    )
    assert code == 0


def test_a_terminal_run_goes_on_when_its_log_cannot_be_written(job, tmp_path):
    script = tmp_path / "full.py"
    script.write_text(
        "import os, time\nfrom pathlib import Path\n"
        "from hpckit.worker.terminal import TerminalProcess\n"
        "command = ['bash', '-c', 'seq 20000; echo end']\n"
        "p = TerminalProcess(command, os.environ, Path('/dev/full'))\n"
        "while not p.poll(): time.sleep(0.05)\n"
    )
    child = pexpect.spawn(sys.executable, [str(script)], timeout=30)
    child.expect_exact("20000")
    child.expect_exact("end")
    child.expect(pexpect.EOF)


def test_ctrl_c_in_a_foreground_run_is_130_and_no_failure(cli, job):
    # A shell of its own: the one around it lets signals pass, also just before it would exec.
    spec = job("""'exec bash -c "echo begun; sleep 60"'""")
    child = in_a_terminal(spec)
    child.expect_exact("begun")
    child.sendcontrol("c")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    told = show(cli, "tiny", spec.parent)
    assert (told["state"], told["reason"]) == ("cancelled", "interrupted")


@pytest.mark.parametrize("keys", [["\x03", "\x03", "\x03"], ["\x03\x03\x03"]])
def test_a_program_that_hears_no_ctrl_c_is_ended_after_the_third(job, keys):
    spec = job("""'trap "" INT; echo begun; while true; do sleep 0.1; done'""")
    child = in_a_terminal(spec)
    child.expect_exact("begun")
    for pressed in keys:
        child.send(pressed)
        time.sleep(0.3)
    child.expect_exact("telling the program to save and end, in 60 s at most")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130


def test_sigint_that_no_keyboard_sent_ends_a_foreground_run(cli, job):
    spec = job('"touch begun; sleep 60"')
    running = without_a_terminal(spec, until="begun")
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=30) == 130


def test_a_program_that_an_interrupt_of_the_group_has_ended_is_not_told_to_end(job):
    spec = job("exec python -u wait.py")
    (spec.parent / "wait.py").write_text(
        "import time\nopen('begun', 'w')\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    time.sleep(0.5)\n    raise\n"
    )
    running = without_a_terminal(
        spec, until="begun", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    os.killpg(running.pid, signal.SIGINT)
    said, _ = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "KeyboardInterrupt" in said
    assert "telling the program" not in said


def test_a_program_that_ignores_an_interrupt_of_the_group_is_told_to_end(job):
    spec = job("""'trap "" INT; touch begun; sleep 60'""")
    running = without_a_terminal(spec, until="begun", stdout=subprocess.PIPE, text=True)
    os.killpg(running.pid, signal.SIGINT)
    said, _ = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "terminated: telling the program to save and end, in 60 s at most" in said


def test_what_a_killed_foreground_run_leaves_behind_is_told_and_can_be_cancelled(cli, job):
    spec = job('"touch begun; sleep 60; echo on"')
    running = without_a_terminal(spec, until="begun")
    running.kill()
    running.wait()
    told = show(cli, "tiny", spec.parent)
    assert told["state"] == "running"
    assert "hpckit run was killed, its program runs on as process" in told["reason"]
    assert "told to end" in cli("cancel", "tiny", cwd=spec.parent).stdout
    until = time.monotonic() + 20
    while show(cli, "tiny", spec.parent)["state"] == "running" and time.monotonic() < until:
        time.sleep(0.2)
    assert show(cli, "tiny", spec.parent)["reason"] == "hpckit run was killed"

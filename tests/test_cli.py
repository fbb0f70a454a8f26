"""The command line as a whole: quick to start, clear when it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpckit.cli import COMMANDS

COSTLY = {"torch", "submitit", "pydantic", "rich", "yaml", "numpy"}


def imported(*args, cwd):
    """The packages that a command imports, by Python's own account."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hpckit", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}


@pytest.mark.parametrize("args", [["--help"], ["ls"], ["ls", "--json"], ["data"]])
def test_listing_imports_nothing_that_costs(args, tmp_path):
    assert not imported(*args, cwd=tmp_path) & COSTLY


def test_submitting_never_imports_torch(tmp_path, job):
    spec = job()
    found = imported("submit", str(spec), "--dry-run", "--cluster", "local", cwd=spec.parent)
    assert "submitit" in found
    assert "torch" not in found


def test_importing_the_package_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import hpckit; print(set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "yaml" not in done.stdout
    assert "torch" not in done.stdout


def test_load_spec_is_there_for_python(job):
    import hpckit

    assert hpckit.load_spec(job("echo hi")).name == "tiny"
    with pytest.raises(AttributeError):
        hpckit.nothing  # noqa: B018 (reading it is the test)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_line_in_the_list_is_the_first_line_of_a_command_s_own_help(command, cli):
    listed = re.sub(r"[.;:,].*", "", COMMANDS[command][1].lower()).split()
    shown = cli(command, "--help").stdout.lower()
    assert listed[0] in shown


def test_an_unknown_command_is_suggested(cli):
    assert "Did you mean 'submit'?" in cli("submitt", code=2).stderr


def test_an_unknown_option_is_usage(cli):
    assert "No such option" in cli("ls", "--nope", code=2).stderr


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["show", "nothing"], 5),
        (["logs"], 5),
        (["cancel"], 2),
        (["cancel", "nothing"], 5),
        (["submit", "none.yaml"], 5),
        (["check", "none.yaml"], 5),
        (["prune", "--older", "soon"], 2),
    ],
)
def test_mistakes_have_their_exit_code_and_no_traceback(args, code, cli):
    done = (
        cli(*args, "--cluster", "local", code=code)
        if args[0] == "submit"
        else cli(*args, code=code)
    )
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("hpckit: ")


def test_where_one_of_several_runs_is_none_that_none_was_cancelled_is_said(cli):
    assert ": nothing was cancelled" in cli("cancel", "nothing", "neither", code=5).stderr


def test_a_spec_with_errors_submits_nothing_and_tells_them_all(cli, job):
    spec = job("echo", "resorces: {}", "limits: {attempts: 0}")
    done = cli("submit", spec, "--cluster", "local", cwd=spec.parent, code=2)
    assert "resorces: unknown key" in done.stderr
    assert "limits.attempts" in done.stderr
    assert not list(spec.parent.glob("runs"))


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m hpckit --help | head -1",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_is_130(job):
    import signal
    import time

    spec = job('"sleep 60"')
    submitted = subprocess.run(
        [sys.executable, "-m", "hpckit", "submit", str(spec), "--cluster", "local", "--json"],
        cwd=spec.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    run = json.loads(submitted.stdout)["runs"][0]["run"]
    watching = subprocess.Popen(
        [sys.executable, "-m", "hpckit", "watch", run], cwd=spec.parent, stdout=subprocess.PIPE
    )
    assert watching.stdout is not None
    watching.stdout.readline()
    time.sleep(0.2)
    watching.send_signal(signal.SIGINT)
    watching.wait(timeout=10)
    subprocess.run([sys.executable, "-m", "hpckit", "cancel", run], cwd=spec.parent, check=True)
    assert watching.returncode == 130


def test_no_colour_where_nobody_sees_it(cli, job):
    spec = job()
    cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent)
    assert "\x1b" not in cli("ls", cwd=spec.parent).stdout
    assert "\x1b" not in cli("show", cwd=spec.parent).stdout


def test_completion_completes_runs(cli, job):
    spec = job()
    cli("submit", spec, "--cluster", "local", "--follow", cwd=spec.parent)
    run = json.loads(cli("show", "--json", cwd=spec.parent).stdout)["run"]
    for typed in ("ti", run.split("/")[1][:6]):
        env = {"_HPCKIT_COMPLETE": "bash_complete", "COMP_WORDS": f"hpckit show {typed}"}
        program = str(Path(sys.executable).with_name("hpckit"))
        done = subprocess.run(
            [program],
            cwd=spec.parent,
            env={**os.environ, **env, "COMP_CWORD": "2"},
            capture_output=True,
            text=True,
        )
        assert done.stdout == f"plain,{run}\n"
    assert "_HPCKIT_COMPLETE" in cli("completion", "zsh").stdout


def test_init_writes_a_job_that_runs_as_it_stands(cli, tmp_path):
    cli("init", "my job (1)")
    folder = tmp_path / "my job (1)"
    assert cli("check", cwd=folder).stdout.startswith("job.yaml: valid")
    cli("submit", "--cluster", "local", "--follow", "-s", "params.epochs=2", cwd=folder)
    told = json.loads(cli("show", "--json", cwd=folder).stdout)
    assert (told["state"], told["name"]) == ("done", "my-job-1")


def test_init_overwrites_nothing(cli, tmp_path):
    (tmp_path / "train.py").write_text("mine")
    assert "already there" in cli("init", code=2).stderr
    assert (tmp_path / "train.py").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["train.py"]


def test_json_is_json_even_with_numbers_that_it_has_no_word_for(cli, job):
    spec = job("echo", "params: {x: .nan, y: [-.inf]}")
    done = cli("submit", spec, "-n", "--json", "--cluster", "local", cwd=spec.parent)

    def refuse(word):
        raise AssertionError(word)

    told = json.loads(done.stdout, parse_constant=refuse)
    assert told["spec"]["params"] == {"x": "nan", "y": ["-inf"]}


def test_names_that_are_no_text_are_borne(cli, job):
    spec = job("sh -c 'ls *.bin | wc -l'")
    (spec.parent / ".hpckitignore").write_text("*.bin\n")
    with open(os.fsencode(spec.parent) + b"/\xff.bin", "w"):
        pass
    cli("submit", spec, "--follow", "--cluster", "local", cwd=spec.parent)
    assert cli("logs", cwd=spec.parent).stdout == "1\n"
    done = cli("submit", spec, "--json", "--cluster", "local", cwd=spec.parent)
    assert json.loads(done.stdout)["runs"]


def test_a_variable_that_is_no_text_is_refused(cli, job):
    spec = job("echo", "env: [ODD]", "params: {x: '${ODD}'}")
    environ = {"ODD": os.fsdecode(b"a\xff")}
    done = cli("check", spec, cwd=spec.parent, env=environ, code=2)
    assert "ODD holds what is no text" in done.stdout


def test_a_reader_that_goes_away_fails_no_script(cli, job):
    spec = job()
    cli("submit", spec, "--follow", "--cluster", "local", cwd=spec.parent)
    # `true` is gone before anything is written to it, as `head` may be.
    line = "set -o pipefail; $PYTHON -m hpckit show | head -1 && $PYTHON -m hpckit show | true"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=spec.parent,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_cannot_be_printed_is_submitted_all_the_same(job):
    spec = job()
    command = [sys.executable, "-m", "hpckit", "submit", str(spec), "--cluster", "local", "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, cwd=spec.parent, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 0
    assert "submitted as tiny/" in done.stderr
    assert "which cannot be printed: No space left on device" in done.stderr
    with open("/dev/full", "w") as full:
        done = subprocess.run([*command[:3], "--help"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1


def test_what_is_damaged_is_told_so(cli, job):
    spec = job()
    cli("submit", spec, "--follow", "--cluster", "local", cwd=spec.parent)
    folder = next(spec.parent.glob("runs/tiny/*"))
    (folder / "spec.json").write_text("{")
    done = cli("show", cwd=spec.parent, code=5)
    assert f"{folder}/spec.json cannot be read" in done.stderr
    (folder / "run.json").write_text("")
    done = cli("show", f"tiny/{folder.name}", cwd=spec.parent, code=5)
    assert f"{folder}/run.json cannot be read" in done.stderr
    assert "damaged" in done.stderr


def test_parameters_move_nobody_s_cursor(cli, job):
    spec = job("true", r'params: {"a\e[31m": "v\e[2J\nline", d: {"\e[2Jx": 1}}')
    cli("submit", spec, "--follow", "--cluster", "local", cwd=spec.parent)
    shown = cli("show", cwd=spec.parent).stdout
    assert "\x1b" not in shown
    assert "params  a=v line  and 1 more: hpckit show --json" in shown


def test_a_folder_that_begins_with_a_dash_can_be_entered_as_told(cli, tmp_path):
    done = cli("init", "--", "-x")
    assert "cd ./-x && hpckit submit" in done.stderr

"""Filling values into a command line."""

from __future__ import annotations

import json
import subprocess

import pytest

from hpckit.worker.command import as_word, fill, values_of

HOSTILE = [
    "plain",
    "two words",
    "it's",
    'say "hi"',
    "$(touch broken)",
    "`touch broken`",
    "${HOME}",
    "; touch broken",
    "a\nb",
    "*",
    "~",
    "-rf",
    "\\",
    "!!",
    "",
    "é漢字",
    "a&b|c>d<e",
    "#no comment",
]


def run_in_bash(command: str, value: str, cwd: object) -> list[str]:
    line, variables = fill(command, {"params.x": value})
    exports = {**variables, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["bash", "-c", line], env=exports, cwd=str(cwd), capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout))


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("quotes", ["{}", '"{}"', "'{}'", "pre'{}'post", 'pre"a {} b"post'])
def test_a_value_reaches_the_program_as_it_is_and_runs_nothing(value, quotes, tmp_path):
    import sys

    show = f"{sys.executable} -c 'import json,sys; print(json.dumps(sys.argv[1:]))' "
    placed = quotes.format("{params.x}")
    expected = quotes.replace("'", "").replace('"', "").format(value)
    assert run_in_bash(show + placed, value, tmp_path) == [expected]
    assert not (tmp_path / "broken").exists()


def test_a_value_inside_a_substitution_runs_nothing(tmp_path):
    subprocess.run(
        ["bash", "-c", fill('echo "$(echo {params.x})"', {"params.x": "; touch broken"})[0]],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert not (tmp_path / "broken").exists()


def test_other_braces_are_left_to_the_shell():
    line, _ = fill("echo ${HOME} {a,b} {params.x} {1..3}", {"params.x": 5})
    assert line == "echo ${HOME} {a,b} 5 {1..3}"


def test_words_are_what_a_program_expects():
    assert [as_word(v) for v in (True, False, None, 1e-4, 3, "a", [1, 2])] == [
        "true",
        "false",
        "",
        "0.0001",
        "3",
        "a",
        "[1, 2]",
    ]


def test_nested_parameters_have_dotted_names():
    found = values_of({"loss": {"w": 0.5}, "lr": 1})
    assert found == {"params.loss": {"w": 0.5}, "params.loss.w": 0.5, "params.lr": 1}


@pytest.mark.parametrize(
    "command",
    [
        "printf %s \"$(printf %s '{params.x}')\"",
        'printf %s "$(printf %s {params.x})"',
        "printf %s \"`printf %s '{params.x}'`\"",
        'printf %s "$( (printf %s "{params.x}") )"',
        "printf %s '{params.x}'",
        'echo "(" > /dev/null; printf %s "{params.x}"',
        'printf %s "$((1+1))" > /dev/null; printf %s {params.x}',
    ],
)
def test_inside_a_substitution_quoting_begins_anew(command):
    value = 'it\'s "two  words" $HOME'
    line, variables = fill(command, {"params.x": value})
    done = subprocess.run(
        ["bash", "-c", line], env=variables, capture_output=True, text=True, check=True
    )
    assert done.stdout == value

"""hpckit check, as a person calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hpckit.monitor import Incident, Reading
from hpckit.monitor.log.tryout import SHOWN, Tryout

VALID = "name: a\nprogram: {command: x, processes: per_gpu}\n"
WRONG = "name: a\nprogramm: x\nresources: {time: 90}\n"


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("HPCKIT_CLUSTER", raising=False)

    def check(text: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
        if text is not None:
            Path("job.yaml").write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "hpckit", "check", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return check


def test_a_valid_spec_is_one_line_that_says_what_it_asks_for(check) -> None:  # type: ignore[no-untyped-def]
    text = VALID + "resources: {gpus_per_node: 4}\nsweep: {seeds: 12}\n"
    done = check(text)
    assert done.stdout == "job.yaml: valid (12 runs, 1 node with 4 GPUs each, 1h an attempt)\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_every_error_is_a_line_on_stdout_and_their_number_is_on_stderr(check) -> None:  # type: ignore[no-untyped-def]
    done = check(WRONG)
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        "job.yaml:1:1: program: is missing",
        "job.yaml:2:1: programm: unknown key; did you mean 'program'?",
        "job.yaml:3:19: resources.time: 90 has no unit: write 90h, 90m or 90s",
    ]
    assert done.stderr == "3 errors\n"


def test_json_has_the_same_in_stable_keys(check) -> None:  # type: ignore[no-untyped-def]
    done = check(WRONG, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["valid"], len(told["errors"])) == (2, False, 3)
    assert told["errors"][2] == {
        "file": "job.yaml",
        "line": 3,
        "column": 19,
        "path": "resources.time",
        "message": "90 has no unit: write 90h, 90m or 90s",
    }
    assert json.loads(check(VALID, "--json").stdout) == {"valid": True, "errors": []}


def test_settings_are_checked_with_the_spec(check) -> None:  # type: ignore[no-untyped-def]
    assert check(WRONG, "-s", "programm=null", "-s", "resources.time=1h").returncode == 2
    done = check(VALID, "--set", "resources.tim=1h")
    assert done.stdout.startswith("-s resources.tim=1h:1:1: resources.tim: unknown key")


def test_a_cluster_profile_is_put_under_the_spec(check) -> None:  # type: ignore[no-untyped-def]
    Path(".config/hpckit/clusters").mkdir(parents=True)
    Path(".config/hpckit/clusters/big.yaml").write_text("resources: {nodes: 3}\n")
    assert "3 nodes each" in check(VALID, "--cluster", "big").stdout
    done = check(VALID, "--cluster", "bog")
    assert done.returncode == 2
    assert "no cluster profile 'bog'; did you mean 'big'?" in done.stdout


def test_a_missing_spec_is_not_found_and_a_folder_is_a_wrong_call(check) -> None:  # type: ignore[no-untyped-def]
    done = check(None, "no.yaml")
    assert (done.returncode, done.stdout) == (5, "")
    assert "no file no.yaml" in done.stderr
    assert check(None, ".").returncode == 2


def test_the_schema_can_be_printed_without_a_spec(check) -> None:  # type: ignore[no-untyped-def]
    done = check(None, "--schema")
    assert json.loads(done.stdout)["properties"]["program"]


def test_a_rule_of_ones_own_that_is_not_there_is_a_warning(check) -> None:  # type: ignore[no-untyped-def]
    text = VALID + "monitor: {rules: {rules.py:Own: on}}\n"
    done = check(text)
    warning = f"monitor.rules.rules.py:Own: there is no rules.py in {Path.cwd()}"
    assert (done.returncode, done.stderr) == (0, f"warning: {warning}\n")
    Path("rules.py").write_text("class Owned: ...\n")
    done = check(text)
    assert done.returncode == 2
    assert "rules.py defines no Own; did you mean 'Owned'?" in done.stdout


def test_help_does_not_import_yaml(check) -> None:  # type: ignore[no-untyped-def]
    code = (
        "import sys, hpckit.cli.check as c\n"
        "c.check.main(['--help'], standalone_mode=False)\n"
        "sys.exit('yaml' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode
        == 0
    )


FOUNDING = "".join(
    f"Epoch {1 + n // 100}, Batch {1 + n % 100}/100: Loss: 2.{n % 10} Gradient norm: {norm}\n"
    for n, norm in enumerate([6.9] * 290 + ["nan"] * 10)
)


def test_patterns_are_tried_on_a_log_of_long_ago(cli, job, tmp_path):
    log = tmp_path / "old.log"
    log.write_text(FOUNDING)
    spec = job("python t.py", "monitor: {log: founding}")
    lines = cli("check", spec, "--log", log).stdout.splitlines()
    assert lines[1].startswith(f"{log}: 300 readings, steps ")
    assert any(line.split()[:3] == ["grad/norm/main", "300", "times,"] for line in lines)
    assert any("act" in line and "gradient norm nan, 3 steps running" in line for line in lines)
    found = json.loads(cli("check", spec, "--log", log, "--json").stdout)["log"]
    assert found["readings"] == 300
    assert [each["acts"] for each in found["incidents"]][:3] == [False, False, True]


def test_a_log_is_tried_with_the_rules_beside_the_spec(cli, job, tmp_path):
    log = tmp_path / "old.log"
    log.write_text("Epoch 1: Loss: 2\n")
    spec = job("python t.py", "monitor: {log: founding, rules: {rules.py:AnyLoss: on}}")
    (spec.parent / "rules.py").write_text(
        "from hpckit.monitor import Rule\n\n\nclass AnyLoss(Rule):\n"
        "    def observe(self, reading):\n        return self.tell(reading, 'a loss')\n"
    )
    assert "  tell  step 1: a loss" in cli("check", spec, "--log", log).stdout.splitlines()


def test_of_many_incidents_in_a_log_the_first_are_shown_and_the_rest_is_counted():
    incidents = [Incident(kind="k", step=n, answer="skip", said="bad") for n in range(SHOWN + 5)]
    tried = Tryout(incidents=incidents)
    tried.add(Reading(step=1, values={"train/loss": 1.0}))
    lines = tried.lines()
    assert sum("bad" in line for line in lines) == SHOWN
    assert lines[-1] == "  and 5 more"


def test_a_log_in_which_nothing_matches_is_an_error(cli, job, tmp_path):
    log = tmp_path / "old.log"
    log.write_text("nothing of interest\n")
    result = cli("check", job("python t.py", "monitor: {log: keras}"), "--log", log, code=1)
    assert "no line of it matches" in result.stdout
    result = cli("check", job("python t.py"), "--log", log, code=2)
    assert "no monitor.log" in result.stderr

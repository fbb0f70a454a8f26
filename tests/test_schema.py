"""The JSON Schema that editors use, and the model, are one declaration."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import hpckit
from hpckit import yamlio
from hpckit.cli.check import schema_text
from hpckit.errors import Problem, SpecError
from hpckit.model.fields import build, json_schema
from hpckit.spec import JobSpec, spec_from_json

SCHEMA = json_schema(JobSpec)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

# What a schema cannot say and the model does. Nothing else may differ.
BEYOND_A_SCHEMA = (
    r"must be at least (1m|1s|1M)",  # a duration's or size's value, not its spelling
    r"is short for --",  # sbatch takes any unambiguous beginning of an option
    r"hpckit manages GPUs",  # only some values of --gres
    r"is given twice",  # mail_user beside mail-user
    r"must not hold a NUL character",  # in params, which may be anything
)

FULL: dict[str, Any] = {
    "name": "creative-agent",
    "program": {"command": "python t.py {params.lr}", "processes": "per_gpu"},
    "params": {"epochs": 200, "lr": 2e-4, "loss": {"correlation": 0.5}, "tags": ["a", None]},
    "resources": {
        "nodes": 1,
        "gpus_per_node": "a100:4",
        "cpus_per_gpu": 8,
        "memory": "64G",
        "time": "24h",
        "partition": "gpu",
        "account": "speech",
    },
    "slurm": {"qos": "long", "exclusive": True, "mail_user": "a@b", "nice": 5, "gres": "nvme:1"},
    "environment": {
        "modules": ["cuda"],
        "conda": "audio",
        "container": {"image": "a.sif", "bind": ["/data"]},
        "variables": {"OMP_NUM_THREADS": 8, "EMPTY": ""},
        "setup": ["ulimit -n 4096"],
    },
    "checkpoint": {"every": "10m", "keep": 3, "before_end": "5m", "files": ["g_{step}"]},
    "monitor": {
        "optimizers": {
            "generator": {"clip": 10},
            "discriminator": {
                "clip": {"groups": {"0": {"percentile": 10, "of": 500}, "head": {"value": 2}}}
            },
        },
        "rules": {
            "clip_saturation": "on",
            "learning_rate_stuck": False,
            "loss_flat": {"steps": 300, "within": 0.1},
            "rules.py:LossTooHigh": {"above": 8},
        },
        "log": {"patterns": ["(?P<loss>.*)"]},
    },
    "heal": {
        "explosion": {
            "do": "rollback",
            "change": {"clip": "x0.5", "params.lr": {"times": 0.5, "min": 1e-5}},
            "of": "blamed",
            "skip_batches": 100,
        },
        "hang": {"after": "auto", "do": "relaunch", "limit": 2},
        "out_of_memory": {"do": "resubmit", "change": {"resources.memory": "x1.5"}},
    },
    "limits": {"attempts": 12, "gpu_hours": 200, "total": "10d"},
    "sweep": {"grid": {"loss.correlation": [0.05, 0.1]}, "seeds": [1, 2], "at_most": 8},
    "hooks": {"on_incident": ["./notify.sh"]},
    "notify": {"mail": "ana@uni.example", "on": ["incident", "done"]},
    "env": ["USER"],
    "scratch": "/scratch",
    "include": [],
}
SMALL: dict[str, Any] = {"name": "a", "program": "python train.py"}
JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 7, 3.0, 2.5, -0.5, 10**9, "", "x", "on", "off", "true", "auto",
    "24h", "1h30m", "0s", "90", "1:30", "12:00:00", "64G", "0M", "1.5T", "x0.5", "x0", "=0.5", "=",
    "a100:4", "a100:0", "per_gpu", "t.py:Name", "gpu:2", "a\nb", "x\n", "\0", "-x", "a b", "ü", "7",
    [], [1], ["x"], [None], [[]], {}, {"x": 1}, {"times": 2}, {"command": "x"}, {"clip": 1},
]  # fmt: skip
NAMES = [
    "name", "time", "tim", "arr", "array", "job_name", "gres", "mail-user", "RANK", "SLURM_X", "A1",
    "1A", "a b", "", "clip", "params.lr", "resources.time", "resources.", "hang", "drift", "..",
    "a.b", "Upper", "x\n", "include", "seeds", "grid", "zip", "image", "log", "steps", "norm",
    "a.py:B", "gpu_idle", "groups",
]  # fmt: skip


def refused_by_model(document: Any) -> list[Problem]:
    problems: list[Problem] = []
    node = yamlio.from_json(copy.deepcopy(document), "f", problems)
    assert node is not None
    build(JobSpec, node, problems)
    return problems


def containers(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        yield value
        for each in value.values() if isinstance(value, dict) else value:
            yield from containers(each)


def mutated(document: Any, chance: random.Random) -> Any:
    found = copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        place = chance.choice(list(containers(found)))
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = chance.choice(keys) if keys else None
        action = chance.random()
        if key is None or action < 0.25:
            if isinstance(place, dict):
                place[chance.choice(NAMES)] = copy.deepcopy(chance.choice(JUNK))
            else:
                place.append(copy.deepcopy(chance.choice(JUNK)))
        elif action < 0.35:
            del place[key]
        else:
            place[key] = copy.deepcopy(chance.choice(JUNK))
    return found


def test_the_committed_schema_is_the_one_of_the_model() -> None:
    committed = Path(hpckit.__file__).with_name("spec.schema.json")
    assert committed.read_text(encoding="utf-8") == schema_text(), (
        "regenerate it: hpckit check --schema > hpckit/spec.schema.json"
    )


def test_the_schema_is_a_schema_and_explains_every_field() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for name, field in SCHEMA["properties"].items():
        assert field["description"], name
    assert "patternProperties" not in json.dumps(SCHEMA)


@pytest.mark.parametrize("document", [FULL, SMALL], ids=["full", "small"])
def test_valid_specs_are_valid_for_both(document: dict[str, Any]) -> None:
    assert refused_by_model(document) == []
    assert list(VALIDATOR.iter_errors(document)) == []


def test_a_resolved_spec_is_valid_for_both() -> None:
    document = {**FULL, "environment": {"venv": "/v"}}
    resolved = json.loads(json.dumps(spec_from_json(document).to_json()))
    assert refused_by_model(resolved) == []
    assert list(VALIDATOR.iter_errors(resolved)) == []


def test_schema_and_model_accept_the_same_documents() -> None:
    chance = random.Random(20260720)
    counts = {"accepted": 0, "refused": 0, "beyond": 0}
    for number in range(3_000):
        document = mutated(chance.choice((FULL, FULL, FULL, SMALL)), chance)
        problems, valid = refused_by_model(document), VALIDATOR.is_valid(document)
        beyond = bool(problems) and all(
            any(re.match(each, problem.message) for each in BEYOND_A_SCHEMA) for problem in problems
        )
        counts["beyond" if beyond else "refused" if problems else "accepted"] += 1
        if not beyond:
            assert valid == (not problems), (number, document, problems)
    assert min(counts["accepted"], counts["refused"]) > 800
    assert counts["beyond"] > 10


def test_whatever_is_mutated_ends_in_a_spec_or_in_problems_never_in_a_crash() -> None:
    chance = random.Random(7)
    made = 0
    for _ in range(2_000):
        document = mutated(chance.choice((FULL, SMALL)), chance)
        try:
            spec = spec_from_json(document)
        except SpecError:
            continue
        made += 1
        assert spec_from_json(json.dumps(spec.to_json())) == spec
        problems: list[Problem] = []
        node = yamlio.compose(json.dumps(spec.to_json()), "f", problems)
        assert node is not None
        assert build(JobSpec, node, problems) == spec, problems
    assert made > 300

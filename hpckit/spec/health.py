"""What a spec may say of health rules: which there are, and their settings.

The rules stand in hpckit/monitor/rules. This table lets a spec be read without them, and a test
holds the two together.
"""

from __future__ import annotations

import re
from typing import Any

from hpckit import yamlio
from hpckit.errors import Problem
from hpckit.model.kinds import (
    BAD,
    Kind,
    MapOf,
    Number,
    Schema,
    Text,
    Truth,
    Whole,
    anchored,
    complain,
    described,
    did_you_mean,
)

# The detector's own kind, turned on and off like a rule.
SATURATION = "clip_saturation"
SETTINGS: dict[str, dict[str, type[int] | type[float]]] = {
    SATURATION: {},
    "learning_rate_stuck": {"epochs": int},
    "learning_rate_off_schedule": {"within": float, "steps": int},
    "learning_rate_after_warmup": {"within": float},
    "steps_without_data": {"batches": int},
    "same_batch": {"times": int},
    "epoch_incomplete": {"within": float},
    "data_time_share": {"above": float, "steps": int},
    "features_non_finite": {"above": float, "batches": int},
    "weights_still": {"below": float, "steps": int},
    "loss_flat": {"within": float, "steps": int},
    "first_loss": {"within": float},
    "loss_not_falling": {"fall": float, "steps": int},
    "validation_overdue": {"times": float},
    "pesq_below_best": {"below": float, "evaluations": int},
    "metric_constant": {"within": float, "items": int},
    "device_not_used": {},
    "gpu_idle": {"above": float, "looks": int},
    "discriminator_winning": {"warn": float, "fail": float, "steps": int, "adversarial": float},
    "discriminator_not_updated": {"below": float, "steps": int},
    "target_spread_zero": {"within": float, "batches": int},
    "scale_mismatch": {"low": float, "high": float, "steps": int, "at_first": int},
    "one_class": {"above": float, "steps": int},
    "codebook_unused": {"below": float, "steps": int, "at_first": int},
    "scores_failed": {"warn": float, "fail": float, "batches": int},
    "scores_nan": {},
}  # fmt: skip
RULES = tuple(SETTINGS)
# Whose answer is to act; all others tell.
ACTING = ("steps_without_data", "scores_nan")

# A user's own: a file of the job's folder and a class in it.
OWN = r"[^:\x00-\x1f\x7f-][^:\x00-\x1f\x7f]*\.py:[A-Za-z_][A-Za-z0-9_]*"


class HealthRules(Kind):
    """Health rules by name, each on, off, or with settings."""

    of_own = MapOf(
        item=Number(), key=Text(pattern="[A-Za-z][A-Za-z0-9_]*", expected="a setting's name")
    )

    def read(self, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        if not isinstance(node, yamlio.Mapping):
            return complain(problems, node, path, f"must be a mapping, not {described(node)}")
        found = {}
        for name, each in node.pairs.items():
            where = f"{path}.{name}"
            if name not in SETTINGS and not re.fullmatch(OWN, name):
                complain(problems, node.keys[name], where, _unknown(name))
                continue
            value = self._value(name, each, problems, where)
            if value is not BAD:
                found[name] = value
        return found

    def _value(self, name: str, node: yamlio.Node, problems: list[Problem], path: str) -> Any:
        settings = SETTINGS.get(name)
        if not isinstance(node, yamlio.Mapping) or name == SATURATION:
            return Truth().read(node, problems, path)
        if settings is None:
            return self.of_own.read(node, problems, path)
        found = {}
        for key, each in node.pairs.items():
            where = f"{path}.{key}"
            if key not in settings:
                message = "unknown setting" + did_you_mean(key, list(settings))
                complain(problems, node.keys[key], where, message)
            else:
                found[key] = _kind(settings[key]).read(each, problems, where)
        return {key: value for key, value in found.items() if value is not BAD}

    def schema(self) -> Schema:
        truth = Truth().schema()
        properties = {
            name: {"anyOf": [truth, _settings_schema(settings)]}
            for name, settings in SETTINGS.items()
        }
        return {
            "type": "object",
            "properties": {**properties, SATURATION: truth},
            "propertyNames": {"anyOf": [{"enum": list(RULES)}, {"pattern": anchored(OWN)}]},
            "additionalProperties": {"anyOf": [truth, self.of_own.schema()]},
        }


def _kind(of: type[int] | type[float]) -> Kind:
    return Whole(min=1) if of is int else Number(above=0)


def _settings_schema(settings: dict[str, type[int] | type[float]]) -> Schema:
    return {
        "type": "object",
        "properties": {key: _kind(of).schema() for key, of in settings.items()},
        "additionalProperties": False,
    }


def _unknown(name: str) -> str:
    if ".py" in name or ":" in name:
        return "must be a file and a class for a rule of your own, such as rules.py:LossTooHigh"
    return "unknown" + did_you_mean(name, RULES)

"""All rules of a training: each is asked only about readings that have what it looks at."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.rules import make_rules
from hpckit.monitor.rules.base import Rule, Watch, covered

Look = Callable[[Reading, float, str], Incident | None]
Learn = Callable[[str, float], None]
Observe = Callable[[Reading], Incident | None]
# A program whose names change from step to step must not fill the memory.
PLANS_LIMIT = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Who looks at what in readings with the same names."""

    learns: list[tuple[str, Learn]] = field(default_factory=list)
    # The value's name, the rule's look, and what comes after the rule's prefix.
    looks: list[tuple[str, Look, str]] = field(default_factory=list)
    observes: list[Observe] = field(default_factory=list)


class Rules:
    """Health rules, asked together."""

    def __init__(
        self, rules: Iterable[Rule] | None = None, *, refused: Mapping[str, str] | None = None
    ) -> None:
        """`refused`: rules that could not be made, and why; told with the first reading."""
        self._refused = dict(refused or {})
        self.rules = {each.name(): each for each in (make_rules({}) if rules is None else rules)}
        self._plans: dict[tuple[str, ...], Plan] = {}

    @classmethod
    def of(cls, settings: Mapping[str, Any], folder: Path | None = None) -> Rules:
        """As a spec's `monitor.rules` asks for them; a rule with a mistake costs no other."""
        refused: dict[str, str] = {}
        return cls(make_rules(settings, folder, refused=refused), refused=refused)

    def observe(self, reading: Reading) -> list[Incident]:
        """Take in one step, and tell all that is wrong."""
        values = reading.values
        key = tuple(values)
        plan = self._plans.get(key) or self._planned(key)
        found = self._tell_refused(reading) if self._refused else []
        for name, learn in plan.learns:
            learn(name, values[name])
        for name, look, of in plan.looks:
            value = values[name]
            # False for infinities and NaN, which no rule of this kind may see.
            if value - value == 0:
                try:
                    incident = look(reading, value, of)
                except Exception as error:
                    incident = self._failed(look, reading, error)
                if incident is not None:
                    found.append(self._checked(look, reading, incident))
        for observe in plan.observes:
            try:
                incident = observe(reading)
            except Exception as error:
                incident = self._failed(observe, reading, error)
            if incident is not None:
                found.append(self._checked(observe, reading, incident))
        return found

    def _tell_refused(self, reading: Reading) -> list[Incident]:
        refused, self._refused = self._refused, {}
        return [
            Incident(
                kind="rule_refused",
                step=reading.step,
                answer="tell",
                said=f"monitor.rules: {why}; this rule is off",
            )
            for why in refused.values()
        ]

    def _planned(self, names: tuple[str, ...]) -> Plan:
        if len(self._plans) >= PLANS_LIMIT:
            self._plans.clear()
        plan = self._plans[names] = Plan()
        for rule in self.rules.values():
            # A user's own observe is what he wants asked, whatever it is derived from.
            if isinstance(rule, Watch) and type(rule).observe is Watch.observe:
                start = len(rule.value)
                plan.learns.extend((name, rule.learn) for name in covered(rule.facts, names))
                watched = covered((rule.value,), names)
                plan.looks.extend((name, rule.look, name[start:]) for name in watched)
            elif not rule.needs or any(covered(rule.needs, names)):
                plan.observes.append(rule.observe)
        return plan

    def _checked(self, method: Any, reading: Reading, incident: Any) -> Incident:
        """A user's own rule may answer with anything."""
        if isinstance(incident, Incident):
            return incident
        answer = type(incident).__name__
        return self._failed(
            method, reading, TypeError(f"it must return self.tell(...), not {answer}")
        )

    def _failed(self, method: Any, reading: Reading, error: Exception) -> Incident:
        """A rule with a mistake is told and left out: it must not end the training."""
        rule: Rule = method.__self__
        self.rules.pop(rule.name(), None)
        # A new one each: the present plan is being walked through.
        self._plans = {}
        what = f"{type(error).__name__}: {error}"
        return Incident(
            kind=rule.name(),
            step=reading.step,
            answer="tell",
            said=f"the rule itself failed and is off from here: {what}",
        )

    def went_back(self) -> None:
        """The run was rolled back."""
        for rule in self.rules.values():
            rule.went_back()

    def state_dict(self) -> dict[str, Any]:
        found = {}
        for name, rule in self.rules.items():
            # A user's own may hold what cannot be saved; that must not cost a checkpoint.
            with contextlib.suppress(Exception):
                found[name] = rule.state_dict()
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        # The spec may have turned rules on or off since.
        for name, rule in self.rules.items():
            if name in state:
                rule.load_state_dict(state[name])

"""All that watches one training: a detector for each optimizer, and the health rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hpckit.monitor import reading as names
from hpckit.monitor.blame import Detail, blame
from hpckit.monitor.detector import Detector
from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.rules.rules import Rules

if TYPE_CHECKING:
    from pathlib import Path

    from hpckit.spec.parts import Monitor

# Newest first: the norms of an optimizer's parameters in this step and the ones before.
Details = Callable[[str], Iterable[Detail]]
SATURATION = "clip_saturation"
# No single parameter's norm is behind these.
OF_ALL = ("loss_lost", SATURATION)


class Lookout:
    """Takes in readings in order of step, answers with incidents."""

    def __init__(
        self,
        *,
        rules: Rules | None = None,
        clips: Mapping[str, float] | None = None,
        tells_saturation: bool = True,
        **detector: Any,
    ) -> None:
        self.rules = rules if rules is not None else Rules()
        self.clips = dict(clips or {})
        self.tells_saturation = tells_saturation
        # Optimizers that are clipped to a percentile: it clips a fixed share, by its nature.
        self.by_percentile: set[str] = set()
        self.detectors: dict[str, Detector] = {}
        self._settings = detector
        self._plans: dict[tuple[str, ...], list[tuple[Detector, tuple[str, ...]]]] = {}

    @classmethod
    def of(cls, monitor: Monitor | None, folder: Path | None = None) -> Lookout:
        """As a spec asks for it; a user's own rules are found in `folder`."""
        if monitor is None:
            return cls()
        settings = dict(monitor.rules)
        tells = bool(settings.pop(SATURATION, True))
        clips = {
            name: optimizer.clip.norm
            for name, optimizer in monitor.optimizers.items()
            if optimizer.clip is not None and optimizer.clip.norm is not None
        }
        return cls(rules=Rules.of(settings, folder), clips=clips, tells_saturation=tells)

    def detector(self, optimizer: str) -> Detector:
        """The watchman of an optimizer, made when it is first seen."""
        found = self.detectors.get(optimizer)
        if found is None:
            found = Detector(optimizer=optimizer, clip=self.clips.get(optimizer), **self._settings)
            self.detectors[optimizer] = found
        return found

    def limit(self, optimizer: str) -> float:
        """The largest norm that may be applied now."""
        found = self.detectors.get(optimizer)
        return math.inf if found is None else found.limit

    def bounds(self, optimizer: str) -> tuple[float, float]:
        """The norm that is usual now, and the largest that may be applied."""
        found = self.detectors.get(optimizer)
        return (math.nan, math.inf) if found is None else (found.usual, found.limit)

    def observe(self, reading: Reading, details: Details | None = None) -> list[Incident]:
        """Take in one step; what is wrong, in no particular order."""
        found = []
        for detector, (loss, norm, gated, clip, scale) in self._plan(reading):
            get = reading.values.get
            held = get(gated)
            incident = detector.observe(
                step=reading.step,
                loss=get(loss),
                norm=get(norm),
                gated=None if held is None else held > 0,
                factor=None if detector.optimizer in self.by_percentile else get(clip),
                scale=get(scale),
            )
            if incident is not None and self._wanted(incident):
                found.append(self._blamed(incident, reading, details))
        return found + self.rules.observe(reading)

    def _wanted(self, incident: Incident) -> bool:
        return self.tells_saturation or incident.kind != SATURATION

    def _blamed(self, incident: Incident, reading: Reading, details: Details | None) -> Incident:
        optimizer = incident.optimizer or names.MAIN
        if incident.kind in OF_ALL:
            return incident
        if optimizer in reading.parameters:
            return blame(incident, [(reading.step, reading.parameters[optimizer])])
        return incident if details is None else blame(incident, details(optimizer))

    def _plan(self, reading: Reading) -> list[tuple[Detector, tuple[str, ...]]]:
        """Whose readings these are, and under which names: the same at nearly every step."""
        key = tuple(reading.values)
        found = self._plans.get(key)
        if found is None:
            found = self._plans[key] = self._new_plan(reading)
        return found

    def _new_plan(self, reading: Reading) -> list[tuple[Detector, tuple[str, ...]]]:
        optimizers = list(reading.group(names.NORM))
        own = f"{names.LOSS}/"
        if not optimizers:
            optimizers = list(reading.group(names.LOSS))
        if not optimizers and names.LOSS in reading.values:
            optimizers = [names.MAIN]
        plan = []
        for optimizer in optimizers:
            loss = own + optimizer if own + optimizer in reading.values else names.LOSS
            others = (names.NORM, names.GATED, names.CLIP, names.SCALE)
            plan.append(
                (self.detector(optimizer), (loss, *(f"{each}/{optimizer}" for each in others)))
            )
        return plan

    def went_back(self, step: int) -> None:
        """The run goes on from a step of before."""
        for detector in self.detectors.values():
            detector.went_back(step)
        self.rules.went_back()

    def forget(self, optimizer: str) -> None:
        """Another optimizer has this name from now on."""
        self.detectors.pop(optimizer, None)
        # They hold on to the detector.
        self._plans.clear()

    def state_dict(self) -> dict[str, Any]:
        return {
            "detectors": {name: each.state_dict() for name, each in self.detectors.items()},
            "rules": self.rules.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.detectors.clear()
        # They hold on to the detectors of before.
        self._plans.clear()
        for name, each in state["detectors"].items():
            self.detector(name).load_state_dict(each)
        self.rules.load_state_dict(state["rules"])

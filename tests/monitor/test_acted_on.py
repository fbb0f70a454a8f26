"""The spec refuses remedies that nobody would ask for: it must know what is ever acted on."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from hpckit.monitor import Detector, Incident
from hpckit.spec.parts import ACTED_ON, NUMERIC, SKIPPED


def troubled(seed: int) -> Iterator[tuple[float, float]]:
    """Losses and norms of a training that meets one trouble after the other."""
    luck = random.Random(seed)
    loss, norm, grows = 2.0, 5.0, 1.0
    for step in range(1500):
        if step % 100 == 99:
            grows = luck.choice([1.0, 1.0, 1.0, 1.02, 1.3])
            loss *= luck.choice([1.0, 1.0, 0.2, 30.0])
            norm *= luck.choice([1.0, 1.0, 30.0, 0.1])
        if grows > 1.0 and norm > 1e7:
            loss, norm, grows = 2.0, 5.0, 1.0
        loss, norm = loss * grows, norm * grows
        odd = luck.choice([math.nan, math.inf, 1e5 * norm]) if luck.random() < 0.01 else 1.0
        yield loss * luck.uniform(0.9, 1.1), norm * odd * luck.uniform(0.8, 1.2)


def found() -> Iterator[Incident]:
    for seed in range(40):
        detector = Detector(clip=1.0 if seed % 2 else None)
        for step, (loss, norm) in enumerate(troubled(seed)):
            incident = detector.observe(step=step, loss=loss, norm=norm)
            if incident is not None:
                yield incident


def test_what_the_detector_acts_on_is_what_the_spec_lets_one_heal() -> None:
    answers: dict[str, set[str]] = {kind: set() for kind in NUMERIC}
    for incident in found():
        answers[incident.kind].add(incident.answer)
    assert all(answers.values()), answers
    acted_on = {kind for kind, told in answers.items() if "act" in told}
    assert acted_on == set(ACTED_ON) & set(NUMERIC)
    assert answers[SKIPPED] == {"skip"}
    assert answers["drift"] == answers["clip_saturation"] == {"tell"}

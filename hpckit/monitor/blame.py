"""Which parameter is going wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from hpckit.monitor.incident import Incident


def blame(incident: Incident, details: Iterable[Mapping[str, float]]) -> Incident:
    """Name the worst parameter, by the norms of this step or, newest first, of those before.

    Of a step whose norms are all non-finite nothing can be told: the step before shows where it
    grew. Where only some are, the first of them in the model is where it began.
    """
    for norms in details:
        finite = {name: norm for name, norm in norms.items() if math.isfinite(norm)}
        if len(finite) == len(norms):
            return _worst(incident, finite) if finite else incident
        if finite:
            first = next(name for name in norms if name not in finite)
            return dataclasses.replace(incident, parameter=first)
    return incident


def _worst(incident: Incident, norms: Mapping[str, float]) -> Incident:
    name = max(norms, key=lambda each: norms[each])
    largest = norms[name]
    if largest <= 0:
        return incident
    # Scaled first: the square of 1e200 is no number any more.
    squares = sum((norm / largest) ** 2 for norm in norms.values())
    return dataclasses.replace(incident, parameter=name, share=1 / squares)

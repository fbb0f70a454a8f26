"""Which parameter is going wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from hpckit.monitor.incident import Incident

# A step, and the norm of each parameter in it.
Detail = tuple[int, Mapping[str, float]]


def blame(incident: Incident, details: Iterable[Detail]) -> Incident:
    """Name the worst parameter, by the norms of this step or, newest first, of those before.

    Of a step whose norms are all non-finite nothing can be told. What has grown shows in the step
    before; a bad batch shows nowhere, and no parameter is to blame for it. Where only some are
    non-finite, the first of them in the model is where it began.
    """
    for step, norms in details:
        if step < incident.step and not incident.acts:
            break
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

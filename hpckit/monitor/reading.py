"""What one step measured: numbers by name, the same names everywhere.

    train/loss             the loss; of several optimizers train/loss/<optimizer>
    train/<name>           a component of it, or whatever else the training logs
    val/<name>             what a validation found
    grad/norm/<optimizer>  total gradient norm before clipping
    grad/clip/<optimizer>  the factor that clipping applied, 1 where it did nothing
    grad/usual/<optimizer> the norm that is usual, once that is known
    grad/limit/<optimizer> the norm above which an update is held back
    grad/gated/<optimizer> 1 where the update was held back
    grad/group/<optimizer>/<group>  norm of a parameter group that is clipped apart
    grad/scale/<optimizer> the scale of a float16 training's loss
    weights/update/<optimizer>  size of the update over size of the weights
    lr/<optimizer>         learning rate
    progress/total         steps that the training will have done at its end
    time/step, time/data   seconds of the whole step, and of waiting for its data
    memory/gpu, memory/host  GB that rank 0's torch holds of its GPU, and its process; once a second

A slash groups: TensorBoard and W&B show one page a first word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LOSS = "train/loss"
NORM = "grad/norm"
CLIP = "grad/clip"
GATED = "grad/gated"
SCALE = "grad/scale"
USUAL = "grad/usual"
LIMIT = "grad/limit"
GROUP = "grad/group"
UPDATE = "weights/update"
RATE = "lr"
TOTAL = "progress/total"
# The name of an optimizer that nobody named.
MAIN = "main"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The numbers of one step."""

    step: int
    values: Mapping[str, float]
    # Seconds since the epoch; None where nobody looked at a clock.
    time: float | None = None
    # By optimizer: each parameter's own gradient norm, where it was kept.
    parameters: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def get(self, name: str) -> float | None:
        return self.values.get(name)

    def group(self, prefix: str) -> dict[str, float]:
        """What stands under a prefix, by what comes after it: `lr` -> {generator: 2e-4}."""
        start = prefix + "/"
        return {
            name.removeprefix(start): value
            for name, value in self.values.items()
            if name.startswith(start)
        }

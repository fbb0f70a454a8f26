"""What makes a stage's output shrink, on purpose: a trust rule that was put on the wrong thing.

A rule that many optimizers have: where an update moves a weight by more than a share of its size,
scale the *update* down. Here it scales the *weight* down, and gives it back where updates are
small. In front of a rescale nothing of that can be heard: what the projection makes is brought to
the target's loudness whatever its size. But its gradient grows as it shrinks, and the same update
moves it by more, so it is scaled down further: once begun it does not end, and the further the
faster. A learning rate whose updates move the weight by less than that share never begins it.

With next to no trust every update is too much, whatever the learning rate: see structural.yaml.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The weight does not become smaller than this share of its first size.
LEAST = 1e-7
# Where updates are well below the trust it is given back so many times faster than it was taken.
WELL_BELOW, BACK = 1.25, 30


class Amplifier(nn.Module):
    """Scales a weight by (trust / moved) ** power after each update that moved it too much."""

    size: Tensor
    updates: Tensor
    moved: Tensor

    def __init__(self, weight: Tensor, *, trust: float, power: float, after: int = 0) -> None:
        """`trust`: a share of the weight's size. `after`: so many updates are left alone."""
        super().__init__()
        self.trust, self.power, self.after = trust, power, after
        # State, so that a rollback finds it: the weight's first size, and updates by now.
        self.register_buffer("size", weight.detach().norm())
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        # The share of its size that the last update moved it by.
        self.register_buffer("moved", torch.zeros(()))

    @torch.no_grad()
    def scale(self, weight: Tensor, before: Tensor) -> None:
        """Take an update that has moved a weight from `before` to what it is."""
        was = before.norm()
        self.moved.copy_((weight - before).norm() / was)
        if not self.moved > 0:
            # Held back.
            return
        self.updates += 1
        if self.updates > self.after:
            factor = self.trust / self.moved
            wanted = was * factor ** (self.power * (BACK if factor > WELL_BELOW else 1))
            weight.mul_(wanted.clamp(LEAST * self.size, self.size) / weight.norm())

"""Way 2: any PyTorch program, unedited. Its optimizers are watched, gated and clipped.

    program: {python: train.py --lr 1e-3, attach: optimizers}

`install` is called when the program has imported torch; what costs more waits for the first step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpckit.integrations.attached.attached import Attached

_attached: Attached | None = None


def install() -> None:
    """Watch this process, if it belongs to a run."""
    global _attached
    from hpckit.train.surroundings import Surroundings

    around = Surroundings.of()
    if around is None or _attached is not None:
        return
    from hpckit.integrations.attached.attached import Attached
    from hpckit.integrations.attached.hooks import Hooks

    _attached = Attached(around)
    Hooks(_attached).bind()


def leave() -> None:
    """The interpreter ends: with the code that was decided on, if one was."""
    if _attached is not None:
        _attached.ending.leave()

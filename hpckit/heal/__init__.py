"""What is done about an incident: pure decisions, from the history of a run and its spec.

Nothing here imports torch, reads a file or looks at a clock: whoever asks the same gets the same.
"""

from __future__ import annotations

from hpckit.heal.past import Past
from hpckit.heal.plan import Plan
from hpckit.heal.policy import decide
from hpckit.heal.rules import Rules

__all__ = ["Past", "Plan", "Rules", "decide"]

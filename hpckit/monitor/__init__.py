"""What watches a training: the detector, the health rules, the log reader, the readings.

Nothing here imports torch but `gradients`, which is the device's side.
"""

from __future__ import annotations

from hpckit.monitor.detector import Detector
from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.rules.base import Rule

__all__ = ["Detector", "Incident", "Reading", "Rule"]

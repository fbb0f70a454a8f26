"""Rules about the device: asked for and not used, or idle."""

from __future__ import annotations

from hpckit.monitor.incident import Incident
from hpckit.monitor.reading import Reading
from hpckit.monitor.rules.base import Watch


class DeviceNotUsed(Watch):
    """A GPU was asked for, and the parameters are on the CPU."""

    value = "device/used"
    facts = ("device/asked",)

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        asked = self.known.get("device/asked", 0)
        if not self.lasting(asked > 0 and value <= 0):
            return None
        said = f"{asked:g} GPUs were asked for, and all parameters are on the CPU"
        return self.tell(reading, said, value=value, usual=asked)


class GpuIdle(Watch):
    """The GPU does nothing most of the time."""

    value = "gpu/idle"
    above = 0.5
    looks = 20

    def look(self, reading: Reading, value: float, of: str) -> Incident | None:
        if not self.lasting(value > self.above, self.looks):
            return None
        said = f"the GPU is idle {value:.0%} of the time, {self.looks:g} looks running"
        return self.tell(reading, said, value=value)
